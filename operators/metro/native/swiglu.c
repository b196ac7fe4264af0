/* SwiGLU experts at memory speed (METRO, decode: one or two tokens per expert).
 *
 * A decode layer is bound by the weight bytes it reads, so everything here serves one aim: read every byte of an
 * activated expert once, in address order, without a pause.
 *
 * Layout. Expert = [width][3][hidden]: w1[j], w3[j] and column j of w2 lie side by side, so all that hidden unit j
 * needs is one run of 12 * hidden bytes and the whole expert is one stream.
 *
 * Order. GROUP units are worked on together: first their 2 * GROUP dot products, then GROUP updates of y. That gives
 * the processor enough independent sums to hide the latency of an addition, loads and stores y once per GROUP columns,
 * and keeps several address streams open, which memory serves faster than a single one (measured: 28 against 22 GB/s).
 * No prefetch instructions: the hardware's streams do better, software prefetch cost a fifth at one token (it competes
 * with the loads for the L1 cache's miss buffers).
 *
 * Tokens go in blocks of up to BLOCK; a weight is loaded into a register once for all tokens of a block. Three is what
 * 16 vector registers hold with four rows at a time (12 sums, 3 inputs, 1 weight). Further blocks read the group again,
 * from the L2 cache.
 *
 * Order of sums. Every (row, token) has one vector of partial sums that runs over the columns in ascending order, and y
 * takes rows in ascending order, whatever the block or the group: a token's result does not depend on which tokens
 * share the call.
 *
 * Vectors are GCC/Clang vector types: AVX-512, AVX2 with FMA, SSE or NEON by the compiler's flags, no intrinsics.
 */
#include "swiglu.h"

#include <math.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__) || defined(PG_PORTABLE)
#define LANES 8
#else
#define LANES 4
#endif

/* A wheel for many machines carries one copy per level and picks one at load time. */
#if defined(PG_PORTABLE) && defined(__x86_64__) && defined(__ELF__)
#define CLONES __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define CLONES
#endif

#define INLINE static inline __attribute__((always_inline))
#define GROUP 4
#define BLOCK 3
#define CHUNK 1024 /* columns a block goes over before the next rows, so that its tokens stay in the L1 cache */
#define LINE 16    /* floats of a cache line; one turn of the inner loops (two AVX2 vectors: a fifth faster than one) */
#define RUN 65536  /* floats of one stream of the plain reader */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE float sum_of(vec v) {
  float sum = 0;
  for (int i = 0; i < LANES; i++) sum += v[i];
  return sum;
}

INLINE vec load(const float *p) { return *(const vec *)p; }

/* Row r of a group: w1 of unit r / 2 when r is even, w3 of it when odd. */
INLINE const float *row_of(const float *group, int64_t hidden, int r) { return group + (3 * (r / 2) + r % 2) * hidden; }

/* sums[r][t] += products of rows first .. first + rows - 1 with the block's tokens over the columns [from, to). */
INLINE void dots(const float *group, int64_t hidden, int first, int rows, const float *const *x, int tokens,
                 int64_t from, int64_t to, vec *sums) {
  vec acc[4 * BLOCK];
  for (int i = 0; i < rows * tokens; i++) acc[i] = sums[first * tokens + i];
  for (int64_t c = from; c < to; c += LINE) {
    for (int64_t k = c; k < c + LINE; k += LANES) {
      vec in[BLOCK];
      for (int t = 0; t < tokens; t++) in[t] = load(x[t] + k);
      for (int r = 0; r < rows; r++) {
        const vec weight = load(row_of(group, hidden, first + r) + k);
        for (int t = 0; t < tokens; t++) acc[r * tokens + t] += weight * in[t];
      }
    }
  }
  for (int i = 0; i < rows * tokens; i++) sums[first * tokens + i] = acc[i];
}

/* y[t] += sum over the group's units of a[unit][t] * column of w2. */
INLINE void update(const float *group, int64_t hidden, int units, float *const *y, const float *a, int tokens) {
  const float *w2 = group + 2 * hidden;
  vec factor[GROUP * BLOCK];
  for (int u = 0; u < units; u++)
    for (int t = 0; t < tokens; t++) factor[u * tokens + t] = a[u * BLOCK + t] - (vec){0};
  for (int64_t c = 0; c < hidden; c += LINE) {
    for (int64_t k = c; k < c + LINE; k += LANES) {
      vec out[BLOCK];
      for (int t = 0; t < tokens; t++) out[t] = load(y[t] + k);
      for (int u = 0; u < units; u++) {
        const vec column = load(w2 + 3 * u * hidden + k);
        for (int t = 0; t < tokens; t++) out[t] += factor[u * tokens + t] * column;
      }
      for (int t = 0; t < tokens; t++) *(vec *)(y[t] + k) = out[t];
    }
  }
}

