"""Static spatial sharing: models share GPUs for good, nothing ever starts (the paper's baseline MuxServe).

Meshes of 1, 2, 4 or 8 GPUs. Each model is placed once on the mesh where the largest utilisation stays least, then
further copies go where they lower it. On a mesh a model has one engine per `tp` GPUs. Engines that share a GPU share
its compute (a step takes as many times longer as of them have work) and its KV memory in proportion to KV block size
times rate.

Departures: MuxServe's own placement optimiser and cost table are not used; step times are known at `tp` GPUs only, so a
wider mesh means more engines, not faster ones.
"""

from dataclasses import dataclass

import numpy as np

from operators.warmserve.catalogue import KV_TOKENS, Model, pool_bytes
from operators.warmserve.errors import ConfigError
from operators.warmserve.settings import Settings

WIDTHS = (8, 4, 2, 1)
LEAST_SEQUENCES = 8  # of the longest kind, whose KV every engine must hold
MOST_SOLVED_NODES = 2


@dataclass(frozen=True)
class Share:
    """One engine: its GPUs (of the whole cluster), its KV blocks, and the engines that share GPUs with it."""

    model: int
    gpus: tuple[int, ...]
    kv_blocks: int
    near: tuple[int, ...] = ()


def layout(models: list[Model], history, nodes: int, settings: Settings) -> list[Share]:
    """The engines of the whole cluster for the mean load of past days; large clusters repeat a small one."""
    load = np.array([float(np.nanmean(mean)) for mean in history.mean])
    solved = next(n for n in range(min(nodes, MOST_SOLVED_NODES), 0, -1) if nodes % n == 0)
    best: tuple[float, list[list[int]], list[int]] | None = None
    for cut in _cuts(settings.gpus_per_node):
        widths = cut * solved
        found = _assign(models, load * solved / nodes, widths, settings)
        if found is not None and (best is None or found[0] < best[0] - 1e-12):
            best = (*found, widths)
    if best is None:
        raise ConfigError(f"muxserve: {len(models)} models do not fit {nodes} nodes; expected one mesh for each")
    engines = _engines(models, load, best[1], best[2], pool_bytes(settings))
    per_group = solved * settings.gpus_per_node
    repeated = [
        Share(one.model, tuple(group * per_group + gpu for gpu in one.gpus), one.kv_blocks)
        for group in range(nodes // solved)
        for one in engines
    ]
    return _with_neighbours(repeated)


def _cuts(gpus: int, widest: int = 8) -> list[list[int]]:
    """Every way to cut a node into meshes; for nodes of more than 8 GPUs only equal ones."""
    if gpus > 8:
        return [[width] * (gpus // width) for width in WIDTHS if gpus % width == 0]
    if gpus == 0:
        return [[]]
    return [[width, *rest] for width in WIDTHS if width <= min(widest, gpus) for rest in _cuts(gpus - width, width)]


def _least(model: Model, settings: Settings) -> int:
    """Bytes on each of its GPUs that an engine cannot do without."""
    blocks = -(-2 * settings.cap_input // KV_TOKENS)
    return model.need + LEAST_SEQUENCES * blocks * model.kv_bytes


def _assign(
    models: list[Model], load: np.ndarray, widths: list[int], settings: Settings
) -> tuple[float, list[list[int]]] | None:
    """(largest utilisation, meshes of every model), greedily; None when a model fits nowhere."""
    where: list[list[int]] = [[] for _ in models]
    used, pool = np.zeros(len(widths)), pool_bytes(settings)
    least = [_least(model, settings) for model in models]

    def utilisation(plan: list[list[int]]) -> np.ndarray:
        """Requests in flight per GPU, times the GPUs each holds."""
        total = np.zeros(len(widths))
        for model, meshes in enumerate(plan):
            wide = sum(widths[mesh] for mesh in meshes)
            for mesh in meshes:
                total[mesh] += load[model] * models[model].tp / wide
        return total

    def best_addition(model: int) -> tuple[float, int, int] | None:
        now, found = utilisation(where), None
        for mesh, width in enumerate(widths):
            if mesh in where[model] or width < models[model].tp or used[mesh] + least[model] > pool:
                continue
            if found is None or now[mesh] < now[found] - 1e-12:
                found = mesh
        if found is None:
            return None
        total = utilisation([[*meshes, found] if i == model else meshes for i, meshes in enumerate(where)])
        return float(np.sort(total)[::-1] @ 0.5 ** np.arange(len(total))), model, found

    def add(model: int, mesh: int) -> None:
        where[model].append(mesh)
        used[mesh] += least[model]

    for model in sorted(range(len(models)), key=lambda i: (-models[i].tp, -load[i])):
        found = best_addition(model)
        if found is None:
            return None
        add(model, found[2])
    value = float("inf")
    while trials := [one for model in range(len(models)) if (one := best_addition(model))]:
        if min(trials)[0] >= value - 1e-12:
            break
        value, model, mesh = min(trials)
        add(model, mesh)
    return float(utilisation(where).max()), where


def _engines(
    models: list[Model], load: np.ndarray, where: list[list[int]], widths: list[int], pool: int
) -> list[Share]:
    engines, first = [], 0
    for mesh, width in enumerate(widths):
        here = [model for model in range(len(models)) if mesh in where[model]]
        weights = sum(models[model].need for model in here)
        asked = {model: models[model].kv_bytes * max(load[model] / len(where[model]), 1e-6) for model in here}
        for model in here:
            spare = pool - sum(models[i].need + _floor(models[i]) for i in here)
            share = _floor(models[model]) + spare * asked[model] / sum(asked.values())
            blocks = int(min(share, pool - weights) / models[model].kv_bytes)
            for i in range(width // models[model].tp):
                gpus = tuple(range(first + i * models[model].tp, first + (i + 1) * models[model].tp))
                engines.append(Share(model, gpus, blocks))
        first += width
    return engines


def _floor(model: Model) -> int:
    """KV bytes of one longest request: less would deadlock an engine."""
    return 8 * model.kv_bytes


def _with_neighbours(engines: list[Share]) -> list[Share]:
    on: dict[int, list[int]] = {}
    for slot, engine in enumerate(engines):
        for gpu in engine.gpus:
            on.setdefault(gpu, []).append(slot)
    return [
        Share(
            engine.model, engine.gpus, engine.kv_blocks, tuple(sorted({o for g in engine.gpus for o in on[g]} - {slot}))
        )
        for slot, engine in enumerate(engines)
    ]
