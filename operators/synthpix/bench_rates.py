"""Rates of ours and of the peers, interleaved A B A B: pairs per core-second (process CPU time) and per wall second.

A cheap sum of every image is inside the timed section on both sides. Ours runs through `make()` with the very
configuration the peer gets, so nothing is left out of ours either. Bars come from the specification (section 10).
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from operators.lab.peers import Peer, PeerError
from operators.synthpix import analytic
from operators.synthpix.peers import peer as peer_process
from operators.synthpix.peers import row
from operators.synthpix.sampler import Sampler, make
from operators.synthpix.settings import Looks, Settings

SYNTHPIX, SYNPIV = "synthpix 0.1.1", "synpivimage 1.0.0a9"
RATE, WALL = "pairs per core-second", "pairs per second"
SIDE = 256
SECONDS = 0.5  # of ours per repetition
# Cases: looks, batch, our extra keys, bars (least ratios) by peer.
PHYSICS = {"psf": "integrated", "sheet": {"width_px": 10.0, "shape": 2, "out_of_plane": 1.0},
           "camera": {"bit_depth": 8, "shot_noise": True}}  # fmt: skip
CASES = {
    "jassal-b1": ("looks", 1, {}, None),
    "jassal-b32": ("looks", 32, {}, 6.0),
    "jassal-b256": ("looks", 256, {}, None),
    "dense-b32": ("dense", 32, {}, 10.0),
    "physics-b32": ("looks", 32, PHYSICS, 2.0),
}
PEER_BATCHES = {1: 24, 32: 1, 256: 1}  # of the peer per repetition


def configuration(looks: Looks, batch: int, folder: Path, side: int = SIDE) -> dict[str, Any]:
    """A configuration of release 0.1.1 over one flow file in `folder`."""
    path = folder / "flow_0.npy"
    if not path.exists():
        np.save(path, analytic.taylor_green(2.0).sample((side, side)).values)
    return {
        **{"seed": 0, "batch_size": batch, "flow_fields_per_batch": 1, "batches_per_flow_batch": 1_000_000},
        **{"image_shape": [side, side], "dt": 1.0, "seeding_density_range": list(looks.density)},
        **{"p_hide_img1": 0.0, "p_hide_img2": 0.0, "diameter_ranges": [list(looks.diameter)]},
        **{"diameter_var": looks.diameter_var, "intensity_ranges": [list(looks.intensity)]},
        **{"intensity_var": looks.intensity_var, "rho_ranges": [list(looks.rho)], "rho_var": looks.rho_var},
        **{"noise_uniform": 0.001, "noise_gaussian_mean": 0.0, "noise_gaussian_std": 0.0, "velocities_per_pixel": 1.0},
        **{"resolution": 1.0, "flow_field_size": [side, side], "img_offset": [0, 0], "min_speed_x": 0.0},
        **{"min_speed_y": 0.0, "max_speed_x": 0.0, "max_speed_y": 0.0, "output_units": "pixels"},
        **{"file_list": [str(path)], "scheduler_class": ".npy", "loop": True, "randomize": False},
    }


def ours(sampler: Sampler, seconds: float = SECONDS) -> dict[str, float]:
    """CPU and wall seconds of enough batches to fill `seconds`, every image summed."""
    cpu, wall, pairs, light = time.process_time(), time.perf_counter(), 0, 0.0
    while time.process_time() - cpu < seconds:
        batch = next(sampler)
        light += float(batch.images1.sum() + batch.images2.sum())
        pairs += len(batch.images1)
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "pairs": pairs, "sum": light}


class Clocked:
    """Samples of one side: rates per core-second and per wall second."""

    def __init__(self) -> None:
        self.core: list[float] = []
        self.wall: list[float] = []

    def add(self, answer: dict[str, float]) -> None:
        self.core.append(answer["pairs"] / answer["cpu_s"])
        self.wall.append(answer["pairs"] / answer["wall_s"])


def rates(settings: Settings) -> Iterator[tuple[str, str, Clocked, str]]:
    """(case, tool, samples, why not measured) of every case; peers' samples are taken between ours.

    Cases with one configuration of the peer share its process: compiling takes longer than measuring.
    """
    groups: dict[tuple[str, int], list[str]] = {}
    for case, (looks, batch, _, _) in CASES.items():
        if settings.peers or case == "jassal-b32":
            groups.setdefault((looks, batch), []).append(case)
    for (looks, batch), cases in groups.items():
        with tempfile.TemporaryDirectory(prefix="pg-rates-") as folder:
            config = configuration(getattr(settings, looks), batch, Path(folder))
            yield from _group(settings, cases, config, batch)


def _group(settings: Settings, cases: list[str], config: dict, batch: int) -> Iterator[tuple]:
    found = {(case, tool): Clocked() for case in cases for tool in ("ours", SYNTHPIX, *_slow(case))}
    samplers = {case: make({**config, **CASES[case][2]}) for case in cases}
    for sampler in samplers.values():
        next(sampler)
    seconds = SECONDS if settings.peers else SECONDS / 4
    with contextlib.ExitStack() as stack:
        peer, why = _ready(stack, settings, "synthpix_rates.py", "synthpix", do="make", config=config)
        wanted = any(_slow(case) for case in cases)
        slow = {"do": "run", "size": SIDE, "ppp": 0.035, "diameter": 4.0}
        other, why_slow = None, ""
        if wanted:
            other, why_slow = _ready(stack, settings, "synpivimage_rates.py", "synpivimage", pairs=1, **slow)
        for _ in range(settings.bench_repeats if batch < 256 else min(3, settings.bench_repeats)):
            answer = peer.ask(do="run", batches=PEER_BATCHES[batch]) if peer else None
            for case, sampler in samplers.items():
                found[case, "ours"].add(ours(sampler, seconds))
                if answer:
                    found[case, SYNTHPIX].add(answer)
                if other and _slow(case):
                    found[case, SYNPIV].add(other.ask(pairs=1, **slow))
    for (case, tool), samples in found.items():
        yield case, tool, samples, {"ours": "", SYNTHPIX: why, SYNPIV: why_slow}[tool]


def _slow(case: str) -> tuple[str, ...]:
    """synpivimage is measured beside two cases."""
    return (SYNPIV,) if case in ("jassal-b1", "physics-b32") else ()


def _ready(stack: contextlib.ExitStack, settings: Settings, script: str, package: str, **first: Any
           ) -> tuple[Peer | None, str]:  # fmt: skip
    """A peer that has answered its first, untimed question; None and the reason where there is none."""
    try:
        peer = stack.enter_context(_started(script, package, settings))
        answer = peer.ask(**first)
    except PeerError as error:
        return None, str(error)
    return peer, f"first batch after {answer['first_s']:.1f} s (compiling)" if "first_s" in answer else ""


def _started(script: str, package: str, settings: Settings) -> Peer:
    if not settings.peers:
        raise PeerError("peers are switched off at this size (peers: false)")
    return peer_process(script, package)


def rows(found: dict[tuple[str, str], tuple[Clocked, str]]) -> list[dict[str, Any]]:
    """Rows of bench.parquet from the samples of `rates`."""
    out = []
    for (case, tool), (theirs, why) in found.items():
        if tool == "ours":
            continue
        mine = found[case, "ours"][0]
        bar = CASES[case][3] if tool == SYNTHPIX else 50.0 if case == "physics-b32" else None
        labels = {"case": case, "ours": "ours (native)", "peer": tool, "reason": why}
        out.append(row(bench="throughput", unit=RATE, ours_samples=mine.core, peer_samples=theirs.core, bar=bar,
                       **labels))  # fmt: skip
        out.append(row(bench="wall", unit=WALL, ours_samples=mine.wall, peer_samples=theirs.wall, **labels))
    return out
