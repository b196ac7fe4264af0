// Python door of the index half: checks every shape and id, drops the interpreter lock round the work.
#include "bind_arrays.h"
#include "knn.h"
#include "multilevel.h"
#include "parallel.h"
#include "pq.h"

namespace nb = nanobind;
using namespace pg;

namespace {

using Released = nb::gil_scoped_release;

// A search only reads the graph it is given as constant arrays.
template <class Ids, class Degrees> Graph graph_of(const Vectors &x, const Ids &adj, const Degrees &deg) {
  demand(adj.shape(0) == x.n && deg.shape(0) == x.n, "adj and deg: expected a row for each of the " +
                                                         std::to_string(x.n) + " vectors");
  const Graph g{const_cast<uint32_t *>(adj.data()), const_cast<uint16_t *>(deg.data()), x.n, int(adj.shape(1))};
  // Messages are put together only for a failure: this loop runs over every edge.
  for (size_t i = 0; i < g.n; i++) {
    if (g.deg[i] > g.capacity) demand(false, "deg[" + std::to_string(i) + "]: more than the columns of adj");
    for (int e = 0; e < g.deg[i]; e++)
      if (g.of(i)[e] >= g.n)
        demand(false, "adj[" + std::to_string(i) + "]: id " + std::to_string(g.of(i)[e]) + " is no node");
  }
  return g;
}

void demand_build(const Vectors &x, const Graph &g, int64_t medoid, int R, int L) {
  demand(medoid >= 0 && size_t(medoid) < x.n, "medoid: no node");
  demand(R >= 1 && R <= g.capacity && L >= 1, "R, L: expected 1 <= R <= columns of adj and L >= 1");
}

void py_insert(AnyMatrix xs, Out<uint32_t, 2> adj, Out<uint16_t, 1> deg, int64_t medoid, In<uint32_t, 1> batch, int R,
               int L, float alpha, int threads) {
  const Vectors x = vectors_of(xs, "x");
  const Graph g = graph_of(x, adj, deg);
  demand_build(x, g, medoid, R, L);
  demand_below(batch, x.n, "batch");
  Released released;
  insert_batch(x, g, uint32_t(medoid), batch.data(), batch.size(), R, L, alpha, threads);
}

void py_trim(AnyMatrix xs, Out<uint32_t, 2> adj, Out<uint16_t, 1> deg, int R, float alpha, int threads) {
  const Vectors x = vectors_of(xs, "x");
  const Graph g = graph_of(x, adj, deg);
  demand_build(x, g, 0, R, 1);
  Released released;
  trim(x, g, R, alpha, threads);
}

size_t py_connect(AnyMatrix xs, Out<uint32_t, 2> adj, Out<uint16_t, 1> deg, int64_t medoid, int R, int L) {
  const Vectors x = vectors_of(xs, "x");
  const Graph g = graph_of(x, adj, deg);
  demand_build(x, g, medoid, R, L);
  Released released;
  return connect(x, g, uint32_t(medoid), R, L);
}

int py_prune(AnyMatrix xs, int64_t p, In<uint32_t, 1> candidates, float alpha, Out<uint32_t, 1> out) {
  const Vectors x = vectors_of(xs, "x");
  demand(p >= 0 && size_t(p) < x.n, "p: no vector");
  demand_below(candidates, x.n, "candidates");
  PruneScratch s;
  for (size_t i = 0; i < candidates.size(); i++)
    s.pool.push_back(key_of(x.between(size_t(p), candidates(i)), candidates(i)));
  return robust_prune(x, uint32_t(p), int(out.size()), alpha, s, out.data());
}

// A graph whose ids were checked once, for searches without checking again.
class Searcher {
 public:
  Searcher(AnyMatrix xs, In<uint32_t, 2> adj, In<uint16_t, 1> deg)
      : xs_(xs), adj_(adj), deg_(deg), x_(vectors_of(xs_, "x")), g_(graph_of(x_, adj_, deg_)) {}

