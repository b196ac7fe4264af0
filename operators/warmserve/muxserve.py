"""Static spatial sharing: models share GPUs for good, nothing ever starts (the paper's baseline MuxServe).

Meshes of 1, 2, 4 or 8 GPUs; every node is cut the same way. Each model is placed once on the mesh where the largest
utilisation stays least, then further copies go where they lower it. Engines on one mesh share its compute (a step takes
as many times longer as engines have work) and its KV memory in proportion to KV block size times rate.

Departures: MuxServe's own placement optimiser and cost table are not used; a model on a mesh wider than its `tp` is
taken to speed up in proportion, which favours this baseline.
"""

from dataclasses import dataclass

import numpy as np

from operators.warmserve.catalogue import Model, pool_bytes
from operators.warmserve.errors import ConfigError
from operators.warmserve.settings import Settings

WIDTHS = (8, 4, 2, 1)
LEAST_KV = 8  # blocks of the longest request, a GPU


@dataclass(frozen=True)
class Share:
    """One engine on a mesh."""

    model: int
    mesh: int
    kv_blocks: int
    time_factor: float


def layout(models: list[Model], history, nodes: int, settings: Settings) -> list[Share]:
    """The engines of the whole cluster for the mean load of past days."""
    load = np.array([float(np.nanmean(mean)) for mean in history.mean])
    best: tuple[float, list[list[int]], list[int]] | None = None
    for cut in _cuts(settings.gpus_per_node):
        widths = [width for width in cut for _ in range(nodes)]
        found = _assign(models, load, widths, pool_bytes(settings))
        if found is not None and (best is None or found[0] < best[0] - 1e-12):
            best = (*found, widths)
    if best is None:
        raise ConfigError(f"muxserve: {len(models)} models do not fit {nodes} nodes; expected one mesh for each")
    return _shares(models, load, best[1], best[2], pool_bytes(settings))


def _cuts(gpus: int, widest: int = 8) -> list[list[int]]:
    """Every way to cut a node into meshes; for large nodes only equal ones."""
    if gpus > 8:
        return [[width] * (gpus // width) for width in WIDTHS if gpus % width == 0]
    if gpus == 0:
        return [[]]
    return [
        [width, *rest] for width in WIDTHS if width <= min(widest, gpus) for rest in _cuts(gpus - width, width)
    ]


def _busy(model: Model, load: float, width: int, copies: int) -> float:
    """Share of a mesh's time that a copy of the model asks for."""
    return load / copies * model.tp / width


def _assign(
    models: list[Model], load: np.ndarray, widths: list[int], pool: int
) -> tuple[float, list[list[int]]] | None:
    """(largest utilisation, meshes of every model), greedily; None when a model fits nowhere."""
    where: list[list[int]] = [[] for _ in models]
    weight = np.zeros(len(widths))

    def room(model: Model, mesh: int) -> bool:
        need = model.need * model.tp / widths[mesh] + LEAST_KV * model.kv_bytes * model.tp / widths[mesh]
        return widths[mesh] >= model.tp and weight[mesh] + need <= pool

    def utilisation(plan: list[list[int]]) -> np.ndarray:
        total = np.zeros(len(widths))
        for model, meshes in enumerate(plan):
            for mesh in meshes:
                total[mesh] += _busy(models[model], load[model], widths[mesh], len(meshes))
        return total

    def try_add(model: int) -> tuple[float, int] | None:
        now = utilisation(where)
        open_meshes = [m for m in range(len(widths)) if m not in where[model] and room(models[model], m)]
        if not open_meshes:
            return None
        mesh = min(open_meshes, key=lambda m: (now[m], m))
        trial = [[*meshes, mesh] if i == model else meshes for i, meshes in enumerate(where)]
        total = utilisation(trial)
        return float(np.sort(total)[::-1] @ 0.5 ** np.arange(len(total))), mesh

    for model in sorted(range(len(models)), key=lambda i: -models[i].tp * max(load[i], 1e-9)):
        found = try_add(model)
        if found is None:
            return None
        where[model].append(found[1])
        weight[found[1]] += models[model].need * models[model].tp / widths[found[1]]
    value = float("inf")
    while True:
        trials = [(found[0], model, found[1]) for model in range(len(models)) if (found := try_add(model))]
        if not trials or min(trials)[0] >= value - 1e-12:
            return float(utilisation(where).max()), where
        value, model, mesh = min(trials)
        where[model].append(mesh)
        weight[mesh] += models[model].need * models[model].tp / widths[mesh]


def _shares(
    models: list[Model], load: np.ndarray, where: list[list[int]], widths: list[int], pool: int
) -> list[Share]:
    shares = []
    for mesh, width in enumerate(widths):
        here = [model for model in range(len(models)) if mesh in where[model]]
        weights = sum(models[model].need * models[model].tp / width for model in here)
        asked = {model: models[model].kv_bytes * max(load[model] / len(where[model]), 1e-6) for model in here}
        for model in here:
            kv_bytes = models[model].kv_bytes * models[model].tp / width
            blocks = int((pool - weights) * asked[model] / sum(asked.values()) / kv_bytes)
            shares.append(Share(model, mesh, max(blocks, LEAST_KV), models[model].tp / width))
    return shares
