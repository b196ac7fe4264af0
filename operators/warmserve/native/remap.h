// A pool of 2 MiB blocks in a memfd, and virtual ranges onto which its blocks are mapped: C11, no Python.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { REMAP_BLOCK = 2 * 1024 * 1024 };

typedef struct remap_pool {
  int fd;              // memfd that owns the bytes
  int64_t blocks;      // physical blocks
  int huge;            // 1 when it is backed by huge pages
} remap_pool;

// One order of work: map block block_of[i] at address + i * REMAP_BLOCK, i = 0 .. count - 1, in order.
typedef struct remap_job remap_job;

int remap_open(remap_pool *pool, int64_t blocks, int want_huge);       // 0 or -errno
void remap_close(remap_pool *pool);
void *remap_reserve(int64_t blocks);                                   // address range, no access; NULL on failure
int remap_release(void *address, int64_t blocks);                      // gives the range back
int remap_unmap(void *address, int64_t count);                         // takes blocks away, keeps the range reserved
int remap_now(const remap_pool *pool, void *address, const int64_t *block_of, int64_t count, int touch);
remap_job *remap_start(const remap_pool *pool, void *address, const int64_t *block_of, int64_t count, int touch,
                       int64_t pause_every, int64_t pause_us);         // a thread; NULL on failure
int64_t remap_progress(const remap_job *job);                          // blocks mapped so far; -errno after a failure
void remap_cancel(remap_job *job);                                     // stops after the block under way
int64_t remap_join(remap_job *job);                                    // waits, once a job; blocks mapped or -errno
void remap_free(remap_job *job);                                       // after the join

#ifdef __cplusplus
}
#endif
