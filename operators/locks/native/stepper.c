/* The crash sweep: a victim process dies at a chosen point of one call; what do the others find?
 *
 * usage: locks_stepper REGION REFERENCE SECTION KIND FROM STRIDE LIMIT ARGS...
 *
 * KIND instruction: SIGKILL after that many machine instructions of the call, by ptrace single steps. KIND shared:
 * SIGKILL at that shared access, by the build that counts them. REFERENCE is a copy of REGION, on which the same calls
 * are made without any crash. An argument `@` stands for the caller's slot.
 *
 * For every point: the victim (slot 1) makes one call and dies in it; a survivor (slot 0) makes one call with the same
 * arguments, helping what is in its way; then the victim's slot is recovered and asked for its last call. If the answer
 * is `done` the reference gets both calls, else the survivor's only; then all cells must be equal and no lock held.
 * One line per point: point, done, helped (done by the survivor, before recovery), locks held, equal, microseconds of
 * the recovery. Last line: `end POINT` when the call was over before the point, `limit`, or `errno E TEXT`. */
#define _GNU_SOURCE
#include "drive.h"
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SURVIVOR, VICTIM };
static const char *path, *section;
static int nargs, by_instruction;
static char **args;

static void open_or_die(lk_ctx *c, const char *file, int slot) {
  char why[512];
  if (lk_open(c, file, why, sizeof why) || lk_claim(c, slot, why, sizeof why)) {
    fprintf(stderr, "%s\n", why);
    _exit(3);
  }
}

static int call_as(lk_ctx *c, int who, uint64_t crash_at, int marks) {
  int64_t values[LK_ARGS] = {0};
  lk_result out;
  for (int i = 0; i < nargs; i++) values[i] = strcmp(args[i], "@") ? atoll(args[i]) : who;
  c->crash_at = crash_at, c->stats.steps = 0;
  uint32_t sec = (uint32_t)lk_section_id(c, section);
  if (marks) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) _exit(100 + errno);
    raise(SIGSTOP);
    lk_call(c, sec, values, 1u << 20, &out);
    raise(SIGUSR1);
    _exit(0);
  }
  if (crash_at) return lks_call(c, sec, values, 1u << 20, &out);
  return lk_call(c, sec, values, 1u << 20, &out);
}

/* Two marks around the call; the parent steps from the first to the second. */
static void victim(uint64_t crash_at) {
  lk_ctx c;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  open_or_die(&c, path, VICTIM);
  call_as(&c, VICTIM, by_instruction ? 0 : crash_at, by_instruction);
  _exit(0);
}

/* Whether the victim's call was done since `before`; one that has not happened is made again under its number. */
static int done_since(const lk_result *before, const lk_result *now) {
  return now->done && (now->seq > before->seq || !before->done);
}

/* 1: killed at the point, 0: the call was over before it, -1: refused (errno). */
static int kill_at(uint64_t point) {
  int status;
  pid_t pid = fork();
  if (!pid) victim(point);
  if (pid < 0 || waitpid(pid, &status, 0) < 0) return -1;
  if (!by_instruction) return WIFSIGNALED(status);
  if (!WIFSTOPPED(status)) {
    errno = WIFEXITED(status) && WEXITSTATUS(status) > 100 ? WEXITSTATUS(status) - 100 : EIO;
    return -1;
  }
  int over = 0;
  for (uint64_t i = 0; i < point && !over; i++) {
    if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) || waitpid(pid, &status, 0) < 0) {
      int error = errno;
      kill(pid, SIGKILL), waitpid(pid, &status, 0);
      errno = error;
      return -1;
    }
    over = !WIFSTOPPED(status) || WSTOPSIG(status) == SIGUSR1;
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  return !over;
}

/* Whether all cells of both regions hold the same values; lists of free nodes and nodes depend on who took which. */
static int equal_cells(lk_ctx *a, lk_ctx *b) {
  for (uint32_t i = 0; i < a->base[H_NDIR]; i++) {
    word at = a->base[a->base[H_DIR] + i];
    if (!at) return 1;
    const word *r = a->base + at;
    const char *dot = strrchr((const char *)r, '.');
    if (r[8] != LK_CELLS || (dot && !strcmp(dot, ".free"))) continue;
    for (uint64_t k = 0; k < r[9]; k++)
      if (lk_read(a, r[11] + k) != lk_read(b, r[11] + k)) return 0;
  }
  return 1;
}

int main(int argc, char **argv) {
  if (argc < 8) { fprintf(stderr, "usage: locks_stepper REGION REFERENCE SECTION KIND FROM STRIDE LIMIT ARGS...\n"); return 2; }
  path = argv[1], section = argv[3], by_instruction = !strcmp(argv[4], "instruction");
  uint64_t from = strtoull(argv[5], NULL, 10), stride = strtoull(argv[6], NULL, 10), limit = strtoull(argv[7], NULL, 10);
  nargs = argc - 8, args = argv + 8;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  sched_setaffinity(0, sizeof one, &one); /* parent and child on one processor: a step wakes no other one */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  lk_ctx c, ref;
  open_or_die(&c, path, SURVIVOR);
  open_or_die(&ref, argv[2], SURVIVOR);
  if (lk_section_id(&c, section) < 0 || nargs > LK_ARGS) { fprintf(stderr, "no section %s, or too many arguments\n", section); return 1; }
  for (uint64_t point = from; point < limit; point += stride) {
    lk_result before, killed, helped, last;
    struct timespec t0, t1;
    char why[256];
    lk_status(&c, VICTIM, &before);
    int dead = kill_at(point);
    if (dead < 0) { printf("errno %d %s\n", errno, strerror(errno)); return 0; }
    lk_status(&c, VICTIM, &killed);
    call_as(&c, SURVIVOR, 0, 0);
    lk_status(&c, VICTIM, &helped);
    lk_ctx v;
    if (lk_open(&v, path, why, sizeof why)) { fprintf(stderr, "%s\n", why); return 1; }
    clock_gettime(CLOCK_MONOTONIC, &t0);
    if (lk_claim(&v, VICTIM, why, sizeof why)) { fprintf(stderr, "%s\n", why); return 1; }
    clock_gettime(CLOCK_MONOTONIC, &t1);
    lk_status(&v, VICTIM, &last);
    int done = done_since(&before, &last);
    lk_leave(&v), lk_close(&v);
    int held = 0;
    for (uint32_t i = 0; i < c.base[H_LOCKBUMP]; i++) held += (lk_word(&c, c.locks + i) & 0xffff) != 0;
    if (done) call_as(&ref, VICTIM, 0, 0);
    call_as(&ref, SURVIVOR, 0, 0);
    if (!dead) { printf("end %llu\n", (unsigned long long)point); return 0; }
    printf("%llu %d %d %d %d %.1f\n", (unsigned long long)point, done,
           !done_since(&before, &killed) && done_since(&before, &helped), held, equal_cells(&c, &ref),
           (double)(t1.tv_sec - t0.tv_sec) * 1e6 + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-3);
  }
  printf("limit\n");
  return 0;
}
