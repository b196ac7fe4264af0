// Iteration-accurate event loop; simulate_core.py is its stand-in with the same results and says why it is as it is.
#include "loop.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace warmserve {

namespace {
constexpr double NEVER = std::numeric_limits<double>::infinity();
constexpr int64_t COEFFICIENTS = 11;
inline int64_t blocks(int64_t tokens, int64_t size) { return (tokens + size - 1) / size; }
}  // namespace

void Loop::set_due(int64_t slot, double time) {
  due[slot] = time;
  for (int64_t node = (leaves + slot) >> 1; node > 0; node >>= 1) {
    const int32_t left = tree[2 * node], right = tree[2 * node + 1];
    tree[node] = due[left] <= due[right] ? left : right;
  }
}

double Loop::span(int64_t slot, int64_t steps) const {
  return s_first_s[slot] * steps + s_more_s[slot] * (steps * (steps - 1) * 0.5);
}

void Loop::cut(int64_t slot, double time) {
  if (s_phase[slot] != DECODE || s_steps[slot] <= 1) return;
  const double passed = time - s_since[slot], first = s_first_s[slot], more = s_more_s[slot];
  int64_t steps;
  if (more == 0.0) {
    steps = (int64_t)(passed / first) + 1;
  } else {
    const double half = first - 0.5 * more;
    steps = (int64_t)((-half + std::sqrt(half * half + 2.0 * more * std::max(passed, 0.0))) / more) + 1;
  }
  steps = std::max<int64_t>(steps, 1);
  while (steps > 1 && s_since[slot] + span(slot, steps - 1) > time) steps--;
  while (steps < s_steps[slot] && s_since[slot] + span(slot, steps) <= time) steps++;
  if (steps < s_steps[slot]) {
    s_steps[slot] = steps;
    set_due(slot, s_since[slot] + span(slot, steps));
  }
}

void Loop::count_load(int64_t model, double time, int change) {
  m_integral[model] += m_inflight[model] * (time - m_since[model]);
  m_since[model] = time;
  m_inflight[model] += change;
}

void Loop::share_changed(int64_t slot, double time, int change) {
  for (int64_t i = 0; i < near; i++) {
    const int32_t other = s_near[slot * near + i];
    if (other < 0) return;
    s_near_busy[other] += change;
    cut(other, time);
  }
}

void Loop::end_step(int64_t slot, double time) {
  const int64_t total = s_running[slot], size = s_block[slot], made = s_steps[slot];
  const bool decoding = s_phase[slot] == DECODE;
  const int64_t fresh = decoding ? 0 : total - s_new[slot];
  int32_t *batch = s_batch + slot * sequences;
  int64_t kept = 0;
  for (int64_t i = 0; i < total; i++) {
    const int32_t request = batch[i];
    if (i >= fresh) {
      const int64_t had = tokens(request);
      if (decoding) {
        s_used[slot] += blocks(had + made, size) - blocks(had, size);
        s_context[slot] += made;
      }
      r_gen[request] += (int32_t)made;
      if (std::isnan(r_first[request])) r_first[request] = time;
      if (r_gen[request] >= r_out[request]) {
        s_used[slot] -= blocks(had + made, size);
        s_context[slot] -= had + made;
        r_finish[request] = time;
        s_count[slot]--;
        count_load(r_model[request], time, -1);
        n[DONE]++;
        continue;
      }
    }
    batch[kept++] = request;
  }
  s_running[slot] = (int32_t)kept;
  s_new[slot] = 0;
  n[STEPS] += made;
}

