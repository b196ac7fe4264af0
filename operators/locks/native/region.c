/* The region: a file mapped by every process. Header, slots, announcements, descriptors, lock words, directories, heap.
 * Slots are claimed by one CAS on (pid, start time of the process), so a pid that came back is another process. Objects
 * and sections are made complete and flushed first and then published by one CAS of a directory entry; a process that
 * dies in between costs the space it had reserved. */
#define _GNU_SOURCE
#include "core.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define AT(c, i) ((_Atomic word *)((c)->base + (i)))
#define ROUND(x, m) (((x) + (m) - 1) / (m) * (m))
enum { NDIR = 512, NSECS = 512 };

static int fail(char *why, int n, const char *kind, const char *text) {
  snprintf(why, (size_t)n, "%s: %s", kind, text);
  return -1;
}

static word checksum(const word *b) {
  word h = 0xcbf29ce484222325ull;
  for (int i = 0; i < H_WORDS; i++) {
    if (i == H_CHECK || i == H_BOOT0 || i == H_BOOT1 || i == H_CLEAN) continue;
    h = (h ^ b[i]) * 0x100000001b3ull;
    h ^= h >> 29;
  }
  return h;
}

static void read_hex(const char *path, word *out) {
  char text[64] = {0};
  FILE *f = fopen(path, "r");
  out[0] = out[1] = 0;
  if (!f) return;
  if (fgets(text, sizeof text, f)) {
    int n = 0;
    for (char *p = text; *p && n < 32; p++) {
      int v = *p >= '0' && *p <= '9' ? *p - '0' : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : -1;
      if (v >= 0) out[n / 16] = out[n / 16] << 4 | (word)v, n++;
    }
  }
  fclose(f);
}

static uint64_t lay_out(word *h, uint64_t size, uint32_t procs, uint32_t dpp, uint32_t log_len) {
  uint64_t at = 512, locks = ROUND(size / 64 / 8, 8);
  if (locks > 65528) locks = 65528;
  h[H_SLOTS] = at, at += (uint64_t)procs * S_WORDS;
  h[H_ANN] = at, at += (uint64_t)procs * 2 * A_WORDS;
  h[H_DESC] = at, at += (uint64_t)procs * dpp * (D_LOG + log_len);
  h[H_LOCKS] = at, h[H_NLOCKS] = locks, at += locks;
  h[H_DIR] = at, h[H_NDIR] = NDIR, at += NDIR;
  h[H_SECS] = at, h[H_NSECS] = NSECS, at += NSECS;
  h[H_HEAP] = at;
  return at;
}

int lk_create(const char *path, uint64_t size, uint32_t procs, uint32_t dpp, uint32_t log_len, uint32_t persist,
              char *why, int nwhy) {
  char part[4096];
  word h[H_WORDS] = {0};
  uint64_t need = lay_out(h, size, procs, dpp, log_len) * 8;
  if (need + 4096 > size) {
    snprintf(why, (size_t)nwhy, "value: size (=%llu): too small for max_procs (=%u), descriptors_per_proc (=%u), "
             "log_len (=%u); expected at least %llu bytes", (unsigned long long)size, procs, dpp, log_len,
             (unsigned long long)(need + 4096));
    return -1;
  }
  if (access(path, F_OK) == 0) return fail(why, nwhy, "exists", path);
  snprintf(part, sizeof part, "%s.%d.part", path, (int)getpid());
  int fd = open(part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) { snprintf(why, (size_t)nwhy, "os: %s: %s", part, strerror(errno)); return -1; }
  int error = posix_fallocate(fd, 0, (off_t)size);
  word *b = error ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (b == MAP_FAILED) {
    snprintf(why, (size_t)nwhy, "os: %s: no room for %llu bytes: %s", path, (unsigned long long)size,
             strerror(error ? error : errno));
    close(fd), unlink(part);
    return -1;
  }
  h[H_MAGIC] = LK_MAGIC, h[H_VERSION] = LK_VERSION, h[H_SIZE] = size, h[H_PROCS] = procs, h[H_DPP] = dpp;
  h[H_LOG] = log_len, h[H_PERSIST] = persist, h[H_TAGBITS] = LOCKS_TAG_BITS;
  read_hex("/proc/sys/kernel/random/uuid", h + H_UUID0);
  read_hex("/proc/sys/kernel/random/boot_id", h + H_BOOT0);
  h[H_CHECK] = checksum(h);
  memcpy(b, h, sizeof h);
  b[H_BUMP] = h[H_HEAP], b[H_LOCKBUMP] = 0;
  error = msync(b, size, MS_SYNC) ? errno : 0;
  munmap(b, size), close(fd);
  if (!error && link(part, path)) error = errno;
  unlink(part);
  if (error == EEXIST) return fail(why, nwhy, "exists", path);
  if (error) { snprintf(why, (size_t)nwhy, "os: %s: %s", path, strerror(error)); return -1; }
  return 0;
}

