// Reading pages in a given order: the bandwidth a paged KV cache gets from host memory.
#ifndef ODMA_ALPHA_H
#define ODMA_ALPHA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Sum of all 64-bit words of the pages `order[0..n)` of `page_bytes` (a multiple of 256) each, in that order.
uint64_t gather_pages(const uint8_t *base, int64_t page_bytes, const int64_t *order, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
