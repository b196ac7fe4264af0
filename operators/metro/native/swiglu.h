/* Memory-bound SwiGLU experts in fp32; see swiglu.c. */
#ifndef METRO_SWIGLU_H
#define METRO_SWIGLU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Tokens of the activated experts of one rank, grouped by expert: expert e serves items start[e] .. start[e+1]-1. */
struct swiglu_batch {
  const int64_t *slots; /* [experts] which slot of the slab */
  const int64_t *start; /* [experts + 1] */
  const int64_t *rows;  /* [items] row of x and y */
  const float *gates;   /* [items] weight of the expert for that token */
  int64_t experts;
};

/* y[row] += gate * w2 (silu(w1 x[row]) * (w3 x[row])) for every item; slab is [slots][width][3][hidden], hidden a
 * multiple of 16. */
void swiglu_forward(const float *slab, int64_t width, int64_t hidden, const struct swiglu_batch *batch, const float *x,
                    float *y);

/* Sum of n floats read once, 1, 2, 4 or 8 address streams of 256 KiB side by side; n is a multiple of 8 * 65536. */
float stream_read(const float *data, size_t n, int streams);

/* out[i] = scale * (hash(i; key) as a signed 32-bit integer), the same on every machine. */
void fill_weights(float *out, size_t n, uint32_t key0, uint32_t key1, float scale);

#ifdef __cplusplus
}
#endif
#endif
