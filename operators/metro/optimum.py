"""The exact optimum of MIN-EXP-ROUTING at greedy cost, with a certificate anybody can check.

Some optimum sends all tokens of an expert to one copy (paper, Lemma 1), so the problem is unit jobs on restricted
machines: a semi-matching. The paper solves it by bisection over max-flows; here a greedy start (experts with the fewest
candidates first) is improved along cost-reducing paths until none leaves the most loaded GPUs. The GPUs reached by that
last search are the proof: the experts that can live nowhere else fill them to the brim (Hall's condition).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.metro.assignment import Routing, checked, from_share
from operators.metro.greedy import by_candidates, choose_least_loaded, give_whole


@dataclass(frozen=True)
class Certificate:
    """Why no routing activates fewer than `lam` experts on its busiest GPU: too many experts must share `gpus`."""

    lam: int
    gpus: tuple[int, ...]


def check_certificate(cert: Certificate, candidates: Sequence[Iterable[int]], active: Iterable[int]) -> bool:
    """Whether `cert` proves that `cert.lam` is a lower bound.

    `candidates[i]`: GPUs with a copy of expert i; `active`: ids of the experts with tokens.
    """
    held = set(cert.gpus)
    bound_here = sum(set(candidates[expert]) <= held for expert in active)
    return bool(held) and -(-bound_here // len(held)) == cert.lam


def exact(
    layer: Any,
    topk: np.ndarray,
    source_gpu: np.ndarray | None = None,
    *,
    cost: Any = None,
    seed: int = 0,
    alive: np.ndarray | None = None,
    balance_tokens: bool = False,
) -> Routing:
    """Route `topk (T, k)` with the least possible maximum of activated experts; carries a Certificate.

    `balance_tokens`: among such routings lower the busiest GPU's tokens by local moves and swaps (a heuristic).
    """
    topk, counts, tables = checked(layer, topk, alive)
    share, reached, lam, _ = exact_share(
        counts[None, None], tables, layer.num_gpus, by_candidates(tables.cand_start), balance_tokens
    )
    proof = Certificate(int(lam[0, 0]), tuple(np.flatnonzero(reached[0, 0]).tolist()))
    return from_share(layer, topk, tables, share[0, 0], proof)


def exact_balanced(layer: Any, topk: np.ndarray, source_gpu: np.ndarray | None = None, **options: Any) -> Routing:
    """`exact` with `balance_tokens=True`."""
    return exact(layer, topk, source_gpu, balance_tokens=True, **options)


@kernel
def exact_share(counts, t, num_gpus, order, balance):
    """`share[S, L, R]`, the certificates' GPUs `[S, L, G]`, `lam[S, L]` and whether each certificate holds `[S, L]`."""
    steps, layers, experts = counts.shape
    share = np.empty((steps, layers, t.copy_gpu.shape[1]), np.int64)
    reached = np.empty((steps, layers, num_gpus), np.bool_)
    lam, certified = np.empty((steps, layers), np.int64), np.empty((steps, layers), np.bool_)
    choice, load = np.empty(experts, np.int64), np.empty(num_gpus, np.int64)
    for step in range(steps):
        for layer in range(layers):
            row = counts[step, layer]
            choose_least_loaded(row, t, layer, order[layer], choice, load)
            improve(t, layer, choice, load, reached[step, layer])
            lam[step, layer] = load.max()
            certified[step, layer] = _holds(row, t, layer, reached[step, layer], lam[step, layer])
            if balance:
                balance_tokens(row, t, layer, choice, load)
            give_whole(row, t, layer, choice, share[step, layer])
    return share, reached, lam, certified


@inner
def improve(t, layer, choice, load, reached):
    """Make `choice[N]`, `load[G]` optimal; `reached[G]` becomes the set of GPUs that proves it.

    When no GPU is two below the top no path can exist, and all GPUs together are the proof: no search is needed.
    """
    gpus = len(load)
    mover, by_cand = np.empty(gpus, np.int64), np.empty(gpus, np.int64)
    queue = np.empty(gpus, np.int64)
    while True:
        top = load.max()
        if load.min() >= top - 1:
            reached[:] = True
            return
        end = _search(t, layer, choice, load, top, reached, mover, by_cand, queue)
        if end < 0:
            return
        load[end] += 1
        while mover[end] >= 0:
            expert = mover[end]
            came_from = t.cand_gpu[layer, choice[expert]]
            choice[expert] = by_cand[end]
            end = came_from
        load[end] -= 1


