#include "disk.h"

#include <linux/io_uring.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

namespace pg {
namespace {

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

int made_eventfd() {
  int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) fail("eventfd");
  return fd;
}

void drain(int fd) {
  uint64_t value;
  while (read(fd, &value, sizeof value) == sizeof value) {
  }
}

// The raw system calls: the kernel's header is all it needs, and nothing is paid per read beyond the ring.
class Uring final : public Disk {
 public:
  explicit Uring(unsigned depth) {
    io_uring_params params{};
    ring_ = static_cast<int>(syscall(__NR_io_uring_setup, depth, &params));
    if (ring_ < 0) fail("io_uring_setup");
    sq_bytes_ = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    cq_bytes_ = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
    sqe_bytes_ = params.sq_entries * sizeof(io_uring_sqe);
    sq_ = map(sq_bytes_, IORING_OFF_SQ_RING);
    cq_ = map(cq_bytes_, IORING_OFF_CQ_RING);
    sqes_ = reinterpret_cast<io_uring_sqe*>(map(sqe_bytes_, IORING_OFF_SQES));
    sq_head_ = at(sq_, params.sq_off.head), sq_tail_ = at(sq_, params.sq_off.tail);
    sq_mask_ = *at(sq_, params.sq_off.ring_mask), sq_array_ = at(sq_, params.sq_off.array);
    cq_head_ = at(cq_, params.cq_off.head), cq_tail_ = at(cq_, params.cq_off.tail);
    cq_mask_ = *at(cq_, params.cq_off.ring_mask);
    cqes_ = reinterpret_cast<io_uring_cqe*>(cq_ + params.cq_off.cqes);
    entries_ = params.sq_entries;
    event_ = made_eventfd();
    if (syscall(__NR_io_uring_register, ring_, IORING_REGISTER_EVENTFD, &event_, 1) < 0) fail("io_uring_register");
  }
  ~Uring() override {
    std::vector<Read*> rest;
    while (in_flight_) reap(rest, true);  // the kernel writes into buffers that are about to be freed
    munmap(sqes_, sqe_bytes_), munmap(sq_, sq_bytes_), munmap(cq_, cq_bytes_);
    close(ring_), close(event_);
  }
  void queue(Read* read) override { waiting_.push_back(read); }
  void submit() override {
    while (!waiting_.empty()) {
      unsigned tail = *sq_tail_, added = 0;
      while (!waiting_.empty() && in_flight_ + added < entries_) {
        Read* read = waiting_.front();
        waiting_.pop_front();
        io_uring_sqe& sqe = sqes_[tail & sq_mask_];
        std::memset(&sqe, 0, sizeof sqe);
        sqe.opcode = IORING_OP_READ;
        sqe.fd = read->fd, sqe.off = read->offset, sqe.len = SECTOR;
        sqe.addr = reinterpret_cast<uint64_t>(read->buffer), sqe.user_data = reinterpret_cast<uint64_t>(read);
        sq_array_[tail & sq_mask_] = tail & sq_mask_;
        tail++, added++;
      }
      if (!added) return;  // the ring is full: the rest goes out when something has come back
      __atomic_store_n(sq_tail_, tail, __ATOMIC_RELEASE);
      in_flight_ += added;
      enter(added, 0);
    }
  }
  void reap(std::vector<Read*>& done, bool wait) override {
    size_t before = done.size();
    collect(done);
    if (wait && done.size() == before && in_flight_) {
      enter(0, 1);
      collect(done);
    }
    drain(event_);
    collect(done);
    if (!waiting_.empty()) submit();
  }
  int fd() const override { return event_; }

