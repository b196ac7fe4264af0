"""Bars of routing and placement beside the peers a user would pick: OR-tools, HiGHS, and EPLB's own file.

The reference `eplb.py` is not a package; it is shipped as one file inside the sglang wheel, which imports nothing but
torch once the environment flag it asks for is stubbed. Releases up to 0.5.2 ship DeepSeek's code as published (the
tensor loops; `.venv-peers/eplb-original`), later ones a version rewritten with lists that adds in float64. Both are
measured; identity is claimed for the first, with its one sort made stable.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from operators.lab.peers import Peer, PeerError, interpreter, paired
from operators.metro import batches, routing
from operators.metro.assignment import Tables
from operators.metro.batches import counts_of
from operators.metro.greedy import by_candidates, metro_share
from operators.metro.optimum import exact_share
from operators.metro.peers import row
from operators.metro.placement import place

SIZES = ((128, 8), (256, 16), (256, 64))
RATIO = 1.5
INSTANCES = 100  # routed in one call, so that the call itself does not show
ROUTER_LIMIT_US = 26.0  # bar 1 of the specification: the exact router on one core
BATCHED_LIMIT = 20_000.0  # bar 2: layer-batches a second
PLACEMENTS = ((288, 16, 1, 1), (384, 16, 1, 1), (320, 16, 8, 2))  # slots, GPUs, groups, nodes

EPLB_FILES = (
    ("original", "eplb.py as published (sglang 0.5.2 wheel)", 100.0),
    ("wheel", "eplb.py of the sglang wheel", None),
)

EPLB_PEER = r"""
import hashlib, json, sys, time, types, importlib.util, pathlib
import numpy as np, torch
torch.set_num_threads(1)
kind, load = sys.argv[1:]
root = pathlib.Path(sys.prefix) / "eplb-original" if kind == "original" else None
root = root or pathlib.Path(importlib.util.find_spec("sglang").origin).parents[1]
file = root / "sglang/srt/eplb/eplb_algorithms/deepseek.py"
stub = types.ModuleType("sglang.srt.utils")
stub.get_bool_env_var = lambda *_: False
for name in ("sglang", "sglang.srt"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["sglang.srt.utils"] = stub
text = file.read_text()
stable = text.replace("sort(-1, descending=True)", "sort(dim=-1, descending=True, stable=True)")
assert stable != text, f"{file}: no sort to make stable"
space = {}
exec(compile(stable, str(file), "exec"), space)
weight = torch.from_numpy(np.load(load))
for line in sys.stdin:
    slots, gpus, groups, nodes = json.loads(line)["sizes"]
    began = time.process_time()
    phys2log, _, _ = space["rebalance_experts"](weight, slots, groups, nodes, gpus, groups % nodes == 0)
    taken = time.process_time() - began
    print(json.dumps({"s": taken, "phys2log": phys2log.tolist()}), flush=True)
"""


def rows(settings: Any, data: Path | None = None) -> list[dict[str, Any]]:
    """All rows of this part; fewer repetitions in the ci profile."""
    small = settings.profile == "ci"
    n = 3 if small else 7
    load, mark = _load(settings, data)
    out = []
    for experts, gpus in SIZES[1:2] if small else SIZES:
        out += exact_rows(experts, gpus, load, mark, n=n, instances=INSTANCES)
    out.append(batched_row(load, mark, n=n))
    return out + place_rows(load, mark, n=3, ask_peer=not small)


def _load(settings: Any, data: Path | None) -> tuple[np.ndarray, str]:
    """DeepSeek-V3 load `(layers, 256)` of the workload that placements are fitted on, real or its twin."""
    frame = batches.load("deepseek-v3", data, seed=settings.seed)
    rows = frame.filter(frame["workload"] == settings.place_on).sort("layer", "expert")
    return rows["tokens"].to_numpy().reshape(rows["layer"].n_unique(), -1), frame["data"][0]


def _instances(experts: int, gpus: int, load: np.ndarray, count: int) -> tuple[Any, np.ndarray]:
    """A one-layer placement and `counts (count, 1, N)` of batches of 32 tokens a GPU drawn from that layer's load."""
    weight = load[0, :experts]
    placement = place(weight[None], routing.slots_for(RATIO, experts, gpus), gpus)
    topk = np.stack([batches.sample_topk(weight, 32 * gpus, 8, [seed, experts]) for seed in range(count)])
    return placement, counts_of(topk[:, None], experts)


def exact_rows(experts: int, gpus: int, load: np.ndarray, mark: str, *, n: int, instances: int) -> list[dict[str, Any]]:
    """Exact router against flow + bisection, a MILP, the greedy, and the absolute limit, on the same instances."""
    placement, counts = _instances(experts, gpus, load, instances)
    tables = placement.tables
    order, index = by_candidates(tables.cand_start), np.arange(experts)[None]
    per_instance = 1e6 / instances

    def ours() -> np.ndarray:
        return exact_share(counts, tables, gpus, order, False)[2]

    best = ours()[:, 0]
    common = {"bench": "route", "ours": "exact", "unit": "us", "data": mark, "N": experts, "G": gpus, "B": 32 * gpus}
    out, exact_us = [], []
    for name, solve, bar, share in PEERS:
        some = counts[: max(1, instances // share)]

        def theirs(solve=solve, some=some) -> list[int]:
            return [solve(each, tables, gpus) for each in some[:, 0]]

        try:
            equal = int((np.array(theirs()) == best[: len(some)]).sum())
        except ImportError as error:
            out.append(row(case="exact optimum", peer=name, bar=bar, reason=f"{error.name} is not installed", **common))
            continue
        mine, others = paired(ours, theirs, n=n)
        exact_us += mine
        samples = _pairs(mine, others, per_instance, 1e6 / len(some))
        note = f"{equal} of {len(some)} optima equal"
        out.append(row(case="exact optimum", peer=name, bar=bar, reason=note, **common, **samples))
    mine, theirs = paired(ours, lambda: metro_share(counts, tables, gpus, index), n=5 * n)
    exact_us += mine
    samples = _pairs(mine, theirs, per_instance, per_instance)
    out.append(row(case="exact by greedy time", peer="metro greedy", bar=0.1, **common, **samples))
    if (experts, gpus) == (256, 16):
        limit = {"ours_samples": [s * per_instance for s in exact_us], "peer_samples": [ROUTER_LIMIT_US]}
        out.append(row(case="exact, absolute", peer="limit of the bar", bar=1.0, **common, **limit))
    return out


def _pairs(mine: list[float], theirs: list[float], scale: float, their_scale: float) -> dict[str, list[float]]:
    return {"ours_samples": [s * scale for s in mine], "peer_samples": [s * their_scale for s in theirs]}


def batched_row(load: np.ndarray, mark: str, *, n: int) -> dict[str, Any]:
    """Layer-batches a second of count + even + METRO + exact at N = 256, B = 256, one core."""
    experts, gpus, tokens, steps = 256, 16, 256, 4
    placement = place(load, routing.slots_for(RATIO, experts, gpus), gpus)
    topk = np.stack(
        [
            np.stack([batches.sample_topk(w, tokens, 8, [step, at]) for at, w in enumerate(load)])
            for step in range(steps)
        ]
    )

    def ours() -> None:
        counts = counts_of(topk, experts)
        for router in ("even", "metro", "exact"):
            routing.route_counts(router, placement, counts)

    mine, _ = paired(ours, lambda: None, n=n)
    rates = [topk.shape[0] * topk.shape[1] / seconds for seconds in mine]
    return row(
        bench="route",
        case="batched count + even + metro + exact",
        ours="route_counts",
        peer="limit of the bar",
        unit="layer-batches/s",
        ours_samples=rates,
        peer_samples=[BATCHED_LIMIT],
        higher_is_better=True,
        bar=1.0,
        data=mark,
        N=experts,
        G=gpus,
        B=tokens,
    )


def place_rows(load: np.ndarray, mark: str, *, n: int, ask_peer: bool = True) -> list[dict[str, Any]]:
    """EPLB port against the reference file as published (bar) and as the current sglang wheel has it (no bar)."""
    out = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "load.npy"
        np.save(file, load.astype(np.float32))
        for kind, name, bar in EPLB_FILES:
            common = {"bench": "place", "ours": "place", "peer": name, "unit": "ms", "bar": bar, "data": mark}
            try:
                if not ask_peer:
                    raise PeerError("not asked at ci size: importing torch takes seconds")
                with Peer(interpreter(), "-c", EPLB_PEER, kind, file) as peer:
                    out += [_place_row(peer, load, sizes, n, common) for sizes in PLACEMENTS]
            except PeerError as error:
                out += [row(reason=str(error), **_placement_case(load, sizes), **common) for sizes in PLACEMENTS]
    return out


def _placement_case(load: np.ndarray, sizes: tuple[int, ...]) -> dict[str, Any]:
    slots, gpus, groups, nodes = sizes
    case = f"{len(load)} layers, {slots} slots, {groups} groups, {nodes} nodes"
    return {"case": case, "N": load.shape[1], "G": gpus}


def _place_row(peer: Peer, load: np.ndarray, sizes: tuple[int, ...], n: int, common: dict[str, Any]) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []
    mine, _ = paired(lambda: place(load, *sizes), lambda: answers.append(peer.ask(sizes=sizes)), n=n)
    same = int((np.array(answers[0]["phys2log"]) == place(load, *sizes).phys2log).all(axis=1).sum())
    note = f"{same} of {len(load)} layers identical (reference sort made stable)"
    samples = _pairs(mine, [answer["s"] for answer in answers[1:]], 1e3, 1e3)
    return row(reason=note, **_placement_case(load, sizes), **common, **samples)


def flow_optimum(counts: np.ndarray, tables: Tables, num_gpus: int) -> int:
    """Least lambda of one instance by OR-tools max-flows, bisecting 1 to ceil(|A| / G) as the paper does."""
    return _flow_bisection(counts, tables, num_gpus, 1)


def tight_flow_optimum(counts: np.ndarray, tables: Tables, num_gpus: int) -> int:
    """The same from ceil(active / G) upwards: a better peer than the paper's, seldom more than one flow."""
    return _flow_bisection(counts, tables, num_gpus, -(-np.count_nonzero(counts) // num_gpus))


def _flow_bisection(counts: np.ndarray, tables: Tables, num_gpus: int, low: int) -> int:
    from ortools.graph.python.max_flow import SimpleMaxFlow

    owner, gpus, active = _arcs(counts, tables)
    if not active:
        return 0
    source, sink = active, active + 1 + num_gpus
    tails = np.concatenate([np.full(active, source), owner, active + 1 + np.arange(num_gpus)])
    heads = np.concatenate([np.arange(active), active + 1 + gpus, np.full(num_gpus, sink)])
    capacity = np.ones(len(tails), np.int64)
    high = max(low, -(-int(tables.cand_start[0, -1]) // num_gpus), int(np.bincount(gpus).max()))
    while low < high:
        middle = (low + high) // 2
        capacity[-num_gpus:] = middle
        flow = SimpleMaxFlow()
        flow.add_arcs_with_capacity(tails, heads, capacity)
        flow.solve(source, sink)
        low, high = (low, middle) if flow.optimal_flow() == active else (middle + 1, high)
    return low


def loop_flow_optimum(counts: np.ndarray, tables: Tables, num_gpus: int) -> int:
    """The paper's bisection with every arc added by a Python call: how a first version is usually written."""
    from ortools.graph.python.max_flow import SimpleMaxFlow

    owner, gpus, active = (values.tolist() if hasattr(values, "tolist") else values for values in _arcs(counts, tables))
    source, sink = active, active + 1 + num_gpus
    low, high = 1, max(1, -(-int(tables.cand_start[0, -1]) // num_gpus))
    while low < high:
        middle = (low + high) // 2
        flow = SimpleMaxFlow()
        for expert in range(active):
            flow.add_arc_with_capacity(source, expert, 1)
        for expert, gpu in zip(owner, gpus, strict=True):
            flow.add_arc_with_capacity(expert, active + 1 + gpu, 1)
        for gpu in range(num_gpus):
            flow.add_arc_with_capacity(active + 1 + gpu, sink, middle)
        flow.solve(source, sink)
        low, high = (low, middle) if flow.optimal_flow() == active else (middle + 1, high)
    return low


def _arcs(counts: np.ndarray, tables: Tables) -> tuple[np.ndarray, np.ndarray, int]:
    """Every (active expert, candidate GPU) pair, experts renumbered from 0, and how many experts are active."""
    starts, active = tables.cand_start[0], counts > 0
    owner = np.repeat(np.arange(len(counts)), np.diff(starts))
    keep = active[owner]
    return (np.cumsum(active) - 1)[owner[keep]], tables.cand_gpu[0, : starts[-1]][keep], int(active.sum())


def milp_optimum(counts: np.ndarray, tables: Tables, num_gpus: int) -> int:
    """Least lambda of one instance by HiGHS on the integer program of section 2.2 (one copy per expert, Lemma 1)."""
    import highspy

    owner, gpus, active = _arcs(counts, tables)
    if not active:
        return 0
    pairs, rows = len(owner), active + num_gpus
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = pairs + 1, rows
    lp.col_cost_ = np.append(np.zeros(pairs), 1.0)
    lp.col_lower_, lp.col_upper_ = np.zeros(pairs + 1), np.append(np.ones(pairs), float(active))
    lp.row_lower_ = np.append(np.ones(active), np.full(num_gpus, -highspy.kHighsInf))
    lp.row_upper_ = np.append(np.ones(active), np.zeros(num_gpus))
    lp.integrality_ = [highspy.HighsVarType.kInteger] * (pairs + 1)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.append(2 * np.arange(pairs + 1), 2 * pairs + num_gpus)
    entries = np.stack([owner, active + gpus], axis=1).ravel()
    lp.a_matrix_.index_ = np.append(entries, active + np.arange(num_gpus))
    lp.a_matrix_.value_ = np.append(np.ones(2 * pairs), -np.ones(num_gpus))
    solver = highspy.Highs()
    solver.silent()
    solver.passModel(lp)
    solver.run()
    return round(solver.getInfo().objective_function_value)


# name, solver, bar, and the part of the instances it gets (the MILP is slow)
PEERS = (
    ("OR-tools SimpleMaxFlow + bisection", flow_optimum, 100.0, 1),
    ("OR-tools SimpleMaxFlow, started at ceil(active / G)", tight_flow_optimum, None, 1),
    ("OR-tools SimpleMaxFlow + bisection, arc by arc", loop_flow_optimum, None, 5),
    ("HiGHS MILP", milp_optimum, None, 10),
)
