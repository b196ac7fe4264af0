#include "place.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace warmserve {

namespace {

constexpr double TOLERANCE = 1e-12, NO_LIMIT = std::numeric_limits<double>::infinity();

struct Best {
  bool found = false;
  double sum = 0.0;
  uint64_t mask = 0;

  void offer(double total, uint64_t set) {
    if (found) {
      const double slack = TOLERANCE * std::max(1.0, std::fabs(sum));
      const uint64_t differ = set ^ mask, low = differ & (~differ + 1);
      if (!(total < sum - slack || (total <= sum + slack && (set & low)))) return;
    }
    found = true, sum = total, mask = set;
  }
};

struct Unit {
  uint64_t mask;
  double sum;
};

int size_of(uint64_t set) { return __builtin_popcountll(set); }

// Maximal sets smaller than k and single uncovered GPUs below `parent`, whole in `open`, worth less than `limit`.
void units_of(const std::vector<Lying> &here, uint64_t parent, int k, uint64_t open, double limit, std::vector<Unit> &out) {
  out.clear();
  uint64_t region = parent, covered = 0;
  for (const Lying &one : here)
    if (!(one.mask & ~parent) && one.mask != parent && one.size >= k) region &= ~one.mask;
  for (const Lying &one : here) {
    if (one.size >= k || (one.mask & ~region) || (covered & one.mask) == one.mask) continue;
    bool largest = true;
    double total = 0.0, most = -1.0;
    for (const Lying &other : here) {
      if (other.size < k && (other.mask & one.mask) == one.mask && other.mask != one.mask) {
        largest = false;
        break;
      }
      if (!(other.mask & ~one.mask)) total += other.score, most = std::max(most, other.score);
    }
    if (!largest) continue;
    covered |= one.mask;
    if (!(one.mask & ~open) && most < limit) out.push_back({one.mask, total});
  }
  for (uint64_t rest = region & ~covered & open; rest; rest &= rest - 1) out.push_back({rest & (~rest + 1), 0.0});
}

Best best_on_node(const std::vector<Lying> &here, int gpus, int k, uint64_t open, double limit, std::vector<Unit> &units) {
  Best best, of_size[65];
  const uint64_t whole = gpus == 64 ? ~0ULL : (1ULL << gpus) - 1;
  for (int i = -1; i < (int)here.size(); i++) {
    const uint64_t parent = i < 0 ? whole : here[i].mask;
    const int size = i < 0 ? gpus : here[i].size;
    if (size < k || size_of(parent & open) < k) continue;
    double around = 0.0, most = -1.0;
    bool twin = false;
    for (int j = 0; j < (int)here.size(); j++) {
      const Lying &other = here[j];
      if ((i >= 0 && j < i && other.mask == parent) || (i < 0 && other.mask == whole)) twin = true;
      if ((other.mask & parent) == parent || (size == k && i >= 0 && !(other.mask & ~parent)))
        around += other.score, most = std::max(most, other.score);
    }
    if (twin || most >= limit) continue;
    if (size == k && i >= 0) {
      best.offer(around, parent);
      continue;
    }
    units_of(here, parent, k, open, limit, units);
    for (int have = 0; have <= k; have++) of_size[have] = Best();
    of_size[0].found = true;
    for (const Unit &unit : units) {
      const int width = size_of(unit.mask);
      for (int have = k; have >= width; have--)
        if (of_size[have - width].found)
          of_size[have].offer(of_size[have - width].sum + unit.sum, of_size[have - width].mask | unit.mask);
    }
    if (of_size[k].found) best.offer(around + of_size[k].sum, of_size[k].mask);
  }
  return best;
}

}  // namespace

void place(std::vector<std::vector<Lying>> &nodes, std::vector<int64_t> &free, int gpus, std::vector<Newcomer> &news) {
  std::vector<Unit> units;
  std::vector<char> hopeless;
  for (Newcomer &x : news) {
    if ((int)hopeless.size() <= x.model) hopeless.resize(x.model + 1, 0);
    if (hopeless[x.model]) continue;  // what was no candidate before is none with less room
    double best_sum = 0.0;
    for (int low = 0; low < 2 && x.node < 0; low++) {
      const double limit = low == 0 ? x.score : NO_LIMIT;
      for (size_t node = 0; node < nodes.size(); node++) {
        uint64_t open = 0;
        for (int gpu = 0; gpu < gpus; gpu++)
          if (free[node * gpus + gpu] >= x.need) open |= 1ULL << gpu;
        for (const Lying &one : nodes[node])
          if (one.model == x.model) open &= ~one.mask;
        if (size_of(open) < x.tp) continue;
        const Best best = best_on_node(nodes[node], gpus, x.tp, open, limit, units);
        const double slack = TOLERANCE * std::max(1.0, std::fabs(best_sum));
        if (best.found && (x.node < 0 || best.sum < best_sum - slack))
          x.node = (int32_t)node, x.mask = best.mask, best_sum = best.sum, x.master = low == 0;
      }
    }
    if (x.node < 0) {
      hopeless[x.model] = 1;
      continue;
    }
    nodes[x.node].push_back({x.mask, x.model, x.tp, x.score});
    for (int gpu = 0; gpu < gpus; gpu++)
      if (x.mask >> gpu & 1) free[x.node * gpus + gpu] -= x.need;
  }
}

}  // namespace warmserve