/* One group of `units` hidden units for one block of tokens; both counts are constants where this is inlined. */
INLINE void block(const float *group, int64_t hidden, int units, const float *const *x, float *const *y,
                  const float *gates, int tokens) {
  vec sums[2 * GROUP * BLOCK] = {{0}};
  const int tile = tokens == 1 ? 8 : 4; /* rows at once: tile * tokens sums fit the registers */
  for (int64_t from = 0; from < hidden; from += CHUNK) {
    const int64_t to = from + CHUNK < hidden ? from + CHUNK : hidden;
    if (units == GROUP)
      for (int first = 0; first < 2 * GROUP; first += tile)
        dots(group, hidden, first, tile, x, tokens, from, to, sums);
    else
      dots(group, hidden, 0, 2, x, tokens, from, to, sums);
  }
  float a[GROUP * BLOCK];
  for (int u = 0; u < units; u++)
    for (int t = 0; t < tokens; t++) {
      const float gate = sum_of(sums[2 * u * tokens + t]), up = sum_of(sums[(2 * u + 1) * tokens + t]);
      a[u * BLOCK + t] = gates[t] * up * gate / (1.0f + expf(-gate));
    }
  update(group, hidden, units, y, a, tokens);
}

INLINE void group_of(const float *group, int64_t hidden, int units, const float *const *x, float *const *y,
                     const float *gates, int tokens) {
  if (tokens == 1)
    block(group, hidden, units, x, y, gates, 1);
  else if (tokens == 2)
    block(group, hidden, units, x, y, gates, 2);
  else
    block(group, hidden, units, x, y, gates, 3);
}

/* Blocks of three, but four as two and two: a lone fourth token would read the group once more by itself. */
INLINE int block_size(int64_t rest) { return rest == 4 ? 2 : rest < BLOCK ? (int)rest : BLOCK; }

CLONES
void swiglu_forward(const float *slab, int64_t width, int64_t hidden, const struct swiglu_batch *batch, const float *x,
                    float *y) {
  const int64_t unit = 3 * hidden;
  for (int64_t e = 0; e < batch->experts; e++) {
    const float *expert = slab + batch->slots[e] * width * unit;
    for (int64_t j = 0, units; j < width; j += units) {
      units = width - j >= GROUP ? GROUP : 1;
      for (int64_t i = batch->start[e], tokens; i < batch->start[e + 1]; i += tokens) {
        const float *in[BLOCK];
        float *out[BLOCK];
        tokens = block_size(batch->start[e + 1] - i);
        for (int t = 0; t < tokens; t++) {
          in[t] = x + batch->rows[i + t] * hidden;
          out[t] = y + batch->rows[i + t] * hidden;
        }
        if (units == GROUP)
          group_of(expert + j * unit, hidden, GROUP, in, out, batch->gates + i, tokens);
        else
          group_of(expert + j * unit, hidden, 1, in, out, batch->gates + i, tokens);
      }
    }
  }
}

INLINE float read_with(const float *data, size_t n, size_t streams) {
  vec acc[LINE / LANES * 8] = {{0}};
  for (size_t s = 0; s + streams * RUN <= n; s += streams * RUN)
    for (size_t i = 0; i < RUN; i += LINE)
      for (size_t k = 0; k < streams; k++)
        for (size_t v = 0; v < LINE / LANES; v++)
          acc[(k * (LINE / LANES) + v) % 8] += load(data + s + k * RUN + i + v * LANES);
  vec total = {0};
  for (int i = 0; i < 8; i++) total += acc[i];
  return sum_of(total);
}

CLONES
float stream_read(const float *data, size_t n, int streams) {
  switch (streams) {
  case 1: return read_with(data, n, 1);
  case 2: return read_with(data, n, 2);
  case 4: return read_with(data, n, 4);
  default: return read_with(data, n, 8);
  }
}

/* A counter through Wellons' lowbias32 mixer: every value depends on its index and the key alone. */
CLONES
void fill_weights(float *out, size_t n, uint32_t key0, uint32_t key1, float scale) {
  for (size_t i = 0; i < n; i++) {
    uint32_t h = (uint32_t)i * 0x9e3779b9u + key0;
    h ^= h >> 16;
    h *= 0x7feb352du;
    h ^= h >> 15;
    h = h * 0x846ca68bu + key1;
    h ^= h >> 16;
    out[i] = (float)(int32_t)h * scale;
  }
}
