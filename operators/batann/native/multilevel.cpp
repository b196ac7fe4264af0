#include "multilevel.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pg {
namespace gp {

std::vector<int32_t> shuffled(size_t n, Random &random) {
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = n; i > 1; i--) std::swap(order[i - 1], order[random.below(uint32_t(i))]);
  return order;
}

int64_t cut_of(const Level &g, const std::vector<int32_t> &part) {
  int64_t cut = 0;
  for (size_t v = 0; v < g.n(); v++)
    for (int64_t e = g.starts[v]; e < g.starts[v + 1]; e++)
      if (part[g.ends[e]] != part[v]) cut += g.edge_weight[e];
  return cut / 2;
}

std::vector<int64_t> block_weights(const Level &g, int parts, const std::vector<int32_t> &part) {
  std::vector<int64_t> weight(parts, 0);
  for (size_t v = 0; v < g.n(); v++) weight[part[v]] += g.node_weight[v];
  return weight;
}

namespace {

constexpr int kRounds = 5;

// Label propagation: each node joins the neighbouring cluster it is most tied to, if that stays within `most`.
std::vector<int32_t> clusters(const Level &g, int64_t most, Random &random) {
  const size_t n = g.n();
  std::vector<int32_t> label(n);
  std::iota(label.begin(), label.end(), 0);
  std::vector<int64_t> weight(g.node_weight.begin(), g.node_weight.end());
  Tally tally(n);
  for (int round = 0; round < kRounds; round++) {
    size_t moved = 0;
    for (const int32_t v : shuffled(n, random)) {
      tally.count(g, v, label);
      int32_t best = label[v];
      int64_t tie = tally.weight[best];
      uint32_t same = 1;
      for (const int32_t l : tally.met) {
        if (l == label[v] || weight[l] + g.node_weight[v] > most || tally.weight[l] < tie) continue;
        if (tally.weight[l] == tie && (best == label[v] || random.below(++same))) continue;
        if (tally.weight[l] > tie) same = 1;
        best = l;
        tie = tally.weight[l];
      }
      if (best == label[v]) continue;
      weight[label[v]] -= g.node_weight[v];
      weight[best] += g.node_weight[v];
      label[v] = best;
      moved++;
    }
    if (moved * 50 < n) break;
  }
  return label;
}

Level contract(Level &g, const std::vector<int32_t> &label) {
  const size_t n = g.n();
  std::vector<int32_t> number(n, -1);
  g.coarse.resize(n);
  int32_t count = 0;
  for (size_t v = 0; v < n; v++) {
    if (number[label[v]] < 0) number[label[v]] = count++;
    g.coarse[v] = number[label[v]];
  }
  Level out;
  out.node_weight.assign(count, 0);
  std::vector<int32_t> first(count + 1, 0), members(n);
  for (size_t v = 0; v < n; v++) {
    out.node_weight[g.coarse[v]] += g.node_weight[v];
    first[g.coarse[v] + 1]++;
  }
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<int32_t> at(first.begin(), first.end() - 1);
  for (size_t v = 0; v < n; v++) members[at[g.coarse[v]]++] = int32_t(v);
  out.starts.push_back(0);
  Tally tally(count);
  for (int32_t c = 0; c < count; c++) {
    tally.clear();
    for (int32_t m = first[c]; m < first[c + 1]; m++)
      for (int64_t e = g.starts[members[m]]; e < g.starts[members[m] + 1]; e++)
        if (g.coarse[g.ends[e]] != c) tally.add(g.coarse[g.ends[e]], g.edge_weight[e]);
    for (const int32_t other : tally.met) {
      out.ends.push_back(other);
      out.edge_weight.push_back(int32_t(tally.weight[other]));
    }
    out.starts.push_back(int64_t(out.ends.size()));
  }
  return out;
}

}  // namespace
}  // namespace gp

size_t multilevel(const int64_t *starts, const int32_t *ends, size_t n, int parts, double eps, uint64_t seed, int trials,
                  int32_t *result) {
  using namespace gp;
  Random random{seed};
  std::vector<Level> levels(1);
  levels[0].starts.assign(starts, starts + n + 1);
  levels[0].ends.assign(ends, ends + starts[n]);
  levels[0].edge_weight.assign(size_t(starts[n]), 1);
  levels[0].node_weight.assign(n, 1);
  // No block above (1 + eps) n / parts, nor below what whole nodes need.
  const int64_t least = (int64_t(n) + parts - 1) / parts;
  const int64_t most = std::max(least, int64_t(std::floor((1 + eps) * double(n) / parts)));
  const std::vector<int64_t> cap(parts, most);
  const size_t enough = std::max<size_t>(1500, size_t(parts) * 60);
  const int64_t heaviest = std::max<int64_t>(1, int64_t(std::max(eps, 0.01) * double(n) / parts * 0.5));
  while (levels.back().n() > enough) {
    const size_t before = levels.back().n();
    // Clusters grow step by step: at most about four nodes each a level, which leaves more levels to refine on.
    const int64_t limit = std::min<int64_t>(heaviest, std::max<int64_t>(4, int64_t(6 * n / before)));
    Level next = contract(levels.back(), clusters(levels.back(), limit, random));
    if (double(next.n()) > 0.95 * double(before)) break;
    levels.push_back(std::move(next));
  }
  std::vector<int32_t> part;
  bisect(levels.back(), parts, eps, trials, random, part);
  for (size_t l = levels.size(); l-- > 0;) {
    Level &g = levels[l];
    if (l + 1 < levels.size()) {
      std::vector<int32_t> finer(g.n());
      for (size_t v = 0; v < g.n(); v++) finer[v] = part[g.coarse[v]];
      part = std::move(finer);
    }
    rebalance(g, parts, cap, part);
    refine(g, parts, cap, l ? 8 : 5, random, part);
  }
  std::copy(part.begin(), part.end(), result);
  return size_t(cut_of(levels[0], part));
}

}  // namespace pg
