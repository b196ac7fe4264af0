#include "graph.h"

namespace pg {

// closest[v] is the distance from v to the nearest node chosen before it, so "some chosen c has
// alpha * d(c, v) <= d(p, v)" is one comparison, for both sweeps (alpha 1, then the builder's alpha).
int robust_prune(const Vectors &x, uint32_t p, int R, float alpha, PruneScratch &s, uint32_t *out) {
  std::vector<Key> &pool = s.pool;
  for (Key &key : pool) key &= ~Key(1);
  std::sort(pool.begin(), pool.end());
  pool.erase(std::unique(pool.begin(), pool.end()), pool.end());
  pool.erase(std::remove_if(pool.begin(), pool.end(), [p](Key key) { return id_of(key) == p; }), pool.end());
  const size_t count = pool.size();
  s.near.resize(count * size_t(x.bytes));
  for (size_t i = 0; i < count; i++) std::memcpy(&s.near[i * x.bytes], x.at(id_of(pool[i])), x.bytes);
  s.closest.assign(count, __builtin_inff());
  s.chosen.assign(count, 0);
  int found = 0;
  const float sweeps[2] = {1.0f, alpha};
  for (int sweep = 0; sweep < (alpha > 1.0f ? 2 : 1); sweep++) {
    for (size_t i = 0; i < count && found < R; i++) {
      if (s.chosen[i] || sweeps[sweep] * s.closest[i] <= dist_of(pool[i])) continue;
      s.chosen[i] = 1;
      out[found++] = id_of(pool[i]);
      const void *c = &s.near[i * x.bytes];
      for (size_t v = i + 1; v < count; v++) {
        if (s.chosen[v] || alpha * s.closest[v] <= dist_of(pool[v])) continue;
        s.closest[v] = std::min(s.closest[v], x.fn(c, &s.near[v * x.bytes], x.d));
      }
    }
  }
  return found;
}

}  // namespace pg
