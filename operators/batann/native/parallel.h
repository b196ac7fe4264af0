// run(count, threads, work): work(thread, begin, end) over blocks of [0, count); what a block writes is its own affair,
// so results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace pg {

template <class Work> void run(size_t count, int threads, size_t block, Work &&work) {
  threads = std::max(1, threads);
  if (threads == 1 || count <= block) {
    if (count) work(0, size_t(0), count);
    return;
  }
  std::atomic<size_t> next{0};
  auto loop = [&](int thread) {
    for (;;) {
      const size_t begin = next.fetch_add(block);
      if (begin >= count) return;
      work(thread, begin, std::min(count, begin + block));
    }
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; t++) pool.emplace_back(loop, t);
  loop(0);
  for (auto &thread : pool) thread.join();
}

}  // namespace pg
