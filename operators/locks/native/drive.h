/* Loops around the core that the worker and the benchmarks share; no decision is made here. */
#ifndef LOCKS_DRIVE_H
#define LOCKS_DRIVE_H
#include "core.h"

typedef struct { int32_t a, b, amount; } lk_row;
/* Calls numbered c->seq + 1 .. while *stop is 0, at most `n`; row (seq - 1) mod rows is the argument of call seq. */
uint64_t lk_drive(lk_ctx *c, uint32_t sec, const lk_row *rows, uint64_t nrows, uint64_t n, volatile int *stop);
double lk_cpu_seconds(void);
#endif
