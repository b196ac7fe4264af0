// The declared bottleneck of a metered server: so many reads a second, and a service latency for a batch of reads.
#pragma once
#include <algorithm>
#include <cstdint>

namespace pg {

// A token bucket: at most `burst + cap * t` reads in any t seconds. cap 0: no limit.
class TokenBucket {
 public:
  TokenBucket(double cap, double burst) : cap_(cap), burst_(std::max(1.0, burst)), tokens_(burst_) {}
  bool take(int64_t now_ns) {
    if (cap_ <= 0) return true;
    refill(now_ns);
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }
  void set_cap(double cap) { cap_ = cap; }
  // When the next token is there.
  int64_t next_ns(int64_t now_ns) {
    if (cap_ <= 0) return now_ns;
    refill(now_ns);
    return tokens_ >= 1 ? now_ns : now_ns + int64_t((1 - tokens_) / cap_ * 1e9) + 1;
  }

 private:
  void refill(int64_t now_ns) {
    if (last_ns_) tokens_ = std::min(burst_, tokens_ + cap_ * double(now_ns - last_ns_) * 1e-9);
    last_ns_ = now_ns;
  }
  double cap_, burst_, tokens_;
  int64_t last_ns_ = 0;
};

}  // namespace pg