Found Loop::admit(int64_t slot, double time) {
  const int64_t size = s_block[slot];
  int64_t total = 0, taken = 0;
  double squares = 0.0;
  Found found = EMPTY;
  while (s_head[slot] >= 0 && s_running[slot] < option[2]) {
    const int32_t request = s_head[slot];
    const int64_t length = tokens(request), need = blocks(length + 1, size);
    if (taken > 0 && total + length > option[3]) break;
    if (s_used[slot] + need > s_limit[slot]) {
      if (s_used[slot] + need <= s_cap[slot] && taken == 0) found = SHORT;
      break;
    }
    s_head[slot] = r_next[request];
    r_next[request] = -1;
    if (s_head[slot] < 0) s_tail[slot] = -1;
    s_batch[slot * sequences + s_running[slot]++] = request;
    s_used[slot] += need;
    s_context[slot] += length + 1;
    total += length;
    squares += (double)length * length;
    taken++;
  }
  if (taken == 0) return found;
  const double *c = s_coef + slot * COEFFICIENTS;
  const double seconds = (c[0] + c[1] * taken + c[2] * total + c[3] * squares) * (1 + s_near_busy[slot]);
  s_phase[slot] = PREFILL;
  s_new[slot] = (int32_t)taken;
  s_steps[slot] = 1;
  s_since[slot] = time;
  set_due(slot, time + seconds);
  return OK;
}

int64_t Loop::blocks_after(int64_t slot, int64_t steps) const {
  const int64_t size = s_block[slot];
  const int32_t *batch = s_batch + slot * sequences;
  int64_t total = 0;
  for (int64_t i = 0; i < s_running[slot]; i++) total += blocks(tokens(batch[i]) + steps, size);
  return total;
}

void Loop::preempt_newest(int64_t slot) {
  const int32_t request = s_batch[slot * sequences + --s_running[slot]];
  const int64_t had = tokens(request);
  s_used[slot] -= blocks(had, s_block[slot]);
  s_context[slot] -= had;
  r_preempted[request]++;
  r_next[request] = s_head[slot];
  s_head[slot] = request;
  if (s_tail[slot] < 0) s_tail[slot] = request;
}

Found Loop::decode(int64_t slot, double time) {
  const int32_t *batch = s_batch + slot * sequences;
  int64_t steps = (int64_t)1 << 31;
  for (int64_t i = 0; i < s_running[slot]; i++)
    steps = std::min<int64_t>(steps, (int64_t)r_out[batch[i]] - r_gen[batch[i]]);
  if (option[1] > 0.0) steps = std::min<int64_t>(steps, 1);
  while (blocks_after(slot, steps) > s_limit[slot]) {
    int64_t low = 0, high = steps;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (blocks_after(slot, middle) <= s_limit[slot]) low = middle;
      else high = middle;
    }
    if (low > 0) {
      steps = low;
      break;
    }
    if (s_limit[slot] < s_cap[slot]) return SHORT;
    preempt_newest(slot);
  }
  const int64_t count = s_running[slot];
  const double *c = s_coef + slot * COEFFICIENTS;
  const double scale = 1 + s_near_busy[slot];
  const int base = count < c[7] || c[7] <= 0.0 ? 4 : 8;
  const double slope = base == 4 ? c[6] : c[10];
  s_first_s[slot] = (c[base] + c[base + 1] * count + slope * s_context[slot]) * scale;
  s_more_s[slot] = slope * count * scale;
  s_phase[slot] = DECODE;
  s_steps[slot] = steps;
  s_since[slot] = time;
  set_due(slot, time + span(slot, steps));
  return OK;
}

Found Loop::begin(int64_t slot, double time) {
  const bool was_idle = s_phase[slot] == IDLE;
  if (was_idle && (s_head[slot] >= 0 || s_running[slot] > 0)) {
    share_changed(slot, time, 1);
    s_phase[slot] = DECODE;
  }
  if (s_head[slot] >= 0) {
    const Found found = admit(slot, time);
    if (found != EMPTY) return found;
  }
  if (s_running[slot] > 0) return decode(slot, time);
  if (!was_idle) share_changed(slot, time, -1);
  s_phase[slot] = IDLE;
  set_due(slot, NEVER);
  return s_state[slot] == STOPPING && s_count[slot] == 0 ? EMPTY : OK;
}

int64_t Loop::route(int64_t model) const {
  int64_t best = -1, fewest = m_batch[model];
  const int32_t *mine = m_slots + model * slots;
  for (int64_t i = 0; i < m_slot_count[model]; i++) {
    const int32_t slot = mine[i];
    if (s_state[slot] == RUNNING && s_count[slot] < fewest) {
      best = slot;
      fewest = s_count[slot];
    }
  }
  return best;
}

