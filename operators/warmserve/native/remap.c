// Memory switching on a host: blocks of a memfd change the virtual range they are seen through, without a copy.
//
// A model's weights are mapped at offset 0 of its slot; on promotion the freed blocks are mapped behind them by one
// background thread in order, and a counter says how far it got, so work can begin before all is mapped. Runs of
// neighbouring blocks take one mmap call. "Touch" writes nothing but faults every page in, so that the time reported
// contains the first access. Departure from a GPU's driver: page tables are the kernel's, so this is not free.
#define _GNU_SOURCE
#include "remap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct remap_job {
  pthread_t thread;
  remap_pool pool;
  char *address;
  int64_t *block_of;
  int64_t count, pause_every, pause_us;
  int touch;
  atomic_llong progress;
  atomic_int cancelled;
};

int remap_open(remap_pool *pool, int64_t blocks, int want_huge) {
  pool->huge = 0;
  pool->fd = -1;
  if (want_huge) {
    pool->fd = memfd_create("warmserve-pool", MFD_CLOEXEC | MFD_HUGETLB);
    if (pool->fd >= 0 && (ftruncate(pool->fd, blocks * (int64_t)REMAP_BLOCK) != 0 ||
                          fallocate(pool->fd, 0, 0, blocks * (int64_t)REMAP_BLOCK) != 0)) {
      close(pool->fd);
      pool->fd = -1;
    }
    pool->huge = pool->fd >= 0;
  }
  if (pool->fd < 0) {
    pool->fd = memfd_create("warmserve-pool", MFD_CLOEXEC);
    if (pool->fd < 0) return -errno;
    if (ftruncate(pool->fd, blocks * (int64_t)REMAP_BLOCK) != 0) {
      const int failed = errno;
      close(pool->fd);
      pool->fd = -1;
      return -failed;
    }
  }
  pool->blocks = blocks;
  return 0;
}

void remap_close(remap_pool *pool) {
  if (pool->fd >= 0) close(pool->fd);
  pool->fd = -1;
}

void *remap_reserve(int64_t blocks) {
  // Aligned to a block, so that huge pages can be mapped into it.
  const size_t size = (size_t)blocks * REMAP_BLOCK;
  char *start = mmap(NULL, size + REMAP_BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return NULL;
  char *aligned = (char *)(((uintptr_t)start + REMAP_BLOCK - 1) & ~(uintptr_t)(REMAP_BLOCK - 1));
  if (aligned > start) munmap(start, (size_t)(aligned - start));
  const size_t behind = REMAP_BLOCK - (size_t)(aligned - start);
  if (behind) munmap(aligned + size, behind);
  return aligned;
}

int remap_release(void *address, int64_t blocks) {
  return munmap(address, (size_t)blocks * REMAP_BLOCK) == 0 ? 0 : -errno;
}

int remap_unmap(void *address, int64_t count) {
  if (count <= 0) return 0;
  void *found = mmap(address, (size_t)count * REMAP_BLOCK, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  return found == MAP_FAILED ? -errno : 0;
}

static int map_run(const remap_pool *pool, char *address, int64_t first, int64_t count, int touch) {
  if (first < 0 || first + count > pool->blocks) return -ERANGE;
  const size_t size = (size_t)count * REMAP_BLOCK;
  void *found = mmap(address, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, pool->fd,
                     (off_t)first * REMAP_BLOCK);
  if (found == MAP_FAILED) return -errno;
  if (touch) {
    volatile const char *byte = address;
    const size_t step = pool->huge ? REMAP_BLOCK : 4096;
    for (size_t at = 0; at < size; at += step) (void)byte[at];
  }
  return 0;
}

static int64_t run_length(const int64_t *block_of, int64_t from, int64_t count) {
  int64_t length = 1;
  while (from + length < count && block_of[from + length] == block_of[from] + length) length++;
  return length;
}

int remap_now(const remap_pool *pool, void *address, const int64_t *block_of, int64_t count, int touch) {
  for (int64_t at = 0; at < count;) {
    const int64_t run = run_length(block_of, at, count);
    const int failed = map_run(pool, (char *)address + at * (int64_t)REMAP_BLOCK, block_of[at], run, touch);
    if (failed) return failed;
    at += run;
  }
  return 0;
}

static void *work(void *argument) {
  remap_job *job = argument;
  int64_t paused = 0;
  for (int64_t at = 0; at < job->count && !atomic_load_explicit(&job->cancelled, memory_order_acquire);) {
    int64_t run = run_length(job->block_of, at, job->count);
    if (run > 16) run = 16;  // the counter moves, and a cancellation is seen, every 32 MiB
    const int failed = map_run(&job->pool, job->address + at * (int64_t)REMAP_BLOCK, job->block_of[at], run, job->touch);
    if (failed) {
      atomic_store_explicit(&job->progress, failed, memory_order_release);
      return NULL;
    }
    at += run;
    atomic_store_explicit(&job->progress, at, memory_order_release);
    if (job->pause_every > 0 && at / job->pause_every > paused) {
      paused = at / job->pause_every;
      const struct timespec pause = {job->pause_us / 1000000, (job->pause_us % 1000000) * 1000};
      nanosleep(&pause, NULL);
    }
  }
  return NULL;
}

remap_job *remap_start(const remap_pool *pool, void *address, const int64_t *block_of, int64_t count, int touch,
                       int64_t pause_every, int64_t pause_us) {
  remap_job *job = calloc(1, sizeof *job);
  if (!job) return NULL;
  job->block_of = malloc(sizeof(int64_t) * (size_t)(count > 0 ? count : 1));
  if (!job->block_of) {
    free(job);
    return NULL;
  }
  memcpy(job->block_of, block_of, sizeof(int64_t) * (size_t)count);
  job->pool = *pool;
  job->address = address;
  job->count = count;
  job->touch = touch;
  job->pause_every = pause_every;
  job->pause_us = pause_us;
  if (pthread_create(&job->thread, NULL, work, job) != 0) {
    free(job->block_of);
    free(job);
    return NULL;
  }
  return job;
}

int64_t remap_progress(const remap_job *job) { return atomic_load_explicit(&((remap_job *)job)->progress, memory_order_acquire); }

void remap_cancel(remap_job *job) { atomic_store_explicit(&job->cancelled, 1, memory_order_release); }

int64_t remap_join(remap_job *job) {
  pthread_join(job->thread, NULL);
  return remap_progress(job);
}

void remap_free(remap_job *job) {
  free(job->block_of);
  free(job);
}
