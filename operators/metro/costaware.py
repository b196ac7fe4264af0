"""Routing by predicted time instead of activated experts alone.

Fewest activated experts is the right goal only while a GPU reads weights; at larger batches tokens count as well. Given
a fitted kernel cost t(A, n), `adaptive` takes the best of six routings and improves it locally: the fixed-charge
makespan problem of TEMPO (arXiv 2608.13057, NP-hard at two GPUs), within microseconds and without a guarantee beyond
"never worse than the six under the model".
"""

from typing import Any

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.metro.assignment import Routing, RoutingError, checked, from_share
from operators.metro.greedy import by_candidates, choose_least_loaded, give_whole
from operators.metro.optimum import balance_tokens, improve

FORMS = ("sum", "max", "pnorm")


def adaptive(
    layer: Any,
    topk: np.ndarray,
    source_gpu: np.ndarray | None = None,
    *,
    cost: Any = None,
    seed: int = 0,
    alive: np.ndarray | None = None,
) -> Routing:
    """Route `topk (T, k)` for the least predicted max_g t(A_g, n_g); `cost` has form, a, b, beta, c, p (us)."""
    topk, counts, tables = checked(layer, topk, alive)
    share = adaptive_share(
        counts[None, None], tables, layer.num_gpus, by_candidates(tables.cand_start), cost_numbers(cost)
    )
    return from_share(layer, topk, tables, share[0, 0])


def cost_numbers(cost: Any) -> np.ndarray:
    """The cost model as the kernels take it: (form, a, b, beta, c, p); RoutingError when there is none."""
    if cost is None:
        raise RoutingError("cost (=None): adaptive needs a cost model with form, a, b, beta, c and p")
    lacking = [name for name in ("form", "a", "b", "beta", "c", "p") if not hasattr(cost, name)]
    if lacking:
        raise RoutingError(f"cost (={cost!r:.60}): has no {', '.join(lacking)}; expected a MoeCost")
    if cost.form not in FORMS:
        raise RoutingError(f"cost.form (={cost.form!r}): unknown; known: {', '.join(FORMS)}")
    return np.array([FORMS.index(cost.form), cost.a, cost.b, cost.beta, cost.c, cost.p], np.float64)


@inner
def score(cost, activated, tokens):
    """A number that grows with t(A, n) and is cheaper: the p-norm without its offset and root."""
    if cost[0] == 0:
        return cost[2] * activated + cost[3] * tokens
    if cost[0] == 1:
        return max(cost[1] + cost[2] * activated, cost[4] + cost[3] * tokens)
    return (cost[2] * activated) ** cost[5] + (cost[3] * tokens) ** cost[5]


@kernel
def adaptive_share(counts, t, num_gpus, order, cost):
    """`share[S, L, R]`: best of primary, even, metro, exact, exact balanced, LPT (earlier wins), improved locally."""
    steps, layers, experts = counts.shape
    slots = t.copy_gpu.shape[1]
    share = np.empty((steps, layers, slots), np.int64)
    options = np.empty((6, slots), np.int64)
    choice, load = np.empty(experts, np.int64), np.empty(num_gpus, np.int64)
    reached, index = np.empty(num_gpus, np.bool_), np.arange(experts)
    for step in range(steps):
        for layer in range(layers):
            row = counts[step, layer]
            _spread(row, t, layer, options[0], options[1])
            choose_least_loaded(row, t, layer, index, choice, load)
            give_whole(row, t, layer, choice, options[2])
            choose_least_loaded(row, t, layer, order[layer], choice, load)
            improve(t, layer, choice, load, reached)
            give_whole(row, t, layer, choice, options[3])
            balance_tokens(row, t, layer, choice, load)
            give_whole(row, t, layer, choice, options[4])
            _longest_first(row, t, layer, cost, num_gpus, options[5])
            best, least = 0, np.inf
            for option in range(6):
                worst = _state(options[option], t, layer, cost, num_gpus)[2].max()
                if worst < least:
                    best, least = option, worst
            for at in range(slots):
                share[step, layer, at] = options[best, at]
            _descend(share[step, layer], t, layer, cost, num_gpus)
    return share


@inner
def _spread(row, t, layer, first_only, evenly):
    first_only[:] = 0
    evenly[:] = 0
    for expert in range(len(row)):
        if row[expert] > 0:
            first = t.copy_start[layer, expert]
            copies = t.copy_start[layer, expert + 1] - first
            first_only[first] = row[expert]
            each = row[expert] // copies
            for rank in range(copies):
                evenly[first + rank] = each + (rank < row[expert] - each * copies)


