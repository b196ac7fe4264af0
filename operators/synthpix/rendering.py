"""A rendering run: from settings to shards, by Ray workers or in this process; the manifest of what was made.

The render key hashes settings, flows and the code that makes bytes; shards lie in a folder of that name, so a rerun
keeps what is there whole and renders only what is missing.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.synthpix import catalogue, kernel, shards
from operators.synthpix.actors import Driver, FlowServer, RenderWorker, Report, ServerShell, WorkerShell
from operators.synthpix.flows import Flow
from operators.synthpix.generator import META, Generator
from operators.synthpix.settings import Settings
from operators.synthpix.shards import Shard, ShardPlanner
from operators.synthpix.specs import Camera, FlowSpec, ImageSpec

if TYPE_CHECKING:
    import polars as pl

CODE = ("native/*", "standin*.py", "geometry.py", "specs.py", "rng.py", "generator.py", "kernel.py", "flows.py",
        "analytic.py", "twins.py", "catalogue.py", "rendering.py", "shards.py")  # fmt: skip
IRRELEVANT = ("profile", "workers", "batch_size", "faults", "seeds", "piv_pairs", "piv_windows", "piv_method",
              "rerender_seeds", "border_pairs", "lock_pairs", "bench_repeats", "peers", "buffer_size", "dense",
              "steady_timeout_s")  # fmt: skip
MANIFEST = ("pair", "flow_id", "seed", "epoch", "shard", "sha256", "data", *META[1:])
DEADLINE_S = 60.0


def generator(settings: Settings, size: int) -> Generator:
    """The generator of one image size of a run."""
    looks, shape = settings.looks, (settings.sizes[size].height, settings.sizes[size].width)
    image = ImageSpec(shape=shape, density=looks.density, diameter=(looks.diameter,), intensity=(looks.intensity,),
                      rho=(looks.rho,), diameter_var=looks.diameter_var, intensity_var=looks.intensity_var,
                      rho_var=looks.rho_var, psf=settings.psf)  # fmt: skip
    flow = FlowSpec(label_at=settings.label_at, integrator=settings.integrator)
    return Generator(image, camera=Camera(bit_depth=settings.bit_depth), flow=flow, seed=settings.seed, epoch=size)


def load_flow(settings: Settings, root: Path | None, size: int, number: int) -> Flow:
    """Flow `number` of the run on the grid of an image size."""
    entry = catalogue.entries(settings.analytic, settings.items, root)[number]
    shape = (settings.sizes[size].height, settings.sizes[size].width)
    return catalogue.load(entry, shape, seed=settings.seed, root=root)


def key(settings: Settings, flow_hashes: list[str]) -> str:
    """Twelve hex digits of everything a shard's bytes depend on."""
    values = settings.model_dump(mode="json", exclude=set(IRRELEVANT))
    digest = hashlib.sha256(repr(sorted(values.items())).encode() + "".join(flow_hashes).encode())
    folder = Path(kernel.__file__).parent
    for pattern in CODE:
        for path in sorted(folder.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def describer(settings: Settings, entries: list[catalogue.Entry]):
    """A function that writes the manifest rows of a shard."""

    def describe(shard: Shard, batches: list) -> "pl.DataFrame":
        import polars as pl

        size = settings.sizes[shard.size]
        frame = pl.concat([batch.meta for batch in batches])
        hashes = [shards.pair_hash(*pair) for batch in batches
                  for pair in zip(batch.images1, batch.images2, batch.flow, strict=True)]  # fmt: skip
        used = [entries[pair % len(entries)] for pair in frame["pair"]]
        return frame.with_columns(
            flow_id=pl.Series([f"{entry.name}-{size.height}x{size.width}" for entry in used]),
            data=pl.Series([entry.data for entry in used]),
            seed=pl.lit(settings.seed, pl.Int64),
            epoch=pl.lit(shard.size, pl.Int64),
            shard=pl.lit(shard.number, pl.Int64),
            sha256=pl.Series(hashes),
        ).select(MANIFEST)

    return describe


def worker(settings_json: str, folder: Path, kinds: dict[str, str]) -> RenderWorker:
    """A RenderWorker from plain values, as a process of its own gets them; `kinds`: flow name to real or synthetic."""
    settings = Settings.model_validate_json(settings_json)
    entries = [catalogue.Entry(name, data, "") for name, data in kinds.items()]
    return RenderWorker(lambda size: generator(settings, size), folder, block=settings.batch_size,
                        describe=describer(settings, entries))  # fmt: skip


def server(settings_json: str, root: str | None) -> FlowServer:
    """A FlowServer from plain values."""
    settings = Settings.model_validate_json(settings_json)
    place = Path(root) if root else None
    return FlowServer(lambda size, n: load_flow(settings, place, size, n), steady_s=settings.steady_timeout_s)


def run(settings: Settings, folder: Path, root: Path | None, flow_hashes: list[str], connect: Callable | None = None,
        deadline_s: float = DEADLINE_S) -> tuple[Path, "pl.DataFrame", Report]:  # fmt: skip
    """Render what is missing of a run under `folder/<key>`; the shard folder, the manifest, what happened.

    `connect()` is a context with the connected ray module, entered only when something is missing; without it one
    worker renders in this process.
    """
    import polars as pl

    place = folder / key(settings, flow_hashes)
    place.mkdir(parents=True, exist_ok=True)
    planned = shards.plan([size.pairs for size in settings.sizes], settings.shard_pairs)
    planner, manifests = ShardPlanner(planned), {}
    for shard in planned:
        found = shards.kept(place, shard)
        if found is not None:
            manifests[shard.number] = found
            planner.done(shard.number, hashlib.sha256("".join(found["sha256"]).encode()).hexdigest())
    report = Report()
    if not planner.finished and connect is None:
        report = _here(settings, place, root, planner)
    elif not planner.finished:
        with connect() as ray:
            report = _by_ray(ray, settings, place, root, planner, deadline_s)
    for shard in planned:
        if shard.number not in manifests:
            manifests[shard.number] = pl.read_parquet(shards.path(place, shard.number).with_suffix(".manifest"))
    _tidy(folder, place)
    return place, pl.concat([manifests[shard.number] for shard in planned]), report


def _tidy(folder: Path, keep: Path) -> None:
    """Remove shards of other keys and files a killed worker left half-written."""
    for other in folder.iterdir():
        if other.is_dir() and other != keep:
            shutil.rmtree(other)
    for part in keep.glob(".*.part"):
        part.unlink()


def _kinds(settings: Settings, root: Path | None) -> dict[str, str]:
    return {entry.name: entry.data for entry in catalogue.entries(settings.analytic, settings.items, root)}


def _here(settings: Settings, place: Path, root: Path | None, planner: ShardPlanner) -> Report:
    made = worker(settings.model_dump_json(), place, _kinds(settings, root))
    flows = server(settings.model_dump_json(), str(root) if root else None)
    numbers = range(len(_kinds(settings, root)))
    while (shard := planner.next(0)) is not None:
        planner.done(shard.number, made.render(shard, flows.get(shard.size, numbers)))
        planner.validate()
    return Report()


def _by_ray(ray: Any, settings: Settings, place: Path, root: Path | None, planner: ShardPlanner, deadline_s: float
            ) -> Report:  # fmt: skip
    plain, kinds = settings.model_dump_json(), _kinds(settings, root)
    flow_server = ray.remote(ServerShell).options(num_cpus=0).remote(plain, str(root) if root else None)
    blocks: dict[int, Any] = {}

    def flows(shard: Shard) -> Any:
        if shard.size not in blocks:
            try:
                blocks[shard.size] = ray.put(ray.get(flow_server.get.remote(shard.size, list(range(len(kinds))))))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
        return blocks[shard.size]

    def start(number: int) -> tuple[Any, int]:
        actor = ray.remote(WorkerShell).options(num_cpus=0, max_restarts=0).remote(plain, str(place.absolute()), kinds)
        return actor, ray.get(actor.pid.remote(), timeout=120)

    def slow(seconds: float) -> None:
        ray.get(flow_server.slow_down.remote(seconds))
        blocks.clear()

    driver = Driver(ray, planner, start=start, flows=flows, workers=settings.workers, deadline_s=deadline_s,
                    schedule=settings.faults, slow=slow)  # fmt: skip
    try:
        return driver.run()
    finally:
        ray.kill(flow_server)


def read_pairs(place: Path, numbers: list[int], settings: Settings) -> list[tuple[np.ndarray, ...]]:
    """(image1, image2, label) of pairs by number, from their shards."""
    import polars as pl

    planned = shards.plan([size.pairs for size in settings.sizes], settings.shard_pairs)
    dtype = Camera(bit_depth=settings.bit_depth).dtype
    found = {}
    for shard in planned:
        wanted = [n for n in numbers if shard.first <= n < shard.first + shard.count]
        if wanted:
            frame = pl.read_parquet(shards.path(place, shard.number)).filter(pl.col("pair").is_in(wanted))
            found |= {row["pair"]: shards.unpack(row, dtype) for row in frame.iter_rows(named=True)}
    return [found[n] for n in numbers]
