/* The peers, in C as ours: robust and plain process-shared mutexes, a spin lock, a POSIX semaphore (what
 * multiprocessing.Lock is made of), flock(2). The update is the same: two balances and a counter, stored in place. */
#define _GNU_SOURCE
#include "baselines.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef union {
  pthread_mutex_t mutex;
  sem_t sem;
  _Atomic int spin;
  char line[64];
} bl_lock;

struct bl_shared {
  int kind, n, slots, pad;
  _Atomic int64_t count[64][8];
  bl_lock lock[1024];
  int64_t balance[1024];
};

static const char *NAMES[BL_KINDS] = {"robust_mutex", "pshared_mutex", "spin", "mp_lock", "flock2"};

int bl_kind_of(const char *name) {
  for (int i = 0; i < BL_KINDS; i++)
    if (!strcmp(NAMES[i], name)) return i;
  return -1;
}

int bl_create(const char *path, int kind, int n, int slots, int64_t init) {
  if (n > 1024 || slots > 64) return -1;
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 || posix_fallocate(fd, 0, sizeof(struct bl_shared))) return -1;
  struct bl_shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (s == MAP_FAILED) return -1;
  s->kind = kind, s->n = n, s->slots = slots;
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
  if (kind == BL_ROBUST) pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
  for (int i = 0; i < n; i++) {
    s->balance[i] = init;
    if (kind == BL_ROBUST || kind == BL_PSHARED) pthread_mutex_init(&s->lock[i].mutex, &attr);
    if (kind == BL_SEM) sem_init(&s->lock[i].sem, 1, 1);
    if (kind == BL_FLOCK) {
      char name[4096];
      snprintf(name, sizeof name, "%s.%d", path, i);
      int f = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
      if (f >= 0) close(f);
    }
  }
  munmap(s, sizeof *s);
  return 0;
}

int bl_open(bl_ctx *b, const char *path) {
  memset(b, 0, sizeof *b);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return -1;
  b->s = mmap(NULL, sizeof *b->s, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (b->s == MAP_FAILED) return -1;
  b->kind = b->s->kind, b->n = b->s->n;
  for (int i = 0; i < b->n && b->kind == BL_FLOCK; i++) {
    char name[4096];
    snprintf(name, sizeof name, "%s.%d", path, i);
    b->fd[i] = open(name, O_RDWR | O_CLOEXEC);
    if (b->fd[i] < 0) return -1;
  }
  return 0;
}

void bl_close(bl_ctx *b) {
  for (int i = 0; i < b->n && b->kind == BL_FLOCK; i++) close(b->fd[i]);
  munmap(b->s, sizeof *b->s);
}

/* 0 when the lock could not be had before *stop. */
static int take(bl_ctx *b, int i, volatile int *stop) {
  bl_lock *l = b->s->lock + i;
  switch (b->kind) {
  case BL_ROBUST: case BL_PSHARED: {
    int error = stop ? pthread_mutex_trylock(&l->mutex) : pthread_mutex_lock(&l->mutex);
    while (stop && error == EBUSY) {
      struct timespec until;
      if (*stop) return 0;
      clock_gettime(CLOCK_REALTIME, &until);
      until.tv_nsec += 20000000;
      if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
      error = pthread_mutex_timedlock(&l->mutex, &until);
      if (error == ETIMEDOUT) error = EBUSY;
    }
    if (error == EOWNERDEAD) b->dead_owners++, pthread_mutex_consistent(&l->mutex);
    return 1;
  }
  case BL_SPIN:
    for (int free = 0; !atomic_compare_exchange_weak(&l->spin, &free, 1); free = 0)
      if (stop && *stop) return 0;
    return 1;
  case BL_SEM:
    while (sem_wait(&l->sem))
      if (stop && *stop) return 0;
    return 1;
  default:
    while (flock(b->fd[i], LOCK_EX))
      if (stop && *stop) return 0;
    return 1;
  }
}

static void give(bl_ctx *b, int i) {
  bl_lock *l = b->s->lock + i;
  if (b->kind == BL_ROBUST || b->kind == BL_PSHARED) pthread_mutex_unlock(&l->mutex);
  else if (b->kind == BL_SPIN) atomic_store_explicit(&l->spin, 0, memory_order_release);
  else if (b->kind == BL_SEM) sem_post(&l->sem);
  else flock(b->fd[i], LOCK_UN);
}

uint64_t bl_drive(bl_ctx *b, const lk_row *rows, uint64_t nrows, uint64_t from, uint64_t n, int slot,
                  volatile int *stop) {
  uint64_t done = 0, at = from % nrows;
  volatile int64_t *balance = b->s->balance;
  for (; done < n && !(stop && *stop); done++) {
    const lk_row *row = rows + at;
    if (++at == nrows) at = 0;
    int low = row->a < row->b ? row->a : row->b, high = row->a < row->b ? row->b : row->a;
    if (!take(b, low, stop)) break;
    if (high != low && !take(b, high, stop)) { give(b, low); break; }
    balance[row->a] -= row->amount;
    balance[row->b] += row->amount;
    b->s->count[slot][0]++;
    if (high != low) give(b, high);
    give(b, low);
  }
  return done;
}

int64_t bl_balance(bl_ctx *b, int i) { return b->s->balance[i]; }
uint64_t bl_count(bl_ctx *b, int slot) { return (uint64_t)b->s->count[slot][0]; }

void bl_hold(bl_ctx *b, int i) {
  take(b, i, NULL);
  b->s->balance[i] -= 1;
  raise(SIGSTOP);
  b->s->balance[i] += 1;
  give(b, i);
}
