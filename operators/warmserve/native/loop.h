// The event loop of the simulator over arrays that Python owns; plane.py says what each field means.
#pragma once
#include <cstdint>
#include <tuple>

namespace warmserve {

enum State : int8_t { FREE = 0, CREATING = 1, RUNNING = 2, STOPPING = 3 };
enum Phase : int8_t { IDLE = 0, PREFILL = 1, DECODE = 2 };
enum Reason : int64_t { REACHED = 0, CREATE = 1, ENDED = 2, TAKEBACK = 3, FINISHED = 4 };
enum Found { OK, SHORT, EMPTY };
enum Counter { NEXT = 0, RING_HEAD = 1, RING_COUNT = 2, DONE = 3, STEPS = 4 };

using Answer = std::tuple<int64_t, int64_t, int64_t>;

struct Loop {
  int64_t requests, slots, models, sequences, near, leaves, ring;
  double *now, *option, *r_arrival, *r_sent, *r_first, *r_finish, *s_ready, *s_since, *s_first_s, *s_more_s, *s_coef;
  double *m_integral, *m_since, *q_time, *due;
  int64_t *n, *s_steps, *s_used, *s_limit, *s_cap, *s_context, *m_batch;
  int32_t *r_model, *r_in, *r_out, *r_gen, *r_engine, *r_next, *s_model, *s_engine, *s_count, *s_running, *s_batch, *s_new;
  int32_t *s_head, *s_tail, *s_block, *s_near, *s_near_busy, *m_slots, *m_slot_count, *m_inflight, *m_peak, *m_creating;
  int32_t *q_request, *w_head, *w_tail, *tree;
  int16_t *r_preempted;
  int8_t *r_kind, *s_state, *s_kind, *s_phase, *m_may_create;

  Answer advance(double until);
  void attach(int64_t slot, int64_t request) { hand_over(slot, request, now[0]); }
  void put_off(int64_t request) { wait(request, now[0]); }
  Answer resume(int64_t slot) { return settle(slot, now[0], begin(slot, now[0])); }
  void set_limit(int64_t slot, int64_t limit);
  void sample_load(double time, double *out);

 private:
  void set_due(int64_t slot, double time);
  double span(int64_t slot, int64_t steps) const;
  void cut(int64_t slot, double time);
  void count_load(int64_t model, double time, int change);
  void share_changed(int64_t slot, double time, int change);
  void end_step(int64_t slot, double time);
  Found admit(int64_t slot, double time);
  int64_t blocks_after(int64_t slot, int64_t steps) const;
  void preempt_newest(int64_t slot);
  Found decode(int64_t slot, double time);
  Found begin(int64_t slot, double time);
  int64_t route(int64_t model) const;
  Found hand_over(int64_t slot, int64_t request, double time);
  void wait(int64_t request, double time);
  Answer attempt(int64_t request, double time);
  int64_t wake(int64_t model, double time);
  Answer settle(int64_t slot, double time, Found found);
  int64_t tokens(int64_t request) const { return (int64_t)r_in[request] + r_gen[request]; }
};

}  // namespace warmserve