  void search(AnyMatrix queries, In<uint32_t, 2> starts, int L, int threads, Out<uint32_t, 2> ids, Out<float, 2> dists,
              Out<uint32_t, 1> hops, Out<uint32_t, 1> counted) {
    const Vectors q = vectors_of(queries, "queries");
    demand(q.fn == x_.fn && q.d == x_.d, "queries: expected the dtype and dimension of the index");
    const size_t k = ids.shape(1);
    demand(ids.shape(0) == q.n && dists.shape(0) == q.n && dists.shape(1) == k && hops.size() == q.n &&
               counted.size() == q.n && (starts.shape(0) == q.n || starts.shape(0) == 1),
           "search: expected a row of ids, dists, hops and counted for each query, and starts for each or for all");
    demand(L >= 1 && k <= size_t(L), "L: expected at least 1 and at least k");
    Released released;
    const size_t per = starts.shape(1);
    std::vector<Scratch> scratch(std::max(1, threads), Scratch(x_.n));
    run(q.n, threads, 16, [&](int t, size_t begin, size_t end) {
      Scratch &s = scratch[t];
      for (size_t i = begin; i < end; i++) {
        beam_search(x_, g_, q.at(i), starts.data() + (starts.shape(0) == 1 ? 0 : i * per), per, L, false, s);
        for (size_t j = 0; j < k; j++) {
          const bool there = j < s.beam.size();
          ids.data()[i * k + j] = there ? id_of(s.beam[j]) : UINT32_MAX;
          dists.data()[i * k + j] = there ? dist_of(s.beam[j]) : __builtin_inff();
        }
        hops.data()[i] = s.hops;
        counted.data()[i] = s.distances;
      }
    });
  }

 private:
  AnyMatrix xs_;
  In<uint32_t, 2> adj_;
  In<uint16_t, 1> deg_;
  Vectors x_;
  Graph g_;
};

void py_distances(AnyMatrix a, AnyMatrix b, bool scalar, Out<float, 1> out) {
  const Vectors x = vectors_of(a, "a"), y = vectors_of(b, "b");
  demand(x.fn == y.fn && x.d == y.d && x.n == y.n && out.size() == x.n, "a and b: expected equal shapes and dtypes");
  const DistanceFn fn = scalar ? distance_fn_scalar(type_of(a, "a")) : x.fn;
  for (size_t i = 0; i < x.n; i++) out.data()[i] = fn(x.at(i), y.at(i), x.d);
}

void demand_offsets(const In<int32_t, 1> &offsets, size_t d) {
  demand(offsets.size() >= 2 && offsets(0) == 0 && size_t(offsets(offsets.size() - 1)) == d,
         "offsets: expected to run from 0 to d");
  for (size_t c = 0; c + 1 < offsets.size(); c++) demand(offsets(c) < offsets(c + 1), "offsets: expected to ascend");
}

void py_kmeans(In<float, 2> x, int iters, Out<float, 2> centroids) {
  demand(centroids.shape(0) == kCentroids && centroids.shape(1) == x.shape(1), "centroids: expected (256, width)");
  Released released;
  kmeans_chunk(x.data(), x.shape(0), int(x.shape(1)), iters, centroids.data());
}

void py_encode(In<float, 2> centroids, In<int32_t, 1> offsets, In<float, 2> x, int threads, Out<uint8_t, 2> codes) {
  const size_t d = x.shape(1), chunks = codes.shape(1);
  demand_offsets(offsets, d);
  demand(centroids.shape(0) == kCentroids && centroids.shape(1) == d && codes.shape(0) == x.shape(0) &&
             chunks + 1 == offsets.size(),
         "centroids, codes: expected (256, d) and (n, chunks)");
  Released released;
  run(x.shape(0), threads, 1024, [&](int, size_t begin, size_t end) {
    pq_encode(centroids.data(), offsets.data(), int(chunks), int(d), x.data() + begin * d, end - begin,
              codes.data() + begin * chunks);
  });
}

void py_lut(In<float, 2> centroids, In<int32_t, 1> offsets, In<float, 1> query, bool transposed, Out<float, 2> lut) {
  const size_t d = query.size(), chunks = lut.shape(0);
  demand_offsets(offsets, d);
  demand(centroids.shape(0) == kCentroids && centroids.shape(1) == d && lut.shape(1) == kCentroids &&
             chunks + 1 == offsets.size(),
         "centroids, lut: expected (256, d) and (chunks, 256)");
  if (!transposed) return pq_lut(centroids.data(), offsets.data(), int(chunks), int(d), query.data(), lut.data());
  std::vector<float> columns(d * kCentroids);
  pq_transpose(centroids.data(), int(d), columns.data());
  pq_lut_transposed(columns.data(), offsets.data(), int(chunks), query.data(), lut.data());
}

void py_pq_distances(In<float, 2> lut, In<uint8_t, 2> codes, Out<float, 1> out) {
  demand(lut.shape(1) == kCentroids && lut.shape(0) == codes.shape(1) && out.size() == codes.shape(0),
         "lut, out: expected (chunks, 256) and (n,)");
  const int chunks = int(codes.shape(1));
  for (size_t i = 0; i < out.size(); i++) out.data()[i] = pq_distance(lut.data(), codes.data() + i * chunks, chunks);
}

void py_leaders(AnyMatrix xs, In<uint32_t, 1> points, In<uint32_t, 1> leaders, int threads, Out<uint32_t, 2> nearest) {
  const Vectors x = vectors_of(xs, "x");
  demand_below(points, x.n, "points");
  demand_below(leaders, x.n, "leaders");
  demand(nearest.shape(0) == points.size() && nearest.shape(1) <= leaders.size(), "nearest: expected (points, fanout)");
  Released released;
  nearest_leaders(x, points.data(), points.size(), leaders.data(), leaders.size(), int(nearest.shape(1)), threads,
                  nearest.data());
}

void py_bucket(AnyMatrix xs, In<uint32_t, 1> bucket, Out<uint64_t, 2> best) {
  const Vectors x = vectors_of(xs, "x");
  demand_below(bucket, x.n, "bucket");
  demand(best.shape(0) == x.n, "best: expected (n, k)");
  Released released;
  bucket_neighbours(x, bucket.data(), bucket.size(), int(best.shape(1)), best.data());
}

size_t py_multilevel(In<int64_t, 1> starts, In<int32_t, 1> ends, int parts, double eps, uint64_t seed, int trials,
                     Out<int32_t, 1> part) {
  const size_t n = part.size();
  demand(starts.size() == n + 1 && starts(0) == 0 && size_t(starts(n)) == ends.size(), "starts: expected (n + 1,)");
  for (size_t i = 0; i < n; i++) demand(starts(i) <= starts(i + 1), "starts: expected to ascend");
  for (size_t i = 0; i < ends.size(); i++) demand(ends(i) >= 0 && size_t(ends(i)) < n, "ends: no such node");
  demand(parts >= 1 && parts <= 256, "parts: expected 1 to 256");
  Released released;
  return multilevel(starts.data(), ends.data(), n, parts, eps, seed, trials, part.data());
}

}  // namespace

