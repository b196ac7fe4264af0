/* The explorer once more, with cell tags of 2 bits: they wrap after 4 updates, within reach of an exhaustive search. */
#undef LOCKS_TAG_BITS
#define LOCKS_TAG_BITS 2
#define ex_explore ex_explore_tag2
#include "explore.c"
