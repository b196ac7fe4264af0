/* Exhaustive exploration of the core on a small region (see explore.c). */
#ifndef LOCKS_EXPLORE_H
#define LOCKS_EXPLORE_H
#include "core.h"

enum { EX_PROCS = 4, EX_OPS = 4, EX_WATCH = 16, EX_OUTCOMES = 4096 };
enum { EX_OK, EX_VIOLATION, EX_LIMIT };

typedef struct { uint32_t sec, nargs; int64_t args[LK_ARGS]; } ex_call;
typedef struct {
  int procs, ops[EX_PROCS], crashes, px86, por, hazards, solo; /* solo: check one state in `solo` for progress alone */
  uint32_t mutants;
  uint64_t limit;
  ex_call calls[EX_PROCS][EX_OPS];
  int nwatch;
  uint32_t watch[EX_WATCH]; /* cells that belong to the outcome */
} ex_config;
typedef struct {
  uint64_t states, transitions, terminals, solo_runs, overflow, power_cuts;
  int verdict, unbounded, noutcomes;
  double seconds;
  char text[256], trace[4096];
  int64_t outcomes[EX_OUTCOMES][EX_WATCH + EX_PROCS * EX_OPS * LK_RES];
} ex_report;

/* 0, or -1 with a reason when the region or the configuration does not fit. */
int ex_explore(lk_ctx *region, const ex_config *config, ex_report *out, char *why, int nwhy);
int ex_explore_tag2(lk_ctx *region, const ex_config *config, ex_report *out, char *why, int nwhy);
#endif
