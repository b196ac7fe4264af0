"""Bench rows of whole searches: pymoo's and mealpy's beside ours, and the three-objective volume at equal time."""

import time
from pathlib import Path

from operators.lab import peers
from operators.phwsoa import bounds, heuristics, objectives
from operators.phwsoa.bench_kernel import row
from operators.phwsoa.instance import Instance
from operators.phwsoa.optimise import optimise, volume
from operators.phwsoa.settings import Settings

SCRIPT = Path(__file__).parent / "peer_scripts" / "search.py"
FOLDER = ".venv-peers-phwsoa"
VERSIONS = {"pymoo": "pymoo 0.6.2", "mealpy": "mealpy 3.0.2"}


def ask_instance(peer: peers.Peer, made: Instance) -> None:
    """Give the peer's process the instance."""
    arrays = {name: getattr(made, name).tolist() for name in ("length", "mips", "price")}
    peer.ask(tool="instance", **arrays)


def generation(settings: Settings, made: Instance, keys: dict) -> list[dict]:
    """End-to-end evaluations per second beside pymoo's NSGA-II, same population and tasks, in turn."""
    case = f"{keys['log']} {keys['n']} x {keys['m']}, pop {settings.pop}"
    same = {"bench": "generation", "case": case, "unit": "evaluations/s", "higher_is_better": True,
            "data": keys["data"], "peer": "pymoo NSGA-II"}  # fmt: skip
    evals, rates = 50 * settings.pop, {"nsga2": [], "phwsoa": []}
    reason, theirs = _missing(settings, "pymoo"), []
    other, why = (
        [],
        _missing(settings, "pygmo") or ("" if settings.pop % 4 == 0 else "its population is a multiple of 4"),
    )
    if not reason:
        with peers.Peer(peers.interpreter(FOLDER), SCRIPT) as peer:
            ask_instance(peer, made)
            for turn in range(1 + settings.bench_repeats):
                for method, found in rates.items():
                    found.append(_rate(made, method, settings, evals, turn))
                answer = peer.ask(tool="pymoo", name="NSGA-II", pop=settings.pop, evals=evals, seed=turn)
                theirs.append(answer["evals"] / answer["cpu"])
                if not why:
                    answer = peer.ask(tool="pygmo", name="NSGA-II", pop=settings.pop, evals=evals, seed=turn)
                    other.append(answer["evals"] / answer["cpu"])
    # The hybrid's redistribution evaluates by deltas, which this rate leaves out: a row of its own, no bar passed.
    return [
        row(**same, ours="nsga2", ours_samples=rates["nsga2"][1:], peer_samples=theirs[1:], bar=10, reason=reason),
        row(**{**same, "bench": "generation of the hybrid"}, ours="phwsoa", ours_samples=rates["phwsoa"][1:],
            peer_samples=theirs[1:], bar=10, reason=reason or "redistribution's delta evaluations are not counted"),
        row(**{**same, "peer": "pygmo NSGA-II"}, ours="nsga2", ours_samples=rates["nsga2"][1:], peer_samples=other[1:],
            reason=reason or why),
    ]  # fmt: skip


def _rate(made: Instance, method: str, settings: Settings, evals: int, seed: int) -> float:
    began = time.process_time()
    # NSGA-II starts at random like the peer's; the hybrid pays for its Halton start here.
    how = {"init": "random"} if method == "nsga2" else {}
    found = optimise(made, method, pop=settings.pop, max_evals=evals, seed=seed, **how)
    return found.counters["evals"] / (time.process_time() - began)


def _missing(settings: Settings, package: str) -> str:
    """Why the peer cannot run; empty when it can."""
    if not settings.peers:
        return "this profile runs no peers"
    try:
        peers.interpreter(FOLDER, package=package)
    except peers.PeerError as error:
        return str(error)
    return ""


def faithful(settings: Settings, made: Instance, keys: dict) -> list[dict]:
    """Makespan of the unseeded hybrid, with and without redistribution, beside mealpy's at equal evaluations."""
    low, kind = bounds.lower_bound_kind(made)
    evals, reason = settings.pop * (settings.generations + 1), _missing(settings, "mealpy")
    seeds = range(settings.seed, settings.seed + (settings.seeds if not reason else 1))
    theirs: dict[str, list[float]] = {"OriginalWOA": [], "HI_WOA": [], "BaseGA": []}
    if not reason:
        with peers.Peer(peers.interpreter(FOLDER), SCRIPT) as peer:
            ask_instance(peer, made)
            for seed in seeds:
                for name in list(theirs) if seed == settings.seed else ["OriginalWOA"]:
                    asked = peer.ask(tool="mealpy", name=name, pop=settings.pop, evals=evals, seed=seed)
                    theirs[name].append(asked["makespan"])
    rows = []
    for ours, change in (("phwsoa", {}), ("phwsoa without redistribution", {"redis_moves": 0})):
        how = settings.operators() | change
        mine = [float(optimise(made, "phwsoa", pop=settings.pop, max_evals=evals, seed=seed, **how).front_F[:, 0].min())
                for seed in seeds]  # fmt: skip
        for name, values in theirs.items():
            samples = mine[: len(values)]
            over = values[0] / low if values else None
            rows.append(
                row(bench="faithful" if not change else "faithful, ablated", case=f"{keys['log']} {evals} evaluations",
                    ours=ours, peer=f"mealpy {name}", unit="s", ours_samples=samples or mine, peer_samples=values,
                    bar=2, reason=reason, data=keys["data"], lb_kind=kind, ours_over_bound=mine[0] / low,
                    peer_over_bound=over)
            )  # fmt: skip
    return rows


def volumes(settings: Settings, made: Instance, keys: dict) -> list[dict]:
    """Three-objective volume of the seeded hybrid beside seeded NSGA-II and III at equal wall time, and the front."""
    seeds = range(settings.seed, settings.seed + settings.volume_seeds)
    greedy = volume(objectives.evaluate(made, heuristics.eps_greedy_front(made)[0]), made)
    for method in ("phwsoa_h", "nsga2", "nsga3"):
        optimise(made, method, pop=settings.pop, generations=1, seeded=True)
    mine, other = [], {"nsga2 seeded": [], "nsga3 seeded": []}
    for seed in seeds:
        same = {"pop": settings.pop, "max_seconds": settings.volume_seconds, "seed": seed, "seeded": True}
        mine.append(volume(optimise(made, "phwsoa_h", **same).front_F, made))
        for name in other:
            other[name].append(volume(optimise(made, name.split()[0], **same).front_F, made))
    best = {"lpt and eps_greedy": [greedy] * len(mine), **other}
    kind = bounds.lower_bound_kind(made)[1]
    return [
        row(bench="volume", case=f"{keys['log']} {settings.volume_seconds:g} s", ours="phwsoa_h", peer=name,
            unit="unit box", higher_is_better=True, ours_samples=mine, peer_samples=values, bar=1,
            data=keys["data"], lb_kind=kind)
        for name, values in best.items()
    ]  # fmt: skip


def best_makespans(settings: Settings, made: Instance) -> dict[str, float]:
    """Makespan of the searches of the first table, one seed."""
    evals = settings.pop * (settings.generations + 1)
    return {
        method: float(optimise(made, method, pop=settings.pop, max_evals=evals, seed=settings.seed,
                               **settings.operators()).front_F[:, 0].min())
        for method in ("phwsoa_h", "phwsoa", "woa")
    }  # fmt: skip
