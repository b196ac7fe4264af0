"""The order in which flows are served: passes, shuffling, blocks, episodes. Pure arithmetic on a cursor, so a stream
can go on from a saved cursor bit for bit, whatever was read in between.

`Stream` serves blocks of flows; the last block of a finite stream is filled up with zero flows and a mask says which
are real. `Episodic` serves B parallel time-ordered sequences from leaf folders. Section 2.2 of the specification;
departure: an unreadable file is an error unless `on_bad_file="skip"`, and then it is counted.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from operators.synthpix.errors import ConfigError, CorruptFile, EpisodeEnd
from operators.synthpix.flows import Flow, FlowSource

log = logging.getLogger("synthpix.stream")
SHUFFLE, STARTS = 101, 102  # streams of default_rng([seed, ...])


@dataclass(frozen=True)
class Block:
    """Flows of one step: `flows`, which of them are real `(F,)` bool, their files, `done` of episodes."""

    flows: tuple[Flow, ...]
    mask: np.ndarray
    files: tuple[str, ...]
    done: np.ndarray | None = None
    skipped: int = 0  # unreadable files passed over so far


class Stream:
    """Blocks of `block` flows from a source, over and over (`loop`) or once; `randomize` shuffles every pass anew.

    `state()` and `restore` carry the cursor. Raises CorruptFile on an unreadable file (or passes over it),
    StopIteration at the true end only.
    """

    def __init__(self, source: FlowSource, block: int, *, loop: bool = True, randomize: bool = False, seed: int = 0,
                 on_bad_file: str = "raise"):  # fmt: skip
        if on_bad_file not in ("raise", "skip"):
            raise ConfigError("on_bad_file", "expected 'raise' or 'skip'", on_bad_file)
        self.source, self._block, self._loop, self._randomize, self._seed = source, block, loop, randomize, seed
        self._skip = on_bad_file == "skip"
        self._cursor, self._skipped = 0, 0
        self._order: tuple[int, np.ndarray] | None = None

    def state(self) -> dict[str, int]:
        return {"cursor": self._cursor, "skipped": self._skipped}

    def restore(self, state: dict[str, int]) -> None:
        self._cursor, self._skipped = int(state["cursor"]), int(state["skipped"])

    def upcoming(self) -> str:
        """The path that is read next, for messages."""
        number = len(self.source)
        return self.source.path(self._index(self._cursor)) if self._loop or self._cursor < number else "end of stream"

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Block:
        flows: list[Flow] = []
        while len(flows) < self._block:
            flow = self._next_flow()
            if flow is None:
                break
            flows.append(flow)
        if not flows:
            raise StopIteration
        real = len(flows)
        shape = flows[0].values.shape
        files = tuple(flow.name for flow in flows) + ("",) * (self._block - real)
        flows += [Flow(np.zeros(shape, np.float32), name="filled up")] * (self._block - real)
        return Block(tuple(flows), np.arange(self._block) < real, files, skipped=self._skipped)

    def _next_flow(self) -> Flow | None:
        bad = 0
        while self._loop or self._cursor < len(self.source):
            index = self._index(self._cursor)
            try:
                flow = self.source.get(index)
            except CorruptFile as error:
                if not self._skip:
                    raise
                bad += 1
                if bad >= len(self.source):
                    raise CorruptFile(error.path, f"no file of the source is readable, the last one: {error.reason}"
                                      ) from None  # fmt: skip
                log.warning("passed over: %s", error)
                self._cursor, self._skipped = self._cursor + 1, self._skipped + 1
                continue
            self._cursor += 1
            return flow
        return None

    def _index(self, cursor: int) -> int:
        number = len(self.source)
        turn, place = divmod(cursor, number)
        if not self._randomize:
            return place
        if self._order is None or self._order[0] != turn:
            self._order = (turn, np.random.default_rng([self._seed, SHUFFLE, turn]).permutation(number))
        return int(self._order[1][place])


class Episodic:
    """`batch` parallel episodes of `length` consecutive flows; starts are drawn anew for every episode.

    Flows of one folder, sorted by name, are one sequence. After the last step EpisodeEnd is raised until
    `next_episode()` is called. `done` is true on the last step.
    """

    def __init__(self, source: FlowSource, batch: int, length: int, *, seed: int = 0):
        if length < 1 or batch < 1:
            raise ConfigError("episode_length", "expected >= 1", length)
        self.source, self._batch, self.length, self._seed = source, batch, length, seed
        self._starts = _starts(source, length)
        self._episode, self._step = 0, 0

    def state(self) -> dict[str, int]:
        return {"episode": self._episode, "step": self._step}

    def restore(self, state: dict[str, int]) -> None:
        self._episode, self._step = int(state["episode"]), int(state["step"])

    def upcoming(self) -> str:
        return self.source.path(self._sequences()[0][min(self._step, self.length - 1)])

    def _sequences(self) -> list[Sequence[int]]:
        rng = np.random.default_rng([self._seed, STARTS, self._episode])
        return [self._starts[i] for i in rng.integers(len(self._starts), size=self._batch)]

    def next_episode(self) -> None:
        """Begin `batch` new episodes, whatever is left of these."""
        self._episode, self._step = self._episode + 1, 0

    def steps_remaining(self) -> int:
        return self.length - self._step

    def __iter__(self) -> "Episodic":
        return self

    def __next__(self) -> Block:
        if self._step >= self.length:
            raise EpisodeEnd(f"episode {self._episode}: its {self.length} steps are served; call next_episode()")
        flows = tuple(self.source.get(sequence[self._step]) for sequence in self._sequences())
        self._step += 1
        files = tuple(flow.name for flow in flows)
        done = np.full(self._batch, self._step == self.length)
        return Block(flows, np.ones(self._batch, bool), files, done)


def _starts(source: FlowSource, length: int) -> list[Sequence[int]]:
    """Every run of `length` consecutive flows of one folder, as indices of the source."""
    folders: dict[str, list[int]] = {}
    for index in range(len(source)):
        folders.setdefault(str(Path(source.path(index)).parent), []).append(index)
    starts: list[Sequence[int]] = []
    for folder, indices in sorted(folders.items()):
        if len(indices) < length:
            raise ConfigError("episode_length", f"{folder} has only {len(indices)} flows", length)
        indices.sort(key=source.path)
        starts += [tuple(indices[s : s + length]) for s in range(len(indices) - length + 1)]
    return starts