Found Loop::hand_over(int64_t slot, int64_t request, double time) {
  r_engine[request] = s_engine[slot];
  r_sent[request] = time;
  const bool late = time > r_arrival[request] && s_ready[slot] > r_arrival[request];
  r_kind[request] = late || s_state[slot] != RUNNING ? s_kind[slot] : (int8_t)0;
  s_count[slot]++;
  r_next[request] = -1;
  if (s_tail[slot] >= 0) r_next[s_tail[slot]] = (int32_t)request;
  else s_head[slot] = (int32_t)request;
  s_tail[slot] = (int32_t)request;
  if (s_state[slot] != RUNNING) return OK;
  if (s_phase[slot] == IDLE) return begin(slot, time);
  cut(slot, time);
  return OK;
}

void Loop::wait(int64_t request, double time) {
  if (option[0] > 0.0) {
    const int64_t place = (n[RING_HEAD] + n[RING_COUNT]) % ring;
    q_request[place] = (int32_t)request;
    q_time[place] = time + option[0];
    n[RING_COUNT]++;
    return;
  }
  const int64_t model = r_model[request];
  r_next[request] = -1;
  if (w_tail[model] >= 0) r_next[w_tail[model]] = (int32_t)request;
  else w_head[model] = (int32_t)request;
  w_tail[model] = (int32_t)request;
}

Answer Loop::attempt(int64_t request, double time) {
  const int64_t model = r_model[request], slot = route(model);
  if (slot >= 0) {
    if (hand_over(slot, request, time) == SHORT) return {TAKEBACK, slot, 0};
    return {REACHED, 0, 0};
  }
  if (m_creating[model] > 0 || m_may_create[model] == 0) {
    wait(request, time);
    return {REACHED, 0, 0};
  }
  return {CREATE, model, request};
}

int64_t Loop::wake(int64_t model, double time) {
  while (w_head[model] >= 0) {
    const int64_t slot = route(model);
    if (slot < 0) return -1;
    const int32_t request = w_head[model];
    w_head[model] = r_next[request];
    if (w_head[model] < 0) w_tail[model] = -1;
    if (hand_over(slot, request, time) == SHORT) return slot;
  }
  return -1;
}

Answer Loop::settle(int64_t slot, double time, Found found) {
  if (found == SHORT) return {TAKEBACK, slot, 0};
  if (found == EMPTY) return {ENDED, slot, 0};
  const int64_t starved = wake(s_model[slot], time);
  if (starved >= 0) return {TAKEBACK, starved, 0};
  return {REACHED, 0, 0};
}

Answer Loop::advance(double until) {
  for (;;) {
    const double step_at = due[tree[1]];
    const double poll_at = n[RING_COUNT] > 0 ? q_time[n[RING_HEAD]] : NEVER;
    const double arrival_at = n[NEXT] < requests ? r_arrival[n[NEXT]] : NEVER;
    const double time = std::min(step_at, std::min(poll_at, arrival_at));
    if (time > until || time == NEVER) {
      if (until < NEVER) now[0] = std::max(now[0], until);
      return {n[DONE] == requests ? FINISHED : REACHED, 0, 0};
    }
    now[0] = time;
    Answer found;
    if (step_at <= time) {
      const int64_t slot = tree[1];
      end_step(slot, time);
      found = settle(slot, time, begin(slot, time));
    } else if (poll_at <= time) {
      const int64_t request = q_request[n[RING_HEAD]];
      n[RING_HEAD] = (n[RING_HEAD] + 1) % ring;
      n[RING_COUNT]--;
      found = attempt(request, time);
    } else {
      const int64_t request = n[NEXT]++, model = r_model[request];
      count_load(model, time, 1);
      m_peak[model] = std::max(m_peak[model], m_inflight[model]);
      found = attempt(request, time);
    }
    if (std::get<0>(found) != REACHED) return found;
  }
}

void Loop::set_limit(int64_t slot, int64_t limit) {
  s_limit[slot] = limit;
  cut(slot, now[0]);
}

void Loop::sample_load(double time, double *out) {
  for (int64_t model = 0; model < models; model++) {
    count_load(model, time, 0);
    out[model] = m_integral[model];
  }
}

}  // namespace warmserve