void bind_index(nb::module_ &m) {
  m.def("insert_batch", &py_insert, nb::arg("x"), nb::arg("adj"), nb::arg("deg"), nb::arg("medoid"), nb::arg("batch"),
        nb::arg("R"), nb::arg("L"), nb::arg("alpha"), nb::arg("threads"));
  m.def("trim", &py_trim, nb::arg("x"), nb::arg("adj"), nb::arg("deg"), nb::arg("R"), nb::arg("alpha"),
        nb::arg("threads"));
  m.def("connect", &py_connect, nb::arg("x"), nb::arg("adj"), nb::arg("deg"), nb::arg("medoid"), nb::arg("R"),
        nb::arg("L"));
  m.def("robust_prune", &py_prune, nb::arg("x"), nb::arg("p"), nb::arg("candidates"), nb::arg("alpha"), nb::arg("out"));
  nb::class_<Searcher>(m, "Searcher")
      .def(nb::init<AnyMatrix, In<uint32_t, 2>, In<uint16_t, 1>>(), nb::arg("x"), nb::arg("adj"), nb::arg("deg"))
      .def("search", &Searcher::search, nb::arg("queries"), nb::arg("starts"), nb::arg("L"), nb::arg("threads"),
           nb::arg("ids"), nb::arg("dists"), nb::arg("hops"), nb::arg("counted"));
  m.def("distances", &py_distances, nb::arg("a"), nb::arg("b"), nb::arg("scalar"), nb::arg("out"));
  m.def("kmeans_chunk", &py_kmeans, nb::arg("x"), nb::arg("iters"), nb::arg("centroids"));
  m.def("pq_encode", &py_encode, nb::arg("centroids"), nb::arg("offsets"), nb::arg("x"), nb::arg("threads"),
        nb::arg("codes"));
  m.def("pq_lut", &py_lut, nb::arg("centroids"), nb::arg("offsets"), nb::arg("query"), nb::arg("transposed"),
        nb::arg("lut"));
  m.def("pq_distances", &py_pq_distances, nb::arg("lut"), nb::arg("codes"), nb::arg("out"));
  m.def("nearest_leaders", &py_leaders, nb::arg("x"), nb::arg("points"), nb::arg("leaders"), nb::arg("threads"),
        nb::arg("nearest"));
  m.def("bucket_neighbours", &py_bucket, nb::arg("x"), nb::arg("bucket"), nb::arg("best"));
  m.def("multilevel", &py_multilevel, nb::arg("starts"), nb::arg("ends"), nb::arg("parts"), nb::arg("eps"),
        nb::arg("seed"), nb::arg("trials"), nb::arg("part"));
}