int lk_open(lk_ctx *c, const char *path, char *why, int nwhy) {
  struct stat s;
  word h[H_WORDS], layout[H_WORDS] = {0};
  memset(c, 0, sizeof *c);
  c->fd = open(path, O_RDWR | O_CLOEXEC);
  if (c->fd < 0 || fstat(c->fd, &s)) {
    snprintf(why, (size_t)nwhy, "os: %s: %s", path, strerror(errno));
    if (c->fd >= 0) close(c->fd);
    return -1;
  }
  const char *field = NULL;
  unsigned long long found = 0, expected = 0;
#define CHECK(name, got, want) if (!field && (got) != (want)) field = name, found = (got), expected = (want)
  if (s.st_size < 8192) field = "file size", found = (unsigned long long)s.st_size, expected = 8192;
  else if (pread(c->fd, h, sizeof h, 0) != (ssize_t)sizeof h) field = "header", expected = sizeof h;
  else {
    CHECK("magic", h[H_MAGIC], LK_MAGIC);
    CHECK("version", h[H_VERSION], LK_VERSION);
    CHECK("checksum", h[H_CHECK], checksum(h));
    CHECK("tag bits", h[H_TAGBITS], (word)LOCKS_TAG_BITS);
    CHECK("file size", (word)s.st_size, h[H_SIZE]);
    if (!field) {
      lay_out(layout, h[H_SIZE], (uint32_t)h[H_PROCS], (uint32_t)h[H_DPP], (uint32_t)h[H_LOG]);
      CHECK("layout", h[H_HEAP], layout[H_HEAP]);
    }
  }
  if (field) {
    snprintf(why, (size_t)nwhy, "corrupt: %s: %s is %llu (0x%llx); expected %llu (0x%llx)", path, field, found, found,
             expected, expected);
    close(c->fd);
    return -1;
  }
  c->base = mmap(NULL, h[H_SIZE], PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
  if (c->base == MAP_FAILED) {
    snprintf(why, (size_t)nwhy, "os: %s: %s", path, strerror(errno));
    close(c->fd);
    return -1;
  }
  c->words = h[H_SIZE] / 8, c->procs = (uint32_t)h[H_PROCS], c->dpp = (uint32_t)h[H_DPP];
  c->log_len = (uint32_t)h[H_LOG], c->dstride = D_LOG + c->log_len, c->persist = (uint32_t)h[H_PERSIST];
  c->slots = (uint32_t)h[H_SLOTS], c->ann = (uint32_t)h[H_ANN], c->desc = (uint32_t)h[H_DESC];
  c->locks = (uint32_t)h[H_LOCKS], c->nlocks = (uint32_t)h[H_NLOCKS];
  c->secs = (uint32_t)h[H_SECS], c->nsecs = (uint32_t)h[H_NSECS];
  c->flush_kind = (uint32_t)lk_flush_kind();
  c->slot = ~0u;
  c->origin = c;
  word top = c->base[H_BUMP];
  if (top < h[H_HEAP] || top > c->words) {
    snprintf(why, (size_t)nwhy, "corrupt: %s: heap end is %llu; expected %llu to %llu", path, (unsigned long long)top,
             (unsigned long long)h[H_HEAP], (unsigned long long)c->words);
    lk_close(c);
    return -1;
  }
  int n = snprintf(why, (size_t)nwhy, "corrupt: %.200s: ", path);
  if (lk_sound(c, why + n, nwhy - n)) {
    lk_close(c);
    return -1;
  }
  why[0] = 0;
  return 0;
}

void lk_close(lk_ctx *c) {
  if (c->base) munmap(c->base, c->words * 8), close(c->fd);
  c->base = NULL;
}

/* State letter and start time of a process; 0 when there is none. */
static char process(int pid, word *started) {
  char name[64], text[1024];
  snprintf(name, sizeof name, "/proc/%d/stat", pid);
  FILE *f = fopen(name, "r");
  if (!f) return 0;
  size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  text[n] = 0;
  char *p = strrchr(text, ')'), state = 0;
  unsigned long long start = 0;
  if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &state,
                   &start) != 2)
    return 0;
  *started = start & ((1ull << 41) - 1);
  return state;
}

int lk_slot_state(lk_ctx *c, uint32_t slot) {
  word owner = lk_word(c, c->slots + slot * S_WORDS + S_OWNER), started = 0;
  if (!owner) return 0;
  char state = process((int)(owner >> 41), &started);
  if (!state || state == 'Z' || state == 'X' || started != (owner & ((1ull << 41) - 1))) return 2;
  return state == 'T' || state == 't' ? 3 : 1;
}

