/* Walks without locks. Nodes are never unmapped and every change gives a cell another tag, so a walk that strays into a
 * freed or reused node notices (dead mark, keys out of order, or too many steps) and starts again. A find is valid when
 * the words that decide it are the same twice. */
#include "structures.h"

enum { MORE = 1, WALK = 1 << 22 };
#define TRIES (1u << 20)

static inline uint64_t field(const ds_set *s, uint64_t node, int f) { return s->base + (node - 1) * s->stride + (uint64_t)f; }
static inline int64_t value_of(word w) { return (int64_t)(w << 20) >> 20; }
static inline int64_t get(lk_ctx *c, const ds_set *s, uint64_t node, int f) {
  return value_of(lk_word(c, field(s, node, f)));
}
static inline int is_node(const ds_set *s, int64_t node) { return node >= 1 && (uint64_t)node <= s->nodes; }

typedef struct { uint64_t grand, parent, node; int64_t key, parent_version, grand_version, version; } place;

/* List: parent.key < key <= node.key, node 0 at the end. 0 when the walk strayed. */
static int walk_list(lk_ctx *c, const ds_set *s, int64_t key, place *p) {
  uint64_t at = 1;
  int64_t last = get(c, s, 1, N_KEY);
  for (uint64_t steps = 0; steps <= 2 * s->nodes + 8; steps++) {
    int64_t next = get(c, s, at, N_LINK);
    if (next == 0) { *p = (place){.parent = at, .node = 0}; return 1; }
    if (!is_node(s, next)) return 0;
    int64_t k = get(c, s, (uint64_t)next, N_KEY);
    if (get(c, s, (uint64_t)next, N_DEAD) || k <= last) return 0;
    if (k >= key) { *p = (place){.parent = at, .node = (uint64_t)next, .key = k}; return 1; }
    last = k, at = (uint64_t)next;
  }
  return 0;
}

/* Tree with keys in the leaves: the leaf where the search for `key` ends, its parent and grandparent. */
static int walk_tree(lk_ctx *c, const ds_set *s, int64_t key, place *p) {
  uint64_t grand = 0, parent = 0, at = 1;
  int64_t gv = 0, pv = 0;
  for (int steps = 0; steps < WALK; steps++) {
    int64_t version = get(c, s, at, N_VERSION), right = get(c, s, at, N_OTHER), k = get(c, s, at, N_KEY);
    if (get(c, s, at, N_DEAD)) return 0;
    if (right == 0) {
      *p = (place){grand, parent, at, k, pv, gv, version};
      return 1;
    }
    int64_t next = key < k ? get(c, s, at, N_LINK) : right;
    if (!is_node(s, next) || get(c, s, at, N_VERSION) != version) return 0;
    grand = parent, parent = at, at = (uint64_t)next, gv = pv, pv = version;
  }
  return 0;
}

static uint64_t bucket_of(const ds_set *s, int64_t key) {
  uint64_t h = (uint64_t)key * 0x9e3779b97f4a7c15ull;
  return (h >> 32) % s->buckets;
}

/* Hash map: node with `key` in its bucket (0: none) and the node before it; `version` of the bucket before the walk. */
static int walk_hash(lk_ctx *c, const ds_set *s, int64_t key, place *p) {
  uint64_t b = bucket_of(s, key);
  int64_t version = value_of(lk_word(c, s->versions + b));
  int64_t at = value_of(lk_word(c, s->heads + b)), before = 0;
  for (uint64_t steps = 0; at && steps <= s->nodes; steps++) {
    if (!is_node(s, at)) return 0;
    if (get(c, s, (uint64_t)at, N_KEY) == key) break;
    before = at, at = get(c, s, (uint64_t)at, N_LINK);
  }
  *p = (place){.grand = b, .parent = (uint64_t)before, .node = (uint64_t)at, .version = version};
  return value_of(lk_word(c, s->versions + b)) == version;
}

static int walk(lk_ctx *c, const ds_set *s, int64_t key, place *p) {
  if (s->kind == DS_HASH) return walk_hash(c, s, key, p);
  return s->kind == DS_TREE ? walk_tree(c, s, key, p) : walk_list(c, s, key, p);
}

/* The words that decide a find, read twice. */
static int find(lk_ctx *c, const ds_set *s, int64_t key, int64_t *value) {
  place p;
  for (uint32_t i = 0; i < TRIES; i++) {
    if (s->kind == DS_HASH) { /* valid at the moment the version was seen again */
      if (!walk_hash(c, s, key, &p)) continue;
      int64_t found = p.node ? get(c, s, p.node, N_OTHER) : 0;
      if (value_of(lk_word(c, s->versions + p.grand)) != p.version) continue;
      if (value) *value = found;
      return p.node != 0;
    }
    if (!walk(c, s, key, &p)) continue;
    uint64_t at[6];
    int n = 0;
    at[n++] = field(s, p.parent, N_DEAD), at[n++] = field(s, p.parent, N_KEY);
    int side = s->kind == DS_TREE && key >= get(c, s, p.parent, N_KEY) ? N_OTHER : N_LINK;
    at[n++] = field(s, p.parent, side);
    if (s->kind == DS_TREE) at[n++] = field(s, p.parent, N_VERSION);
    if (p.node) at[n++] = field(s, p.node, N_KEY);
    word first[6];
    int same = 1;
    for (int k = 0; k < n; k++) first[k] = lk_word(c, at[k]);
    for (int k = 0; k < n; k++) same &= lk_word(c, at[k]) == first[k];
    if (!same || value_of(first[0]) || (uint64_t)value_of(first[2]) != p.node) continue;
    if (s->kind == DS_TREE && value_of(first[3]) != p.parent_version) continue;
    if (s->kind != DS_TREE && value_of(first[1]) >= key && p.parent != 1) continue;
    int64_t k = p.node ? value_of(first[n - 1]) : 0;
    if (s->kind != DS_TREE && p.node && k < key) continue;
    return p.node && k == key;
  }
  return DS_REFUSED;
}

