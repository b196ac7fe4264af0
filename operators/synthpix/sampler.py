"""Batches without end from a configuration: `make(config)` gives an iterator with SynthPix's fields, and resumes.

One block of flows serves `batches_per_flow_batch` batches; pair k of a batch uses flow k mod F. With episodes every
batch takes its own step. `state()` after any batch and `Sampler.from_state` go on with the same bytes, whatever was
read ahead. In real-image mode (`include_images`) stored images pass through. Section 2.2 of the specification.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.synthpix import config as configuration
from operators.synthpix.errors import ConfigError
from operators.synthpix.flows import FlowSource, open_source
from operators.synthpix.generator import Batch, Generator
from operators.synthpix.prefetch import Prefetch
from operators.synthpix.stream import Block, Episodic, Stream

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Parameters:
    """What was drawn per pair: density `(B,)`, ranges `(B, 2)` each (SynthPix's names)."""

    seeding_densities: np.ndarray
    diameter_ranges: np.ndarray
    intensity_ranges: np.ndarray
    rho_ranges: np.ndarray


@dataclass(frozen=True)
class SynthpixBatch:
    """SynthPix's fields, as numpy arrays, and `meta` (one row per pair). mask `(F,)`: which flows are real."""

    images1: np.ndarray
    images2: np.ndarray
    flow_fields: np.ndarray
    params: Parameters | None = None
    done: np.ndarray | None = None
    mask: np.ndarray | None = None
    files: tuple[str, ...] | None = None
    skipped: int = 0  # unreadable files passed over so far (on_bad_file: skip)
    made: Batch | None = field(default=None, repr=False)

    @property
    def meta(self) -> "pl.DataFrame | None":
        """One row per pair; None for stored images."""
        return self.made.meta if self.made else None


def make(config: str | Path | Mapping[str, Any], *, source: FlowSource | None = None) -> "Sampler":
    """A sampler from a SynthPix YAML of release 0.1.1 (or the same as a mapping).

    `source` replaces the files of the configuration, for flows in memory. Raises ConfigError naming key and value.
    """
    return Sampler(configuration.load(config), source=source)


class Sampler:
    """Iterator and context manager over SynthpixBatch; see make()."""

    def __init__(self, config: Mapping[str, Any], *, source: FlowSource | None = None):
        self.config = dict(config)
        parsed = configuration.parse(self.config)
        options = parsed.sampler
        self._options, self._own_source = options, source is not None
        source = source or open_source(**parsed.source)
        self._stream: Stream | Episodic | Prefetch
        if options["episode_length"] > 0:
            self._stream = Episodic(source, options["flows"], options["episode_length"], seed=parsed.seed)
        else:
            self._stream = Stream(source, options["flows"], loop=options["loop"], randomize=options["randomize"],
                                  seed=parsed.seed, on_bad_file=options["on_bad_file"])  # fmt: skip
        if options["buffer_size"] > 0:
            self._stream = Prefetch(self._stream, options["buffer_size"], startup_s=options["startup_s"],
                                    steady_s=options["steady_s"], on_timeout=options["on_timeout"])  # fmt: skip
        self.generator = None if options["real"] else Generator(
            parsed.image, parsed.sheet, parsed.camera, parsed.flow, seed=parsed.seed, epoch=parsed.epoch,
            threads=options["threads"], backend=options["backend"])  # fmt: skip
        self.batch_size = options["batch_size"]
        self._batches, self._used = 0, 0
        self._block: Block | None = None
        self._before = self._stream.state()

    def state(self) -> dict[str, Any]:
        """Everything needed to go on after the last batch: plain numbers and the configuration."""
        return {"config": self.config, "batches": self._batches, "used": self._used,
                "stream": dict(self._before if self._block is not None else self._stream.state())}  # fmt: skip

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, source: FlowSource | None = None) -> "Sampler":
        """A sampler that goes on where `state()` was taken."""
        try:
            made = cls(state["config"], source=source)
            made._batches, made._used = int(state["batches"]), int(state["used"])
            made._stream.restore(state["stream"])
        except KeyError as error:
            raise ConfigError("state", f"lacks {error}; expected what Sampler.state() gave") from None
        made._before = made._stream.state()
        if made._used:
            used = made._used
            made._next_block()
            made._used = used
        return made

    def __iter__(self) -> "Sampler":
        return self

    def __next__(self) -> SynthpixBatch:
        if self._block is None or self._used >= self._options["batches_per_flow"]:
            self._next_block()
        block = self._block
        if self._options["real"]:
            batch = _stored(block)
        else:
            first = self._batches * self.batch_size
            made = self.generator.batch(block.flows, range(first, first + self.batch_size))
            batch = SynthpixBatch(made.images1, made.images2, made.flow, _parameters(made), block.done, block.mask,
                                  block.files, block.skipped, made)  # fmt: skip
        self._batches, self._used = self._batches + 1, self._used + 1
        if self._used >= self._options["batches_per_flow"]:
            self._block, self._used = None, 0
        return batch

    def _next_block(self) -> None:
        self._before = self._stream.state()
        self._block, self._used = next(self._stream), 0

    def next_episode(self) -> None:
        """Begin new episodes (episodic sources only)."""
        if not hasattr(self._stream, "next_episode") or self._options["episode_length"] < 1:
            raise ConfigError("episode_length", "the source is not episodic", self._options["episode_length"])
        self._stream.next_episode()
        self._block, self._used = None, 0

    reset_episode = next_episode

    def close(self) -> None:
        """End the reader thread, if there is one."""
        if isinstance(self._stream, Prefetch):
            self._stream.close()

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parameters(made: Batch) -> Parameters:
    c = made.columns
    ranges = [np.stack([c[f"{name}_lo"], c[f"{name}_hi"]], axis=1) for name in ("diameter", "intensity", "rho")]
    return Parameters(c["density"], *ranges)


def _stored(block: Block) -> SynthpixBatch:
    """Images and flows as the files hold them; filled-up entries are zero."""
    shown = next(flow.images for flow in block.flows if flow.images)
    blank = tuple(np.zeros_like(image) for image in shown)
    pairs = [flow.images or blank for flow in block.flows]
    images = [np.stack([pair[k] for pair in pairs]).astype(np.float32) for k in range(2)]
    flows = np.stack([flow.values for flow in block.flows])
    return SynthpixBatch(images[0], images[1], flows, None, block.done, block.mask, block.files, block.skipped)
