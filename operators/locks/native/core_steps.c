/* The core once more, counting its shared accesses (crash_at, stop_at). */
#define LOCKS_STEPS
#include "core.c"
