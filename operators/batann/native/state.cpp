#include "state.h"

#include <array>
#include <cmath>
#include <cstring>

namespace pg {
namespace {

// Slicing by eight: eight table look-ups a step instead of one byte at a time.
struct CrcTables {
  std::array<std::array<uint32_t, 256>, 8> t;
  CrcTables() {
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; bit++) c = (c >> 1) ^ (c & 1 ? 0xEDB88320u : 0);
      t[0][i] = c;
    }
    for (int s = 1; s < 8; s++)
      for (int i = 0; i < 256; i++) t[s][i] = (t[s - 1][i] >> 8) ^ t[0][t[s - 1][i] & 255];
  }
};
const CrcTables TABLES;

template <class T>
void append(std::string& out, const std::vector<T>& items) {
  if (!items.empty()) out.append(reinterpret_cast<const char*>(items.data()), items.size() * sizeof(T));
}

template <class T>
const uint8_t* take(const uint8_t* at, size_t count, std::vector<T>& items) {
  items.resize(count);
  if (count) std::memcpy(items.data(), at, count * sizeof(T));
  return at + count * sizeof(T);
}

std::string wrong(const StateHeader& h) {
  if (h.L < 1 || h.L > MAX_L) return "L out of range";
  if (h.W < 1 || h.W > MAX_W) return "W out of range";
  if (h.k < 1 || h.k > h.L) return "k out of range";
  if (h.w_now > h.W) return "w_now above W";
  if (h.n_beam > h.L) return "beam longer than L";
  return "";
}

std::string wrong(const State& s) {
  for (size_t i = 0; i < s.beam.size(); i++) {
    const Candidate &c = s.beam[i];
    if (c.explored > 1 || !std::isfinite(c.dist)) return "bad beam entry";
    if (i && (s.beam[i - 1].dist > c.dist || (s.beam[i - 1].dist == c.dist && s.beam[i - 1].id >= c.id)))
      return "beam is not sorted";
  }
  return "";
}

}  // namespace

uint32_t crc32(const void* data, size_t size, uint32_t crc) {
  const uint8_t* p = static_cast<const uint8_t*>(data);
  const auto& t = TABLES.t;
  crc = ~crc;
  for (; size >= 8; size -= 8, p += 8) {
    uint32_t low, high;
    std::memcpy(&low, p, 4);
    std::memcpy(&high, p + 4, 4);
    low ^= crc;
    crc = t[7][low & 255] ^ t[6][(low >> 8) & 255] ^ t[5][(low >> 16) & 255] ^ t[4][low >> 24] ^ t[3][high & 255] ^
          t[2][(high >> 8) & 255] ^ t[1][(high >> 16) & 255] ^ t[0][high >> 24];
  }
  while (size--) crc = (crc >> 8) ^ t[0][(crc ^ *p++) & 255];
  return ~crc;
}

size_t state_size(const State& s) {
  return sizeof(StateHeader) + s.history.size() + 9 * s.beam.size() + 8 * s.full.size() + 4;
}

void write_state(State& s, std::string& out) {
  s.head.n_history = static_cast<uint16_t>(s.history.size());
  s.head.n_beam = static_cast<uint16_t>(s.beam.size());
  s.head.n_full = static_cast<uint32_t>(s.full.size());
  size_t start = out.size();
  out.reserve(start + state_size(s));
  out.append(reinterpret_cast<const char*>(&s.head), sizeof(StateHeader));
  append(out, s.history);
  append(out, s.beam);
  append(out, s.full);
  uint32_t crc = crc32(out.data() + start, out.size() - start);
  out.append(reinterpret_cast<const char*>(&crc), 4);
}

std::string parse_state(const uint8_t* data, size_t size, State& s) {
  if (size < sizeof(StateHeader) + 4) return "shorter than a header";
  std::memcpy(&s.head, data, sizeof(StateHeader));
  const StateHeader& h = s.head;
  if (h.magic != STATE_MAGIC) return "wrong magic";
  if (h.version != STATE_VERSION) return "wrong version";
  if (size != sizeof(StateHeader) + h.n_history + 9ull * h.n_beam + 8ull * h.n_full + 4) return "wrong size";
  uint32_t stored;
  std::memcpy(&stored, data + size - 4, 4);
  if (stored != crc32(data, size - 4)) return "wrong checksum";
  if (std::string bad = wrong(h); !bad.empty()) return bad;
  const uint8_t* at = take(data + sizeof(StateHeader), h.n_history, s.history);
  at = take(at, h.n_beam, s.beam);
  take(at, h.n_full, s.full);
  return wrong(s);
}

}  // namespace pg
