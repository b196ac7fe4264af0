// Reads of 4 KiB sectors: io_uring, a pool of pread threads where io_uring is not allowed, or mapped memory.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace pg {

constexpr size_t SECTOR = 4096;

struct Read {
  int fd = -1;
  uint64_t offset = 0;
  uint8_t* buffer = nullptr;  // SECTOR bytes, aligned to SECTOR; owned by whoever asks
  void* owner = nullptr;
  int index = 0;
  int result = 0;  // bytes read, or -errno
};

class Disk {
 public:
  virtual ~Disk() = default;
  virtual void queue(Read* read) = 0;
  virtual void submit() = 0;                                        // hand everything queued to the kernel
  virtual void reap(std::vector<Read*>& done, bool wait) = 0;       // finished reads; `wait` blocks for at least one
  virtual int fd() const = 0;                                       // readable when something has finished; -1: never
};

// Throws std::system_error where the kernel refuses.
std::unique_ptr<Disk> make_uring(unsigned depth);
std::unique_ptr<Disk> make_threads(unsigned threads);

}  // namespace pg