@inner
def _search(t, layer, choice, load, top, reached, mover, by_cand, queue):
    """Breadth-first from all GPUs at `top` until one with load <= top - 2; -1 when there is none.

    Edges of a GPU in ascending expert id, then ascending GPU. `mover[h]` is the expert that would move to h, as
    candidate `by_cand[h]`.
    """
    tail = 0
    for gpu in range(len(load)):
        reached[gpu] = load[gpu] == top
        mover[gpu] = -1
        if reached[gpu]:
            queue[tail] = gpu
            tail += 1
    at = 0
    while at < tail:
        gpu = queue[at]
        at += 1
        for move in range(t.move_start[layer, gpu], t.move_start[layer, gpu + 1]):
            expert = t.move_expert[layer, move]
            if choice[expert] != t.move_cand[layer, move]:
                continue
            for cand in range(t.cand_start[layer, expert], t.cand_start[layer, expert + 1]):
                other = t.cand_gpu[layer, cand]
                if not reached[other]:
                    reached[other] = True
                    mover[other], by_cand[other] = expert, cand
                    if load[other] <= top - 2:
                        return other
                    queue[tail] = other
                    tail += 1
    return -1


@inner
def _holds(row, t, layer, reached, lam):
    """The certificate's arithmetic, independent of how `lam` was found."""
    inside, size = 0, reached.sum()
    whole = size == len(reached)  # then every expert is inside
    for expert in range(len(row)):
        if row[expert] > 0:
            held = True
            if not whole:
                for cand in range(t.cand_start[layer, expert], t.cand_start[layer, expert + 1]):
                    if not reached[t.cand_gpu[layer, cand]]:
                        held = False
                        break
            inside += held
    return size > 0 and (inside + size - 1) // size == lam


@inner
def balance_tokens(row, t, layer, choice, load):
    """Lower the busiest GPU's tokens by moving one expert off it or swapping two, never above the present `lam`.

    Each time the change with the smallest larger side of the two GPUs, ties to the lowest ids; at most 4 * active.
    """
    lam = load.max()
    tokens = np.zeros(len(load), np.int64)
    moves = 0
    for expert in range(len(row)):
        if choice[expert] >= 0:
            tokens[t.cand_gpu[layer, choice[expert]]] += row[expert]
            moves += 4
    for _ in range(moves):
        worst = np.argmax(tokens)
        mine, cand, other = _best_exchange(row, t, layer, choice, load, tokens, worst, lam)
        if mine < 0:
            return
        goes_to = t.cand_gpu[layer, cand]
        tokens[worst] -= row[mine]
        tokens[goes_to] += row[mine]
        choice[mine] = cand
        if other < 0:
            load[worst] -= 1
            load[goes_to] += 1
        else:
            tokens[worst] += row[other]
            tokens[goes_to] -= row[other]
            choice[other] = _candidate_on(t, layer, other, worst)


@inner
def _best_exchange(row, t, layer, choice, load, tokens, worst, lam):
    """(expert to move off `worst`, its new candidate, expert to swap in or -1), or (-1, -1, -1) when nothing helps."""
    best, found = tokens[worst], (-1, -1, -1)
    first, last = t.move_start[layer, worst], t.move_start[layer, worst + 1]
    for move in range(first, last):
        mine = t.move_expert[layer, move]
        if choice[mine] != t.move_cand[layer, move]:
            continue
        for cand in range(t.cand_start[layer, mine], t.cand_start[layer, mine + 1]):
            goes_to = t.cand_gpu[layer, cand]
            if goes_to == worst or tokens[goes_to] >= best:
                continue
            larger = max(tokens[worst] - row[mine], tokens[goes_to] + row[mine])
            if load[goes_to] < lam and larger < best:
                best, found = larger, (mine, cand, -1)
            for back in range(first, last):
                other = t.move_expert[layer, back]
                if choice[other] >= 0 and t.cand_gpu[layer, choice[other]] == goes_to and row[other] < row[mine]:
                    shift = row[mine] - row[other]
                    larger = max(tokens[worst] - shift, tokens[goes_to] + shift)
                    if larger < best:
                        best, found = larger, (mine, cand, other)
    return found


@inner
def _candidate_on(t, layer, expert, gpu):
    for cand in range(t.cand_start[layer, expert], t.cand_start[layer, expert + 1]):
        if t.cand_gpu[layer, cand] == gpu:
            return cand
    return -1
