"""The flows a run uses: analytic ones, and the five PIV items, real where the data set is, else their twins."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from operators.lab import datasets
from operators.synthpix import twins
from operators.synthpix.analytic import AnalyticSource
from operators.synthpix.flows import FloSource, Flow

SET = "piv_cai2019"
STEMS = {
    "DNS": "DNS_turbulence_00001",
    "JHTDB": "JHTDB_isotropic1024_hd_00001",
    "SQG": "SQG_00001",
    "backstep": "backstep_Re800_00001",
    "cylinder": "cylinder_Re40_00001",
}


@dataclass(frozen=True)
class Entry:
    """One flow of a run: its name, `real` or `synthetic`, and where it comes from."""

    name: str
    data: str
    path: str


def entries(analytic: tuple[str, ...], items: tuple[str, ...], root: Path | None) -> list[Entry]:
    """What a run's flows are, in order."""
    real = datasets.present(SET, root)
    found = [Entry(name, "synthetic", f"analytic:{name}") for name in analytic]
    for item in items:
        path = f"{SET}/{STEMS[item]}_flow.flo" if real else f"twin:{item}"
        found.append(Entry(item, "real" if real else "synthetic", path))
    return found


def load(entry: Entry, shape: tuple[int, int], *, seed: int, root: Path | None) -> Flow:
    """The flow of an entry on a grid of `shape`: analytic flows are sampled, items cut or extended by their edge."""
    if entry.path.startswith("analytic:"):
        return AnalyticSource([entry.name], shape).get(0)
    values = item_flow(entry.name, seed=seed, root=root).values
    if shape[0] > values.shape[0] or shape[1] > values.shape[1]:
        rows = np.minimum(np.arange(shape[0]), values.shape[0] - 1)
        columns = np.minimum(np.arange(shape[1]), values.shape[1] - 1)
        return Flow(values[rows][:, columns], name=entry.path)
    return Flow(values[: shape[0], : shape[1]], name=entry.path)


def item_flow(name: str, *, seed: int, root: Path | None) -> Flow:
    """The flow of an item, 256x256 px per frame; verified against the inventory where it is real."""
    if not datasets.present(SET, root):
        return twins.flow(name, seed)
    path = datasets.path(SET, f"{STEMS[name]}_flow.flo", root)
    return Flow(FloSource([path]).get(0).values, name=f"{SET}/{path.name}")


def item_images(name: str, *, seed: int, root: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """The original pair of an item, `(256, 256)` uint8 each."""
    if not datasets.present(SET, root):
        return twins.images(name, seed)
    from PIL import Image

    paths = [datasets.path(SET, f"{STEMS[name]}_img{k}.tif", root) for k in (1, 2)]
    return tuple(np.asarray(Image.open(path)) for path in paths)
