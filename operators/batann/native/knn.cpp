#include "knn.h"

#include "parallel.h"

namespace pg {
namespace {

std::vector<char> gather(const Vectors &x, const uint32_t *ids, size_t count) {
  std::vector<char> rows(count * size_t(x.bytes));
  for (size_t i = 0; i < count; i++) std::memcpy(&rows[i * x.bytes], x.at(ids[i]), x.bytes);
  return rows;
}

// Insert into an ascending list of k keys; the same id has the same distance and so the same key: equal means known.
void offer(Key *best, int k, Key key) {
  if (key >= best[k - 1]) return;
  int at = k - 1;
  while (at > 0 && best[at - 1] > key) at--;
  if (at > 0 && best[at - 1] == key) return;
  std::memmove(best + at + 1, best + at, size_t(k - 1 - at) * sizeof(Key));
  best[at] = key;
}

}  // namespace

void nearest_leaders(const Vectors &x, const uint32_t *points, size_t count, const uint32_t *leaders, size_t n_leaders,
                     int fanout, int threads, uint32_t *nearest) {
  const std::vector<char> rows = gather(x, leaders, n_leaders);
  run(count, threads, 1024, [&](int, size_t begin, size_t end) {
    std::vector<Key> best(fanout);
    for (size_t i = begin; i < end; i++) {
      std::fill(best.begin(), best.end(), ~Key(0));
      for (size_t l = 0; l < n_leaders; l++)
        offer(best.data(), fanout, key_of(x.fn(x.at(points[i]), &rows[l * x.bytes], x.d), uint32_t(l)));
      for (int f = 0; f < fanout; f++) nearest[i * fanout + f] = id_of(best[f]);
    }
  });
}

void bucket_neighbours(const Vectors &x, const uint32_t *bucket, size_t count, int k, Key *best) {
  const std::vector<char> rows = gather(x, bucket, count);
  for (size_t i = 0; i < count; i++) {
    Key *mine = best + bucket[i] * size_t(k);
    for (size_t j = i + 1; j < count; j++) {
      const float dist = x.fn(&rows[i * x.bytes], &rows[j * x.bytes], x.d);
      offer(mine, k, key_of(dist, bucket[j]));
      offer(best + bucket[j] * size_t(k), k, key_of(dist, bucket[i]));
    }
  }
}

}  // namespace pg