static int take(lk_ctx *c, uint32_t slot, word old) {
  word started = 0;
  process((int)getpid(), &started);
  return atomic_compare_exchange_strong(AT(c, c->slots + slot * S_WORDS + S_OWNER), &old,
                                        (word)getpid() << 41 | started);
}

static void adopt(lk_ctx *c, uint32_t slot) {
  lk_report report = {0};
  lk_result last;
  c->slot = slot;
  lk_recover_slot(c, slot, &report);
  lk_status(c, slot, &last);
  c->seq = last.seq - (last.seq && !last.done); /* a call that has not happened is made again under its number */
}

int lk_claim(lk_ctx *c, int slot, char *why, int nwhy) {
  uint32_t from = slot < 0 ? 0 : (uint32_t)slot, to = slot < 0 ? c->procs : from + 1;
  for (int wanted = 0; wanted <= 2; wanted += 2) /* free slots first, then those of dead processes */
    for (uint32_t p = from; p < to; p++) {
      word owner = lk_word(c, c->slots + p * S_WORDS + S_OWNER);
      if (lk_slot_state(c, p) == wanted && take(c, p, owner)) {
        adopt(c, p);
        return 0;
      }
    }
  if (slot < 0) snprintf(why, (size_t)nwhy, "noslot: all %u slots are taken by live processes", c->procs);
  else snprintf(why, (size_t)nwhy, "noslot: slot %d is taken by live process %llu", slot,
                (unsigned long long)(lk_word(c, c->slots + from * S_WORDS + S_OWNER) >> 41));
  return -1;
}

void lk_leave(lk_ctx *c) {
  if (c->slot != ~0u) {
    lk_report report = {0};
    lk_recover_slot(c, c->slot, &report); /* a call that was broken off by an exception is finished first */
    atomic_store(AT(c, c->slots + c->slot * S_WORDS + S_OWNER), 0);
  }
  c->slot = ~0u;
}

int lk_reboot(lk_ctx *c) {
  word boot[2];
  read_hex("/proc/sys/kernel/random/boot_id", boot);
  return c->base[H_BOOT0] != boot[0] || c->base[H_BOOT1] != boot[1];
}

void lk_mark_boot(lk_ctx *c) { read_hex("/proc/sys/kernel/random/boot_id", c->base + H_BOOT0); }

/* ---- objects and sections ---- */

static uint64_t reserve(lk_ctx *c, uint64_t n) {
  word at = lk_word(c, H_BUMP);
  do {
    if (ROUND(at, 8) > c->words || ROUND(n, 8) < n || ROUND(n, 8) > c->words - ROUND(at, 8)) return 0;
  } while (!atomic_compare_exchange_strong(AT(c, H_BUMP), &at, ROUND(at, 8) + ROUND(n, 8)));
  return ROUND(at, 8);
}

static void durable(lk_ctx *c, uint64_t from, uint64_t n) {
  if (!c->persist) return;
  for (uint64_t i = from & ~7ull; i < from + n; i += 8) lk_writeback(c, i);
  lk_fence(c);
}

int lk_find(lk_ctx *c, const char *name, word *kind, word *base, word *n, word *stride) {
  for (uint32_t i = 0; i < NDIR; i++) {
    word at = lk_word(c, c->base[H_DIR] + i);
    if (!at) return 0;
    const word *r = c->base + at;
    if (strncmp((const char *)r, name, LK_NAME)) continue;
    *kind = r[R_KIND], *base = r[R_BASE], *n = r[R_N], *stride = r[R_STRIDE];
    return 1;
  }
  return 0;
}

int64_t lk_object(lk_ctx *c, const char *name, int kind, uint64_t n, uint64_t stride, int64_t init) {
  word mask = (1ull << 44) - 1, base = 0, all;
  if (__builtin_mul_overflow(n, stride, &all) || all > c->words) return kind == LK_LOCKSET ? -2 : -1;
  uint64_t at = reserve(c, R_WORDS);
  if (!at) return -1;
  if (kind == LK_LOCKSET) {
    base = lk_word(c, H_LOCKBUMP);
    do {
      if (base > c->nlocks || n > c->nlocks - base) return -2;
    } while (!atomic_compare_exchange_strong(AT(c, H_LOCKBUMP), &base, base + n));
  } else {
    base = reserve(c, all);
    if (!base) return -1;
    for (uint64_t i = 0; i < all; i++) c->base[base + i] = (word)init & mask;
  }
  word *r = c->base + at;
  memset(r, 0, R_WORDS * 8);
  strncpy((char *)r, name, LK_NAME - 1);
  r[R_KIND] = (word)kind, r[R_N] = n, r[R_STRIDE] = stride, r[R_BASE] = base, r[R_INIT] = (word)init;
  if (kind != LK_LOCKSET) durable(c, base, all);
  durable(c, at, R_WORDS), durable(c, H_BUMP, 16);
  for (uint32_t i = 0; i < NDIR; i++) {
    word old = 0, k, b, m, s;
    if (atomic_compare_exchange_strong(AT(c, c->base[H_DIR] + i), &old, at)) {
      durable(c, c->base[H_DIR] + i, 1);
      return (int64_t)base;
    }
    if (!strncmp((const char *)(c->base + old), name, LK_NAME)) { /* another process was faster; it has its own name now */
      return lk_find(c, name, &k, &b, &m, &s) && k == (word)kind && m == n && s == stride ? (int64_t)b : -4;
    }
  }
  return -3;
}

