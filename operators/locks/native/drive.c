#include "drive.h"
#include <time.h>

double lk_cpu_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

uint64_t lk_drive(lk_ctx *c, uint32_t sec, const lk_row *rows, uint64_t nrows, uint64_t n, volatile int *stop) {
  uint64_t done = 0, at = c->seq % nrows; /* call number seq + 1 has row seq mod nrows */
  lk_result out;
  while (done < n && !(stop && *stop)) {
    const lk_row *row = rows + at;
    int64_t args[LK_ARGS] = {row->a, row->b, row->amount, c->slot};
    if (lk_call(c, sec, args, 1u << 20, &out) == LK_BUSY) continue;
    if (out.outcome != LK_OK) break;
    done++;
    if (++at == nrows) at = 0;
  }
  return done;
}
