/* Write-backs and fences. A write-back names a line; a fence makes all earlier write-backs of this process durable.
 * Mode msync keeps the touched range of pages and syncs it at the fence. */
#include "core.h"
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

int lk_flush_kind(void) {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    if (b & (1u << 24)) return 3;
    if (b & (1u << 23)) return 2;
  }
  return 1;
#elif defined(__aarch64__)
  return 4;
#else
  return 0;
#endif
}

const char *lk_flush_name(int kind) {
  static const char *names[] = {"none", "clflush", "clflushopt", "clwb", "dc cvap"};
  return names[kind];
}

void lk_writeback(lk_ctx *c, uint64_t index) {
  c->stats.writebacks++;
  char *line = (char *)(c->base + (index & ~7ull));
  if (c->persist == LK_MSYNC) {
    uint64_t at = (uint64_t)line;
    if (!c->page_low || at < c->page_low) c->page_low = at;
    if (at > c->page_high) c->page_high = at;
    return;
  }
#if defined(__x86_64__)
  if (c->flush_kind == 3) __asm__ volatile("clwb %0" : "+m"(*line));
  else if (c->flush_kind == 2) __asm__ volatile("clflushopt %0" : "+m"(*line));
  else __asm__ volatile("clflush %0" : "+m"(*line));
#elif defined(__aarch64__)
  __asm__ volatile("dc cvac, %0" ::"r"(line) : "memory");
#endif
}

void lk_fence(lk_ctx *c) {
  c->stats.fences++;
  if (c->persist == LK_MSYNC) {
    if (!c->page_low) return;
    uint64_t low = c->page_low & ~4095ull, high = (c->page_high | 4095ull) + 1;
    msync((void *)low, high - low, MS_SYNC);
    c->page_low = c->page_high = 0;
    return;
  }
#if defined(__x86_64__)
  __asm__ volatile("sfence" ::: "memory");
#elif defined(__aarch64__)
  __asm__ volatile("dsb ish" ::: "memory");
#endif
  if (c->fence_ns) { /* a parameter, never a measurement: the extra time of a fence on slower memory */
    struct timespec began, now;
    clock_gettime(CLOCK_MONOTONIC, &began);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((uint64_t)((now.tv_sec - began.tv_sec) * 1000000000ll + now.tv_nsec - began.tv_nsec) < c->fence_ns);
  }
}
