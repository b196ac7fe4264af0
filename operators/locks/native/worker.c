/* A plain process that works on a region (or on a peer's file) until it is told to stop, or killed.
 *
 * usage: locks_worker ours FILE SLOT ROWS SECONDS [section [nohelp|help [policy [fence_ns [crash_at [stop_at]]]]]]
 *        locks_worker KIND FILE SLOT ROWS SECONDS [hold]
 *
 * ROWS is a file of int32 triples (a, b, amount). SECONDS 0 means: until SIGTERM. One line at the end:
 * ops, CPU seconds, helps, aborts, write-backs, fences, microseconds of attach and recovery, calls recovered. */
#define _GNU_SOURCE
#include "baselines.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static volatile int stop;
static void on_signal(int s) { (void)s, stop = 1; }

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const lk_row *read_rows(const char *path, uint64_t *n) {
  struct stat s;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &s) || !s.st_size) return NULL;
  *n = (uint64_t)s.st_size / sizeof(lk_row);
  const lk_row *rows = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  return rows == MAP_FAILED ? NULL : rows;
}

static int work_ours(int argc, char **argv, const lk_row *rows, uint64_t nrows) {
  lk_ctx c;
  char why[512];
  const char *section = argc > 6 ? argv[6] : "transfer";
  if (lk_open(&c, argv[2], why, sizeof why)) { fprintf(stderr, "%s\n", why); return 1; }
  double began = now();
  /* The slot may be another process's for the moment it takes to recover it. */
  for (int i = 0; lk_claim(&c, atoi(argv[3]), why, sizeof why); i++) {
    if (i == 1000 || stop) { fprintf(stderr, "%s\n", why); return 1; }
    usleep(1000);
  }
  double recovery_us = (now() - began) * 1e6;
  int sec = lk_section_id(&c, section);
  if (sec < 0) { fprintf(stderr, "no section %s\n", section); return 1; }
  c.nohelp = argc > 7 && !strcmp(argv[7], "nohelp");
  c.policy = argc > 8 ? (uint32_t)atoi(argv[8]) : 0;
  c.fence_ns = argc > 9 ? (uint64_t)atoll(argv[9]) : 0;
  c.crash_at = argc > 10 ? (uint64_t)atoll(argv[10]) : 0;
  c.stop_at = argc > 11 ? (uint64_t)atoll(argv[11]) : 0;
  uint64_t done = 0;
  double cpu = lk_cpu_seconds();
  if (c.crash_at || c.stop_at) { /* one call, by the build that counts its accesses */
    const lk_row *row = rows + c.seq % nrows;
    int64_t args[LK_ARGS] = {row->a, row->b, row->amount, c.slot};
    lk_result out;
    lks_call(&c, (uint32_t)sec, args, 1u << 20, &out);
    done = 1;
  } else {
    while (!stop) {
      uint64_t some = lk_drive(&c, (uint32_t)sec, rows, nrows, 4096, &stop);
      if (!some && !stop) return 1;
      done += some;
    }
  }
  printf("%llu %.9f %llu %llu %llu %llu %.3f %llu\n", (unsigned long long)done, lk_cpu_seconds() - cpu,
         (unsigned long long)c.stats.helps, (unsigned long long)c.stats.aborts, (unsigned long long)c.stats.writebacks,
         (unsigned long long)c.stats.fences, recovery_us, (unsigned long long)c.stats.steps);
  lk_leave(&c);
  return 0;
}

static int work_peer(int argc, char **argv, const lk_row *rows, uint64_t nrows) {
  bl_ctx b;
  if (bl_open(&b, argv[2])) { perror(argv[2]); return 1; }
  if (argc > 6 && !strcmp(argv[6], "hold")) {
    bl_hold(&b, rows->a);
    return 0;
  }
  double cpu = lk_cpu_seconds();
  int slot = atoi(argv[3]);
  uint64_t done = bl_drive(&b, rows, nrows, bl_count(&b, slot), ~0ull, slot, &stop);
  printf("%llu %.9f 0 0 0 0 0 %llu\n", (unsigned long long)done, lk_cpu_seconds() - cpu,
         (unsigned long long)b.dead_owners);
  return 0;
}

int main(int argc, char **argv) {
  if (argc < 6) { fprintf(stderr, "usage: locks_worker ours|KIND FILE SLOT ROWS SECONDS ...\n"); return 2; }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  uint64_t nrows = 0;
  const lk_row *rows = read_rows(argv[4], &nrows);
  if (!rows) { perror(argv[4]); return 1; }
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGALRM, &action, NULL);
  double seconds = atof(argv[5]);
  if (seconds > 0) {
    struct itimerspec t = {.it_value = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)}};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &t, NULL)) return 1;
  }
  return !strcmp(argv[1], "ours") ? work_ours(argc, argv, rows, nrows) : work_peer(argc, argv, rows, nrows);
}
