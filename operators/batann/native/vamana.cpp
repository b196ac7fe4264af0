// Vamana in batches: each batch is searched on the frozen graph, so the result depends on the order alone, not on
// threads; reverse edges are applied target by target.
#include "graph.h"
#include "parallel.h"

namespace pg {
namespace {

struct Worker {
  Scratch search;
  PruneScratch prune;
  std::vector<uint32_t> chosen;
  Worker(size_t n, int R) : search(n), chosen(R) {}
};

std::vector<Worker> workers(size_t n, int R, int threads) {
  std::vector<Worker> all;
  for (int t = 0; t < std::max(1, threads); t++) all.emplace_back(n, R);
  return all;
}

void replace(const Graph &g, uint32_t node, const uint32_t *ids, int count) {
  std::copy(ids, ids + count, g.of(node));
  std::fill(g.of(node) + count, g.of(node) + g.capacity, UINT32_MAX);
  g.deg[node] = uint16_t(count);
}

void prune_list(const Vectors &x, const Graph &g, uint32_t node, int R, float alpha, Worker &w) {
  const int count = robust_prune(x, node, R, alpha, w.prune, w.chosen.data());
  replace(g, node, w.chosen.data(), count);
}

void add_reverse(const Vectors &x, const Graph &g, const uint64_t *edges, size_t count, int R, float alpha, Worker &w) {
  const uint32_t target = uint32_t(edges[0] >> 32);
  const size_t have = g.deg[target];
  uint32_t *list = g.of(target);
  if (have + count <= size_t(g.capacity)) {
    for (size_t i = 0; i < count; i++) list[have + i] = uint32_t(edges[i]);
    g.deg[target] = uint16_t(have + count);
    return;
  }
  w.prune.pool.clear();
  auto offer = [&](uint32_t id) { w.prune.pool.push_back(key_of(x.between(target, id), id)); };
  for (size_t i = 0; i < have; i++) prefetch_vector(x.at(list[i]), x.bytes);
  for (size_t i = 0; i < count; i++) prefetch_vector(x.at(uint32_t(edges[i])), x.bytes);
  for (size_t i = 0; i < have; i++) offer(list[i]);
  for (size_t i = 0; i < count; i++) offer(uint32_t(edges[i]));
  prune_list(x, g, target, R, alpha, w);
}

}  // namespace

void insert_batch(const Vectors &x, const Graph &g, uint32_t medoid, const uint32_t *batch, size_t count, int R, int L,
                  float alpha, int threads) {
  std::vector<Worker> pool = workers(x.n, R, threads);
  std::vector<uint32_t> chosen(count * size_t(R));
  std::vector<int> found(count);
  run(count, threads, 16, [&](int t, size_t begin, size_t end) {
    Worker &w = pool[t];
    for (size_t i = begin; i < end; i++) {
      beam_search(x, g, x.at(batch[i]), &medoid, 1, L, true, w.search);
      w.prune.pool.assign(w.search.explored.begin(), w.search.explored.end());
      found[i] = robust_prune(x, batch[i], R, alpha, w.prune, &chosen[i * R]);
    }
  });
  std::vector<uint64_t> edges;
  for (size_t i = 0; i < count; i++) {
    replace(g, batch[i], &chosen[i * R], found[i]);
    for (int e = 0; e < found[i]; e++) edges.push_back(uint64_t(chosen[i * R + e]) << 32 | batch[i]);
  }
  std::sort(edges.begin(), edges.end());
  std::vector<size_t> starts;
  for (size_t i = 0; i < edges.size(); i++)
    if (!i || edges[i] >> 32 != edges[i - 1] >> 32) starts.push_back(i);
  starts.push_back(edges.size());
  run(starts.size() - 1, threads, 64, [&](int t, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
      add_reverse(x, g, &edges[starts[i]], starts[i + 1] - starts[i], R, alpha, pool[t]);
  });
}

void trim(const Vectors &x, const Graph &g, int R, float alpha, int threads) {
  std::vector<Worker> pool = workers(x.n, R, threads);
  run(x.n, threads, 256, [&](int t, size_t begin, size_t end) {
    Worker &w = pool[t];
    for (size_t i = begin; i < end; i++) {
      if (g.deg[i] <= R) continue;
      w.prune.pool.clear();
      for (int e = 0; e < g.deg[i]; e++) w.prune.pool.push_back(key_of(x.between(i, g.of(i)[e]), g.of(i)[e]));
      prune_list(x, g, uint32_t(i), R, alpha, w);
    }
  });
}

namespace {

// Breadth first from `from`; parent[v] is the node v was reached by, UINT32_MAX where it was not.
void spread(const Graph &g, uint32_t from, std::vector<uint32_t> &parent) {
  std::vector<uint32_t> queue{from};
  for (size_t at = 0; at < queue.size(); at++) {
    const uint32_t node = queue[at];
    for (int e = 0; e < g.deg[node]; e++) {
      const uint32_t next = g.of(node)[e];
      if (parent[next] != UINT32_MAX) continue;
      parent[next] = node;
      queue.push_back(next);
    }
  }
}

// Give `from` an edge to `to`: where there is room, else instead of its farthest edge that holds nobody (is not the
// one its end was reached by). False when every edge holds somebody.
bool give_edge(const Vectors &x, const Graph &g, uint32_t from, uint32_t to, int R, std::vector<uint32_t> &parent) {
  uint32_t *list = g.of(from);
  if (g.deg[from] < R) {
    list[g.deg[from]++] = to;
    return true;
  }
  int worst = -1;
  Key most = 0;
  for (int e = 0; e < g.deg[from]; e++) {
    if (parent[list[e]] == from) continue;
    const Key key = key_of(x.between(from, list[e]), list[e]);
    if (worst < 0 || key > most) worst = e, most = key;
  }
  if (worst < 0) return false;
  list[worst] = to;
  return true;
}

}  // namespace

size_t connect(const Vectors &x, const Graph &g, uint32_t medoid, int R, int L) {
  std::vector<uint32_t> parent(x.n, UINT32_MAX);
  parent[medoid] = medoid;
  spread(g, medoid, parent);
  Scratch s(x.n);
  size_t given = 0;
  for (uint32_t node = 0; node < x.n; node++) {
    if (parent[node] != UINT32_MAX) continue;
    beam_search(x, g, x.at(node), &medoid, 1, L, false, s);
    bool done = false;
    for (size_t i = 0; i < s.beam.size() && !done; i++) {
      const uint32_t from = id_of(s.beam[i]);
      done = give_edge(x, g, from, node, R, parent);
      if (done) parent[node] = from;
    }
    for (uint32_t from = 0; from < x.n && !done; from++) {
      if (parent[from] == UINT32_MAX) continue;
      done = give_edge(x, g, from, node, R, parent);
      if (done) parent[node] = from;
    }
    spread(g, node, parent);
    given++;
  }
  return given;
}

}  // namespace pg
