// The read-only kernel of the alpha curve. Streaming is the same kernel over the pages in address order, so that the
// ratio of the two is memory and nothing else. Four sums in flight keep the adders from being the limit.
#include "alpha.h"

#include <string.h>

typedef uint64_t lanes __attribute__((vector_size(32)));

static inline lanes load(const uint8_t *at) {
  lanes value;
  memcpy(&value, at, sizeof value);
  return value;
}

uint64_t gather_pages(const uint8_t *base, int64_t page_bytes, const int64_t *order, int64_t n) {
  lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
  for (int64_t p = 0; p < n; p++) {
    const uint8_t *page = base + order[p] * page_bytes;
    for (int64_t i = 0; i < page_bytes; i += 128) {
      s0 += load(page + i);
      s1 += load(page + i + 32);
      s2 += load(page + i + 64);
      s3 += load(page + i + 96);
    }
  }
  s0 += s1 + s2 + s3;
  return s0[0] + s0[1] + s0[2] + s0[3];
}