 private:
  uint8_t* map(size_t bytes, uint64_t offset) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_, static_cast<off_t>(offset));
    if (p == MAP_FAILED) fail("mmap of the ring");
    return static_cast<uint8_t*>(p);
  }
  static unsigned* at(uint8_t* base, unsigned offset) { return reinterpret_cast<unsigned*>(base + offset); }
  void enter(unsigned submit, unsigned least) {
    while (true) {
      long n = syscall(__NR_io_uring_enter, ring_, submit, least, least ? IORING_ENTER_GETEVENTS : 0u, nullptr, 0);
      if (n >= 0 && static_cast<unsigned>(n) >= submit) return;
      if (n >= 0) submit -= static_cast<unsigned>(n);
      else if (errno != EINTR && errno != EAGAIN && errno != EBUSY) fail("io_uring_enter");
    }
  }
  void collect(std::vector<Read*>& done) {
    unsigned head = *cq_head_;
    while (head != __atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE)) {
      io_uring_cqe& cqe = cqes_[head & cq_mask_];
      Read* read = reinterpret_cast<Read*>(cqe.user_data);
      read->result = cqe.res;
      done.push_back(read);
      head++, in_flight_--;
    }
    __atomic_store_n(cq_head_, head, __ATOMIC_RELEASE);
  }
  int ring_ = -1, event_ = -1;
  size_t sq_bytes_, cq_bytes_, sqe_bytes_;
  uint8_t *sq_, *cq_;
  io_uring_sqe* sqes_;
  io_uring_cqe* cqes_;
  unsigned *sq_head_, *sq_tail_, *sq_array_, *cq_head_, *cq_tail_, sq_mask_, cq_mask_, entries_, in_flight_ = 0;
  std::deque<Read*> waiting_;
};

class Threads final : public Disk {
 public:
  explicit Threads(unsigned count) : event_(made_eventfd()) {
    for (unsigned i = 0; i < count; i++) pool_.emplace_back([this] { work(); });
  }
  ~Threads() override {
    {
      std::lock_guard<std::mutex> hold(lock_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& thread : pool_) thread.join();
    close(event_);
  }
  void queue(Read* read) override { fresh_.push_back(read); }
  void submit() override {
    if (fresh_.empty()) return;
    {
      std::lock_guard<std::mutex> hold(lock_);
      todo_.insert(todo_.end(), fresh_.begin(), fresh_.end());
      open_ += fresh_.size();
    }
    fresh_.clear();
    wake_.notify_all();
  }
  void reap(std::vector<Read*>& done, bool wait) override {
    drain(event_);
    std::unique_lock<std::mutex> hold(lock_);
    if (wait) finished_.wait(hold, [this] { return !done_.empty() || !open_; });
    open_ -= done_.size();
    done.insert(done.end(), done_.begin(), done_.end());
    done_.clear();
  }
  int fd() const override { return event_; }

 private:
  void work() {
    std::unique_lock<std::mutex> hold(lock_);
    while (true) {
      wake_.wait(hold, [this] { return stop_ || !todo_.empty(); });
      if (todo_.empty()) return;  // stopping: reads already asked for are still served
      Read* read = todo_.front();
      todo_.pop_front();
      hold.unlock();
      ssize_t n = pread(read->fd, read->buffer, SECTOR, static_cast<off_t>(read->offset));
      read->result = n < 0 ? -errno : static_cast<int>(n);
      hold.lock();
      done_.push_back(read);
      uint64_t one = 1;
      if (write(event_, &one, sizeof one) != sizeof one) {  // full counter: it is readable anyway
      }
      finished_.notify_one();
    }
  }
  int event_;
  std::mutex lock_;
  std::condition_variable wake_, finished_;
  std::deque<Read*> todo_;
  std::vector<Read*> fresh_, done_;
  size_t open_ = 0;
  bool stop_ = false;
  std::vector<std::thread> pool_;
};

}  // namespace

std::unique_ptr<Disk> make_uring(unsigned depth) { return std::make_unique<Uring>(depth); }
std::unique_ptr<Disk> make_threads(unsigned threads) { return std::make_unique<Threads>(threads); }

}  // namespace pg