static int change(lk_ctx *c, uint32_t sec, const int64_t args[LK_ARGS], int64_t *result) {
  lk_result out;
  int outcome = lk_call(c, sec, args, TRIES, &out);
  *result = out.nres ? out.res[0] : 0;
  if (outcome == LK_E_POOL) return DS_EXHAUSTED;
  return outcome == LK_OK ? 1 : outcome == LK_BUSY ? DS_REFUSED : DS_FAILED;
}

int ds_op(lk_ctx *c, const ds_set *s, int op, int64_t key, int64_t *value) {
  if (op == DS_FIND) return find(c, s, key, value);
  place p;
  int64_t out;
  for (uint32_t i = 0; i < TRIES; i++) {
    int ok;
    if (!walk(c, s, key, &p)) continue;
    int there = s->kind == DS_HASH ? p.node != 0 : p.node && p.key == key;
    if (s->kind != DS_HASH && there == (op == DS_INSERT)) { /* nothing to change, if that was true at one moment */
      int found = find(c, s, key, value);
      if (found < 0) return found;
      if (found == there) return 0;
      continue;
    }
    if (s->kind == DS_HASH) {
      if (op == DS_REMOVE && !there) return 0;
      int64_t put[LK_ARGS] = {(int64_t)p.grand, p.version, (int64_t)p.node, key, value ? *value : 0};
      int64_t cut[LK_ARGS] = {(int64_t)p.grand, p.version, (int64_t)p.node, (int64_t)p.parent};
      ok = op == DS_INSERT ? change(c, s->insert, put, &out) : change(c, s->remove, cut, &out);
    } else if (s->kind == DS_TREE) {
      int64_t put[LK_ARGS] = {(int64_t)p.parent, p.parent_version, (int64_t)p.node, key};
      int64_t cut[LK_ARGS] = {(int64_t)p.grand, p.grand_version, (int64_t)p.parent, p.parent_version, (int64_t)p.node, key};
      ok = op == DS_INSERT ? change(c, s->insert, put, &out) : change(c, s->remove, cut, &out);
    } else {
      int64_t args[LK_ARGS] = {(int64_t)p.parent, (int64_t)p.node, key};
      ok = change(c, op == DS_INSERT ? s->insert : s->remove, args, &out);
    }
    if (ok == DS_EXHAUSTED) { /* nodes for this slot's list, by a section of its own */
      int64_t got, mine[LK_ARGS] = {(int64_t)c->slot};
      int filled = change(c, s->refill, mine, &got);
      if (filled != 1) return filled;
      if (!got) return DS_EXHAUSTED;
      continue;
    }
    if (ok != 1) return ok;
    if (out >= 0) return (int)out;
  }
  return DS_REFUSED;
}

int64_t ds_drive(lk_ctx *c, const ds_set *s, const int32_t *keys, const uint8_t *ops, uint64_t n) {
  int64_t done = 0;
  for (uint64_t i = 0; i < n; i++) {
    int64_t value = keys[i];
    int result = ds_op(c, s, ops[i], keys[i], &value);
    if (result < 0) return result;
    done += result;
  }
  return done;
}

static int64_t tree_keys(lk_ctx *c, const ds_set *s, uint64_t node, int64_t *out, int64_t n, int64_t room, int depth) {
  if (n < 0 || depth > 4000 || !is_node(s, (int64_t)node)) return -1;
  int64_t right = get(c, s, node, N_OTHER);
  if (right == 0) {
    if (get(c, s, node, N_KEY) == (1ll << 43) - 1) return n;
    if (n < room) out[n] = get(c, s, node, N_KEY);
    return n + 1;
  }
  n = tree_keys(c, s, (uint64_t)get(c, s, node, N_LINK), out, n, room, depth + 1);
  return tree_keys(c, s, (uint64_t)right, out, n, room, depth + 1);
}

int64_t ds_keys(lk_ctx *c, const ds_set *s, int64_t *out, int64_t *values, int64_t room) {
  int64_t n = 0;
  if (s->kind == DS_TREE) return tree_keys(c, s, 1, out, 0, room, 0);
  uint64_t chains = s->kind == DS_HASH ? s->buckets : 1;
  for (uint64_t b = 0; b < chains; b++) {
    int64_t at = s->kind == DS_HASH ? value_of(lk_word(c, s->heads + b)) : get(c, s, 1, N_LINK);
    for (uint64_t steps = 0; at; steps++) {
      if (!is_node(s, at) || steps > s->nodes) return -1;
      if (s->kind == DS_DLIST && get(c, s, (uint64_t)at, N_LINK) == 0) break; /* the sentinel at the end */
      if (n < room) {
        out[n] = get(c, s, (uint64_t)at, N_KEY);
        if (values) values[n] = get(c, s, (uint64_t)at, N_OTHER);
      }
      n++, at = get(c, s, (uint64_t)at, N_LINK);
    }
  }
  return n;
}
