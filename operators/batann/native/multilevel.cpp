#include "multilevel.h"

namespace pg {
size_t multilevel(const int64_t *, const int32_t *, size_t, int, double, uint64_t, int, int32_t *) { return 0; }
}  // namespace pg
