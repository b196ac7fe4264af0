"""The other bars: two processes, the first batch, reads hidden behind rendering, the defects D1 and D2 side by side."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from operators.lab.peers import PeerError
from operators.synthpix import analytic
from operators.synthpix.bench_rates import SIDE, SYNTHPIX, Clocked, configuration, ours
from operators.synthpix.flows import Flow, MemorySource
from operators.synthpix.peers import peer as peer_process
from operators.synthpix.peers import row
from operators.synthpix.sampler import make
from operators.synthpix.settings import Settings

READ_S, PER_FLOW = 0.02, 64
# One process that renders for `seconds` after a common start and prints its rate.
RENDER = """
import sys, time, yaml
from operators.synthpix import make
sampler = make(yaml.safe_load(open(sys.argv[1])))
next(sampler)
print("ready", flush=True)
sys.stdin.readline()
began, pairs, light = time.perf_counter(), 0, 0.0
while time.perf_counter() - began < float(sys.argv[2]):
    batch = next(sampler)
    light += float(batch.images1.sum() + batch.images2.sum())
    pairs += len(batch.images1)
print(pairs / (time.perf_counter() - began), flush=True)
"""
FIRST = """
import sys, time, yaml
config = yaml.safe_load(open(sys.argv[1]))
began = time.perf_counter()
from operators.synthpix import make
batch = next(make(config))
print(time.perf_counter() - began, float(batch.images1.sum()))
"""


def rows(settings: Settings) -> list[dict[str, Any]]:
    """All rows; at ci size one short repetition each, and no second process."""
    with tempfile.TemporaryDirectory(prefix="pg-bench-") as name:
        folder = Path(name)
        config = configuration(settings.looks, 32, folder)
        return [*_processes(settings, config, folder), *_first(settings, config, folder), *_hidden(settings, config),
                *_defects(settings, folder)]  # fmt: skip


def _write(config: dict, folder: Path) -> Path:
    import yaml

    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _together(count: int, path: Path, seconds: float) -> float:
    """Sum of the rates of `count` processes that render at the same time."""
    command = [sys.executable, "-c", RENDER, str(path), str(seconds)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for process in running:
            process.stdout.readline()
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        return sum(float(process.stdout.readline()) for process in running)
    finally:
        for process in running:
            process.communicate()


def _processes(settings: Settings, config: dict, folder: Path) -> list[dict[str, Any]]:
    labels = {"bench": "processes", "case": "two", "ours": "two processes", "peer": "one process",
              "unit": "pairs per second", "bar": 1.7}  # fmt: skip
    if not settings.peers or (os.cpu_count() or 1) < 2:
        return [row(**labels, reason="left out at this size, or a single core")]
    path = _write(config, folder)
    pairs = [(_together(2, path, 1.0), _together(1, path, 1.0)) for _ in range(min(settings.bench_repeats, 5))]
    return [row(**labels, ours_samples=[p[0] for p in pairs], peer_samples=[p[1] for p in pairs],
                reason=f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")]  # fmt: skip


def _first(settings: Settings, config: dict, folder: Path) -> list[dict[str, Any]]:
    """Seconds from the import to the first batch, in a fresh interpreter (the peer's stands in its throughput row)."""
    path = _write(config, folder)
    mine = []
    for _ in range(min(settings.bench_repeats, 3)):
        done = subprocess.run([sys.executable, "-c", FIRST, str(path)], capture_output=True, text=True, check=True)
        mine.append(float(done.stdout.split()[0]))
    return [row(bench="start", case="first-batch", ours="ours (native)", peer="", unit="s", higher_is_better=False,
                ours_samples=mine)]  # fmt: skip


class _Slow(MemorySource):
    """Flows that take READ_S to read, as from a slow disk."""

    def get(self, index: int) -> Flow:
        time.sleep(READ_S)
        return super().get(index)


def _hidden(settings: Settings, config: dict) -> list[dict[str, Any]]:
    """How much slower 64 pairs a flow are with slow reads behind a queue than from memory (share of wall time)."""
    flows = [analytic.taylor_green(2.0, phase=0.1 * k).sample((SIDE, SIDE)) for k in range(8)]
    config = {**config, "batch_size": PER_FLOW, "batches_per_flow_batch": 1}
    memory = make(config, source=MemorySource(flows))
    shares = []
    with make({**config, "buffer_size": settings.buffer_size}, source=_Slow(flows)) as slow:
        for sampler in (memory, slow):
            for _ in range(2 + len(flows)):  # every label is known to both
                next(sampler)
        for _ in range(settings.bench_repeats):
            first, second = Clocked(), Clocked()
            seconds = 0.6 if settings.peers else 0.15
            first.add(ours(memory, seconds))
            second.add(ours(slow, seconds))
            shares.append(first.wall[0] / second.wall[0] - 1)
    return [row(bench="io", case="hidden", ours=f"{1e3 * READ_S:.0f} ms a read, prefetched", peer="", bar=None,
                unit="share slower than memory", ours_samples=shares, higher_is_better=False)]  # fmt: skip


def defects_of(images: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """D1: largest error of a coarse shear's label, px. D2: largest |column / centre - 1| of images `(n, H, W)`."""
    columns = images.mean(axis=(0, 1))
    centre = columns[16:-16].mean()
    true = np.arange(label.shape[1]) / 8
    inner = slice(0, label.shape[1] - label.shape[1] // 16)  # beyond the last node the field is clamped
    return float(np.abs(label[:, inner, 0] - true[inner]).max()), float(np.abs(columns / centre - 1).max())


def _defects(settings: Settings, folder: Path) -> list[dict[str, Any]]:
    """The same two experiments with ours and with the peer: label of a 16 x 16 grid over 64 px, flat columns."""
    coarse = np.zeros((16, 16, 2), np.float32)
    coarse[..., 0] = np.arange(16) * 4 / 8
    (folder / "d").mkdir()
    np.save(folder / "d" / "flow_0.npy", coarse)
    config = configuration(settings.looks, 100, folder, side=SIDE)
    config |= {"image_shape": [64, 64], "flow_field_size": [64, 64], "file_list": [str(folder / "d" / "flow_0.npy")]}
    batches = 4
    made = [next(sampler) for sampler in [make(config)] for _ in range(batches)]
    mine = defects_of(np.concatenate([b.images1 for b in made]), made[0].flow_fields[0])
    theirs: tuple[float, ...] = ()
    why = ""
    try:
        if not settings.peers:
            raise PeerError("peers are switched off at this size (peers: false)")
        with peer_process("synthpix_rates.py", "synthpix") as peer:
            peer.ask(do="make", config=config)
            peer.ask(do="save", batches=batches, to=str(folder / "theirs.npz"))
        with np.load(folder / "theirs.npz") as saved:
            theirs = defects_of(saved["images1"], saved["flow"][0])
    except PeerError as error:
        why = str(error)
    units = ("px, largest label error of a 16 x 16 shear over 64 px", "largest |column / centre - 1|")
    return [
        row(bench="defects", case=case, ours="ours (native)", peer=SYNTHPIX, unit=units[k], higher_is_better=False,
            ours_samples=[max(mine[k], 1e-12)], peer_samples=[theirs[k]] if theirs else [], reason=why)
        for k, case in enumerate(("D1", "D2"))
    ]  # fmt: skip
