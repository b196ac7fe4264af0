#include "graph.h"

namespace pg {

// Memory's latency is most of a search. Vectors are fetched while the list is still being read, and the list of
// whatever becomes the best unexplored node as soon as it does.

static size_t insert(Key *beam, size_t size, size_t L, Key key) {
  const size_t at = std::lower_bound(beam, beam + size, key) - beam;
  const size_t last = size < L ? size : L - 1;
  std::memmove(beam + at + 1, beam + at, (last - at) * sizeof(Key));
  beam[at] = key;
  return at;
}

void beam_search(const Vectors &x, const Graph &g, const void *query, const uint32_t *starts, size_t n_starts, int L,
                 bool keep_explored, Scratch &s) {
  s.beam.resize(size_t(L) + 1);
  s.explored.clear();
  s.fresh.resize(std::max(size_t(g.capacity), n_starts));
  s.hops = s.distances = 0;
  Key *beam = s.beam.data();
  size_t size = 0, first = 0;  // beam[0, first) is explored
  const size_t most = size_t(L);

  auto measure = [&](size_t count) {
    const uint32_t *fresh = s.fresh.data();
    for (size_t i = 0; i < count; i++) {
      const Key key = key_of(x.fn(query, x.at(fresh[i]), x.d), fresh[i]);
      if (size == most && key >= beam[size - 1]) continue;
      const size_t at = insert(beam, size, most, key);
      if (size < most) size++;
      if (at <= first) {
        first = at;
        prefetch_vector(g.of(fresh[i]), 4 * g.capacity);
      }
    }
    s.distances += uint32_t(count);
  };

  size_t count = 0;
  for (size_t i = 0; i < n_starts; i++)
    if (starts[i] < g.n && s.meet(starts[i])) s.fresh[count++] = starts[i];
  measure(count);
  for (;;) {
    while (first < size && (beam[first] & 1)) first++;
    if (first == size) break;
    const uint32_t node = id_of(beam[first]);
    if (keep_explored) s.explored.push_back(beam[first]);
    beam[first] |= 1;
    s.hops++;
    const uint32_t *list = g.of(node);
    count = 0;
    for (int i = 0; i < g.deg[node]; i++) {
      if (!s.meet(list[i])) continue;
      s.fresh[count++] = list[i];
      prefetch_vector(x.at(list[i]), x.bytes);
    }
    if (first + 1 < size) prefetch_vector(g.of(id_of(beam[first + 1])), 4 * g.capacity);
    measure(count);
  }
  s.beam.resize(size);
  s.forget();
}

}  // namespace pg
