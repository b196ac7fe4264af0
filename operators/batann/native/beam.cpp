#include "beam.h"

#include <algorithm>
#include <cstring>

namespace pg {
namespace {

bool before(float a_dist, uint32_t a, float b_dist, uint32_t b) { return a_dist < b_dist || (a_dist == b_dist && a < b); }

// Best-first search of the head index: its `length` nearest to the query, nearest first.
void search_head(const Memory& m, const uint8_t* query, size_t length, std::vector<Candidate>& list) {
  static thread_local std::vector<uint32_t> seen;
  static thread_local uint32_t round = 0;
  if (seen.size() < m.heads) seen.assign(m.heads, 0), round = 0;
  if (++round == 0) std::fill(seen.begin(), seen.end(), 0), round = 1;
  auto distance = [&](uint32_t h) { return m.distance(m.head_vectors + size_t(h) * m.d * m.item_bytes, query, m.d); };
  list.clear();
  list.push_back({m.head_medoid, distance(m.head_medoid), 0});
  seen[m.head_medoid] = round;
  for (size_t at = 0; at < list.size();) {
    if (list[at].explored) {
      at++;
      continue;
    }
    list[at].explored = 1;
    const uint32_t node = list[at].id;
    size_t lowest = at + 1;
    for (int j = 0; j < m.head_deg[node]; j++) {
      uint32_t next = m.head_adj[size_t(node) * m.head_degree + j];
      if (next >= m.heads || seen[next] == round) continue;
      seen[next] = round;
      float dist = distance(next);
      if (list.size() == length && !before(dist, next, list.back().dist, list.back().id)) continue;
      auto place = std::lower_bound(list.begin(), list.end(), dist, [&](const Candidate& c, float value) {
        return before(c.dist, c.id, value, next);
      });
      lowest = std::min(lowest, size_t(place - list.begin()));
      list.insert(place, Candidate{next, dist, 0});
      if (list.size() > length) list.pop_back();
    }
    at = lowest;
  }
}

}  // namespace

void as_float(const Memory& m, const uint8_t* query, float* out) {
  if (m.type == Type::f32) std::memcpy(out, query, sizeof(float) * m.d);
  else if (m.type == Type::u8) std::copy(query, query + m.d, out);
  else std::copy(reinterpret_cast<const int8_t*>(query), reinterpret_cast<const int8_t*>(query) + m.d, out);
}

bool insert(State& s, uint32_t id, float dist, size_t& best) {
  auto& beam = s.beam;
  if (beam.size() == s.head.L && !before(dist, id, beam.back().dist, beam.back().id))
    return !(beam.back().id == id && beam.back().dist == dist);
  auto place = std::lower_bound(beam.begin(), beam.end(), dist, [&](const Candidate& c, float value) {
    return before(c.dist, c.id, value, id);
  });
  if (place != beam.end() && place->id == id) return false;
  const size_t position = size_t(place - beam.begin());
  best = std::min(best, position);
  if (beam.size() == s.head.L) beam.pop_back();
  beam.insert(beam.begin() + long(position), Candidate{id, dist, 0});
  return true;
}

void start_beam(const Memory& m, const uint8_t* query, const float* lut, State& s) {
  static thread_local std::vector<Candidate> hits;
  hits.clear();
  const size_t wanted = std::min<size_t>(s.head.mem_l, s.head.L);
  if (m.heads && wanted) search_head(m, query, std::min<size_t>(s.head.mem_l, m.heads), hits);
  if (hits.empty()) hits.push_back({m.medoid, 0, 0});
  else
    for (Candidate& hit : hits) hit.id = m.head_ids[hit.id];
  hits.resize(std::min(hits.size(), std::max<size_t>(wanted, 1)));
  size_t best = s.head.L;
  for (const Candidate& hit : hits) {
    insert(s, hit.id, pq_distance(lut, m.codes + size_t(hit.id) * m.chunks, m.chunks), best);
    s.head.pq_dists++;
  }
}

bool score_record(const Memory& m, const uint8_t* record, uint32_t id, const uint8_t* query, const float* lut, State& s,
                  size_t& best) {
  const size_t vector_bytes = m.item_bytes * m.d;
  uint32_t degree;
  std::memcpy(&degree, record + vector_bytes, 4);
  if (degree > uint32_t(m.max_degree)) return false;
  s.full.push_back({id, m.distance(record, query, m.d)});
  s.head.exact_dists++;
  const uint8_t* list = record + vector_bytes + 4;
  uint32_t neighbours[1024];
  std::memcpy(neighbours, list, 4 * size_t(degree));
  for (uint32_t j = 0; j < degree; j++) {
    if (neighbours[j] >= m.n) return false;
    __builtin_prefetch(m.codes + size_t(neighbours[j]) * m.chunks);
  }
  for (uint32_t j = 0; j < degree; j++) {
    float dist = pq_distance(lut, m.codes + size_t(neighbours[j]) * m.chunks, m.chunks);
    s.head.pq_dists += insert(s, neighbours[j], dist, best);
  }
  return true;
}

void choose(const State& s, int width, std::vector<int>& out) {
  out.clear();
  for (size_t i = 0; i < s.beam.size() && int(out.size()) < width; i++)
    if (!s.beam[i].explored) out.push_back(int(i));
}

}  // namespace pg