int lk_section_id(lk_ctx *c, const char *name) {
  int found = -1;
  for (uint32_t i = 0; i < c->nsecs; i++) {
    word at = lk_word(c, c->secs + i);
    if (!at) break;
    if (!strncmp((const char *)(c->base + at), name, LK_NAME)) found = (int)i;
  }
  return found;
}

int lk_recover_dead(lk_ctx *c, lk_report *out) {
  uint32_t mine = c->slot;
  uint64_t seq = c->seq;
  if (lk_reboot(c)) {
    /* Alone: of several processes that come first after a reboot one recovers; the others are told so and come again. */
    word claim = lk_word(c, H_CLEAN), started = 0, mine_now = 0;
    if (claim && process((int)(claim >> 41), &started) && started == (claim & ((1ull << 41) - 1))) return 1;
    process((int)getpid(), &mine_now);
    if (!atomic_compare_exchange_strong(AT(c, H_CLEAN), &claim, (word)getpid() << 41 | mine_now)) return 1;
    if (!lk_reboot(c)) { /* it was done between our two looks */
      atomic_store(AT(c, H_CLEAN), 0);
      return 0;
    }
    for (uint32_t p = 0; p < c->procs; p++) c->base[c->slots + p * S_WORDS + S_OWNER] = 0;
    c->slot = 0;
    lk_recover_power(c, out);
    lk_mark_boot(c);
    atomic_store(AT(c, H_CLEAN), 0);
    c->slot = mine;
    return 0;
  }
  for (uint32_t p = 0; p < c->procs; p++) {
    word owner = lk_word(c, c->slots + p * S_WORDS + S_OWNER);
    if (lk_slot_state(c, p) != 2 || !take(c, p, owner)) continue;
    c->slot = p;
    lk_recover_slot(c, p, out);
    atomic_store(AT(c, c->slots + p * S_WORDS + S_OWNER), 0);
  }
  c->slot = mine;
  c->seq = seq;
  return 0;
}

/* Id of the section in the directory, -1 with a reason. The same name under another hash is refused while another live
 * process is attached, else it takes the name over. */
int lk_section(lk_ctx *c, const word *record, uint64_t words, char *why, int nwhy) {
  if (lk_verify(c, record, words, why, nwhy)) return -1;
  uint64_t at = 0;
  for (uint32_t i = 0; i < c->nsecs; i++) {
    word old = lk_word(c, c->secs + i);
    if (old) {
      const word *x = c->base + old;
      if (strncmp((const char *)x, (const char *)record, LK_NAME)) continue;
      if (x[X_HASH] == record[X_HASH]) {
        /* The newest record of a name is the one in use; an older one comes back only when nobody else is there. */
        int newest = 1;
        for (uint32_t j = i + 1; j < c->nsecs && newest; j++) {
          word later = lk_word(c, c->secs + j);
          if (later && !strncmp((const char *)(c->base + later), (const char *)record, LK_NAME)) newest = 0;
        }
        if (newest) return (int)i;
      }
      for (uint32_t p = 0; p < c->procs; p++) {
        int state = p == c->slot ? 0 : lk_slot_state(c, p);
        if (state == 1 || state == 3) {
          snprintf(why, (size_t)nwhy, "mismatch: section %.63s has hash %016llx in the region and %016llx here, and "
                   "slot %u is in use by a live process", (const char *)x, (unsigned long long)x[X_HASH],
                   (unsigned long long)record[X_HASH], p);
          return -1;
        }
      }
      continue;
    }
    if (!at) {
      at = reserve(c, words);
      if (!at) return fail(why, nwhy, "full", "no room for the section in the region");
      memcpy(c->base + at, record, words * 8);
      lk_needs(c->base + at);
      durable(c, at, words), durable(c, H_BUMP, 8);
    }
    if (atomic_compare_exchange_strong(AT(c, c->secs + i), &old, at)) {
      durable(c, c->secs + i, 1);
      return (int)i;
    }
    i--; /* another process took this entry: look at it */
  }
  return fail(why, nwhy, "full", "no room in the section directory");
}