@inner
def _longest_first(row, t, layer, cost, num_gpus, share):
    """LPT: experts by descending tokens, each whole to the copy whose GPU then has the least time."""
    share[:] = 0
    activated, tokens = np.zeros(num_gpus, np.int64), np.zeros(num_gpus, np.int64)
    for expert in _most_tokens_first(row):
        if row[expert] == 0:
            return
        best, least = -1, np.inf
        for at in range(t.copy_start[layer, expert], t.copy_start[layer, expert + 1]):
            gpu = t.copy_gpu[layer, at]
            then = score(cost, activated[gpu] + 1, tokens[gpu] + row[expert])
            if then < least:
                best, least = at, then
        share[best] = row[expert]
        activated[t.copy_gpu[layer, best]] += 1
        tokens[t.copy_gpu[layer, best]] += row[expert]


@inner
def _most_tokens_first(row):
    """Expert ids by descending tokens, then id (counting sort)."""
    largest = row.max() if len(row) else 0
    start, order = np.zeros(largest + 2, np.int64), np.empty(len(row), np.int64)
    for have in row:
        start[largest - have + 1] += 1
    for at in range(largest + 1):
        start[at + 1] += start[at]
    for expert in range(len(row)):
        at = largest - row[expert]
        order[start[at]] = expert
        start[at] += 1
    return order


@inner
def _state(share, t, layer, cost, num_gpus):
    """Activated experts, tokens and score of every GPU."""
    activated, tokens = np.zeros(num_gpus, np.int64), np.zeros(num_gpus, np.int64)
    for at in range(t.copy_start[layer, -1]):
        if share[at] > 0:
            activated[t.copy_gpu[layer, at]] += 1
            tokens[t.copy_gpu[layer, at]] += share[at]
    times = np.empty(num_gpus, np.float64)
    for gpu in range(num_gpus):
        times[gpu] = score(cost, activated[gpu], tokens[gpu])
    return activated, tokens, times


@inner
def _descend(share, t, layer, cost, num_gpus):
    """Take the change on the worst GPU that lowers the maximum most, while one does; at most 4 * num_gpus times."""
    activated, tokens, times = _state(share, t, layer, cost, num_gpus)
    for _ in range(4 * num_gpus):
        worst = np.argmax(times)
        source, target, amount = _best_move(share, t, layer, cost, activated, tokens, times, worst)
        if source < 0:
            return
        gpu = t.copy_gpu[layer, target]
        activated[gpu] += share[target] == 0
        tokens[gpu] += amount
        share[target] += amount
        share[source] -= amount
        activated[worst] -= share[source] == 0
        tokens[worst] -= amount
        times[worst] = score(cost, activated[worst], tokens[worst])
        times[gpu] = score(cost, activated[gpu], tokens[gpu])


@inner
def _best_move(share, t, layer, cost, activated, tokens, times, worst):
    """(from copy, to copy, tokens): a whole share moved or merged, or half of it split off; from -1 when none helps.

    Only changes that leave the other GPUs' maximum below the present one count, so a tie at the top ends the search.
    """
    rival = -np.inf
    for gpu in range(len(times)):
        if gpu != worst:
            rival = max(rival, times[gpu])
    least, found = times[worst], (-1, -1, 0)
    if rival >= least:
        return found
    for expert in range(t.copy_start.shape[1] - 1):
        first, last = t.copy_start[layer, expert], t.copy_start[layer, expert + 1]
        if last - first < 2:
            continue
        for source in range(first, last):
            if share[source] == 0 or t.copy_gpu[layer, source] != worst:
                continue
            for target in range(first, last):
                if target == source:
                    continue
                gpu, opens = t.copy_gpu[layer, target], share[target] == 0
                for amount in (share[source], share[source] // 2):
                    closes = amount == share[source]
                    if gpu == worst:
                        after = score(cost, activated[worst] - closes + opens, tokens[worst])
                    else:
                        after = max(
                            score(cost, activated[worst] - closes, tokens[worst] - amount),
                            score(cost, activated[gpu] + opens, tokens[gpu] + amount),
                        )
                    after = max(after, rival)  # the target is among the rivals and only gains
                    if amount > 0 and after < least:
                        least, found = after, (source, target, amount)
    return found
