#include "multilevel.h"

#include <algorithm>
#include <queue>
#include <tuple>

namespace pg::gp {
namespace {

struct Move {
  int64_t gain;
  int32_t to;
};

// The block, other than its own, that a node is most tied to and that has room; to < 0 when there is none.
Move best_move(const Level &g, int32_t v, const std::vector<int32_t> &part, const std::vector<int64_t> &weight,
               const std::vector<int64_t> &cap, Tally &tally) {
  tally.count(g, v, part);
  const int32_t own = part[v];
  Move best{0, -1};
  int64_t tie = -1;
  for (const int32_t b : tally.met) {
    if (b == own || weight[b] + g.node_weight[v] > cap[b]) continue;
    const bool better = tally.weight[b] > tie || (tally.weight[b] == tie && weight[b] < weight[best.to]);
    if (better) best.to = b, tie = tally.weight[b];
  }
  if (best.to >= 0) best.gain = tie - tally.weight[own];
  return best;
}

using Item = std::tuple<int64_t, uint32_t, int32_t>;  // gain, random tie-breaker, node

// One pass of Fiduccia and Mattheyses: the best move, then the next, each node once, uphill too; back to the best point.
int64_t pass(const Level &g, int parts, const std::vector<int64_t> &cap, Random &random, std::vector<int32_t> &part) {
  const size_t n = g.n();
  std::vector<int64_t> weight = block_weights(g, parts, part);
  Tally tally(parts);
  std::vector<int64_t> known(n, INT64_MIN);  // the gain a node was queued with last
  std::vector<char> moved(n, 0);
  std::priority_queue<Item> queue;
  auto offer = [&](int32_t v) {
    const Move move = best_move(g, v, part, weight, cap, tally);
    if (move.to < 0 || move.gain == known[v]) return;
    known[v] = move.gain;
    queue.push({move.gain, uint32_t(random.next()), v});
  };
  for (size_t v = 0; v < n; v++) {
    for (int64_t e = g.starts[v]; e < g.starts[v + 1]; e++) {
      if (part[g.ends[e]] == part[v]) continue;
      offer(int32_t(v));
      break;
    }
  }
  struct Undo {
    int32_t node, from;
  };
  std::vector<Undo> log;
  int64_t gained = 0, best = 0;
  size_t best_at = 0;
  const size_t patience = 300 + n / 200;
  while (!queue.empty() && log.size() - best_at < patience) {
    const auto [gain, tie, v] = queue.top();
    queue.pop();
    if (moved[v] || gain != known[v]) continue;
    const Move move = best_move(g, v, part, weight, cap, tally);
    if (move.to < 0 || move.gain != gain) {
      known[v] = INT64_MIN;
      if (move.to >= 0) {
        known[v] = move.gain;
        queue.push({move.gain, tie, v});
      }
      continue;
    }
    log.push_back({v, part[v]});
    weight[part[v]] -= g.node_weight[v];
    weight[move.to] += g.node_weight[v];
    part[v] = move.to;
    moved[v] = 1;
    gained += gain;
    if (gained > best) best = gained, best_at = log.size();
    for (int64_t e = g.starts[v]; e < g.starts[v + 1]; e++)
      if (!moved[g.ends[e]]) offer(g.ends[e]);
  }
  while (log.size() > best_at) {
    part[log.back().node] = log.back().from;
    log.pop_back();
  }
  return best;
}

}  // namespace

int64_t refine(const Level &g, int parts, const std::vector<int64_t> &cap, int passes, Random &random,
               std::vector<int32_t> &part) {
  int64_t total = 0;
  for (int i = 0; i < passes; i++) {
    const int64_t gain = pass(g, parts, cap, random, part);
    total += gain;
    if (!gain) break;
  }
  return total;
}

void rebalance(const Level &g, int parts, const std::vector<int64_t> &cap, std::vector<int32_t> &part) {
  std::vector<int64_t> weight = block_weights(g, parts, part);
  Tally tally(parts);
  for (int32_t b = 0; b < parts; b++) {
    if (weight[b] <= cap[b]) continue;
    std::vector<std::pair<int64_t, int32_t>> members;  // loss of leaving, node
    for (size_t v = 0; v < g.n(); v++) {
      if (part[v] != b) continue;
      tally.count(g, int32_t(v), part);
      const int64_t own = tally.weight[b];
      int64_t tie = 0;
      for (const int32_t other : tally.met)
        if (other != b) tie = std::max(tie, tally.weight[other]);
      members.push_back({own - tie, int32_t(v)});
    }
    std::sort(members.begin(), members.end());
    for (const auto &[loss, v] : members) {
      if (weight[b] <= cap[b]) break;
      Move move = best_move(g, v, part, weight, cap, tally);
      if (move.to < 0) {  // no neighbouring block has room: the lightest one, if it has
        move.to = int32_t(std::min_element(weight.begin(), weight.end()) - weight.begin());
        if (move.to == b || weight[move.to] + g.node_weight[v] > cap[move.to]) continue;
      }
      weight[b] -= g.node_weight[v];
      weight[move.to] += g.node_weight[v];
      part[v] = move.to;
    }
  }
}

}  // namespace pg::gp
