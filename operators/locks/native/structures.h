/* Sets over int keys: the way to a key is walked here, without locks; the change itself is a section that looks again. */
#ifndef LOCKS_STRUCTURES_H
#define LOCKS_STRUCTURES_H
#include "core.h"

enum { DS_LIST, DS_DLIST, DS_HASH, DS_TREE };
enum { DS_FIND, DS_INSERT, DS_REMOVE };
enum { DS_EXHAUSTED = -2, DS_REFUSED = -3, DS_FAILED = -4 };
/* fields of a node; LINK is also the link of free nodes */
enum { N_LINK, N_KEY, N_OTHER, N_DEAD, N_VERSION };

typedef struct {
  int kind;
  uint64_t base, nodes, stride;    /* of the pool */
  uint64_t heads, versions, buckets; /* hash map: cells of bucket heads and bucket versions */
  uint32_t insert, remove, refill; /* sections */
} ds_set;

/* 1 done or found (*value: a hash map's value), 0 not, negative: DS_*. */
int ds_op(lk_ctx *c, const ds_set *s, int op, int64_t key, int64_t *value);
/* `n` operations from the arrays; how many changed or found something, or a negative reason. */
int64_t ds_drive(lk_ctx *c, const ds_set *s, const int32_t *keys, const uint8_t *ops, uint64_t n);
/* All keys in order (list, tree) or bucket by bucket, at most `room`; -1 when the walk does not end. */
int64_t ds_keys(lk_ctx *c, const ds_set *s, int64_t *out, int64_t *values, int64_t room);
#endif
