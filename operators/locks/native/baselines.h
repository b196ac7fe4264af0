/* What a user would take instead: the same transfer under two locks of other kinds, on a plain shared file. */
#ifndef LOCKS_BASELINES_H
#define LOCKS_BASELINES_H
#include "drive.h"

enum bl_kind { BL_ROBUST, BL_PSHARED, BL_SPIN, BL_SEM, BL_FLOCK, BL_KINDS };
typedef struct {
  int kind, n, fd[1024];
  uint64_t size;
  struct bl_shared *s;
  uint64_t dead_owners; /* EOWNERDEAD seen */
} bl_ctx;

int bl_kind_of(const char *name);
int bl_create(const char *path, int kind, int n, int slots, int64_t init);
int bl_open(bl_ctx *b, const char *path);
void bl_close(bl_ctx *b);
/* Transfers until *stop or n; counts each in the slot's counter. Returns how many were done. */
uint64_t bl_drive(bl_ctx *b, const lk_row *rows, uint64_t nrows, uint64_t from, uint64_t n, int slot, volatile int *stop);
int64_t bl_balance(bl_ctx *b, int i);
uint64_t bl_count(bl_ctx *b, int slot);
/* Hold lock `i` and stop (SIGSTOP) inside, between the two stores. */
void bl_hold(bl_ctx *b, int i);
#endif
