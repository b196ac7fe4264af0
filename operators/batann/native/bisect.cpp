#include "multilevel.h"

#include <algorithm>
#include <cmath>
#include <queue>

namespace pg::gp {
namespace {

// The part of `g` made of `nodes`; edges that leave it are dropped.
Level induced(const Level &g, const std::vector<int32_t> &nodes, std::vector<int32_t> &number) {
  Level out;
  for (size_t i = 0; i < nodes.size(); i++) number[nodes[i]] = int32_t(i);
  out.starts.push_back(0);
  for (const int32_t v : nodes) {
    out.node_weight.push_back(g.node_weight[v]);
    for (int64_t e = g.starts[v]; e < g.starts[v + 1]; e++) {
      if (number[g.ends[e]] < 0) continue;
      out.ends.push_back(number[g.ends[e]]);
      out.edge_weight.push_back(g.edge_weight[e]);
    }
    out.starts.push_back(int64_t(out.ends.size()));
  }
  for (const int32_t v : nodes) number[v] = -1;
  return out;
}

// Block 0 grows from a random node, always by the node whose move costs least, to the weight `target`.
std::vector<int32_t> grow(const Level &g, int64_t target, int64_t cap, Random &random) {
  const size_t n = g.n();
  std::vector<int32_t> part(n, 1);
  std::vector<int64_t> gain(n);
  for (size_t v = 0; v < n; v++)
    for (int64_t e = g.starts[v]; e < g.starts[v + 1]; e++) gain[v] -= g.edge_weight[e];
  using Item = std::pair<int64_t, int32_t>;
  std::priority_queue<Item> queue;
  const std::vector<int32_t> order = shuffled(n, random);
  size_t fresh = 0;
  int64_t weight = 0;
  while (weight < target) {
    if (queue.empty()) {  // the start, and again where a component is used up
      while (fresh < n && part[order[fresh]] == 0) fresh++;
      if (fresh == n) break;
      queue.push({gain[order[fresh]], order[fresh]});
      fresh++;
    }
    const auto [value, v] = queue.top();
    queue.pop();
    if (part[v] == 0 || value != gain[v] || weight + g.node_weight[v] > cap) continue;
    part[v] = 0;
    weight += g.node_weight[v];
    for (int64_t e = g.starts[v]; e < g.starts[v + 1]; e++) {
      const int32_t u = g.ends[e];
      if (part[u] == 0) continue;
      gain[u] += 2 * int64_t(g.edge_weight[e]);
      queue.push({gain[u], u});
    }
  }
  return part;
}

int64_t overload(const std::vector<int64_t> &weight, const std::vector<int64_t> &cap) {
  int64_t over = 0;
  for (size_t b = 0; b < cap.size(); b++) over += std::max<int64_t>(0, weight[b] - cap[b]);
  return over;
}

void split(const Level &g, const std::vector<int32_t> &nodes, int first, int parts, double eps, int trials,
           Random &random, std::vector<int32_t> &number, std::vector<int32_t> &part) {
  if (parts == 1) {
    for (const int32_t v : nodes) part[v] = first;
    return;
  }
  const Level sub = induced(g, nodes, number);
  int64_t total = 0;
  for (const int32_t w : sub.node_weight) total += w;
  const int left = parts / 2;
  const int64_t target = total * left / parts;
  // The slack of all splits on the way down multiplies up to 1 + eps.
  const double slack = std::pow(1 + eps, 1.0 / std::ceil(std::log2(double(parts))));
  const std::vector<int64_t> cap{std::max<int64_t>(target + 1, int64_t(double(target) * slack)),
                                 std::max<int64_t>(total - target + 1, int64_t(double(total - target) * slack))};
  std::vector<int32_t> best;
  int64_t best_cut = 0, best_over = 0;
  for (int trial = 0; trial < trials; trial++) {
    std::vector<int32_t> side = grow(sub, target, cap[0], random);
    rebalance(sub, 2, cap, side);
    refine(sub, 2, cap, 6, random, side);
    const int64_t cut = cut_of(sub, side), over = overload(block_weights(sub, 2, side), cap);
    if (!trial || over < best_over || (over == best_over && cut < best_cut)) {
      best = std::move(side);
      best_cut = cut;
      best_over = over;
    }
  }
  std::vector<int32_t> halves[2];
  for (size_t i = 0; i < nodes.size(); i++) halves[best[i]].push_back(nodes[i]);
  split(g, halves[0], first, left, eps, trials, random, number, part);
  split(g, halves[1], first + left, parts - left, eps, trials, random, number, part);
}

}  // namespace

void bisect(const Level &g, int parts, double eps, int trials, Random &random, std::vector<int32_t> &part) {
  std::vector<int32_t> nodes(g.n()), number(g.n(), -1);
  for (size_t v = 0; v < g.n(); v++) nodes[v] = int32_t(v);
  part.assign(g.n(), 0);
  split(g, nodes, 0, parts, eps, std::max(1, trials), random, number, part);
}

}  // namespace pg::gp
