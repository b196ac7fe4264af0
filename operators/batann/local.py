"""The cluster without sockets: one engine a server in this process, states handed over as the bytes they travel as.

For what does not depend on time: hops, hand-offs, reads, distances, state sizes, answers, for any number of servers and
any partition, thousands of queries a second. Every state is serialised and parsed at every hand-off, as on the wire.
No figure of time comes from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.batann import engine as engines
from operators.batann import state as wire
from operators.batann.engine import as_arrays, check_search
from operators.batann.state import GATHER, RPC, Answer, QueryState

if TYPE_CHECKING:
    from operators.batann.layout import Index

MODE_FLAGS = {"baton": 0, "single": 0, "rpc": RPC, "baton_client_gather": GATHER}


@dataclass
class LocalResult:
    """Answers in the order of the queries; `ids (nq, k)`, `dists (nq, k)`; sizes of all states handed over."""

    ids: np.ndarray
    dists: np.ndarray
    answers: list[Answer]
    state_bytes: list[int] = field(default_factory=list)
    visits: dict[int, list[tuple[int, list[tuple[int, int]]]]] = field(default_factory=dict)  # (server, [(node, us)])

    def mean(self, counter: str) -> float:
        """Mean of a counter (hops, reads, pq_dists, ...) over the queries."""
        return float(np.mean([answer.counters[counter] for answer in self.answers]))

    @property
    def handoffs(self) -> float:
        return float(np.mean([len(answer.history) - 1 for answer in self.answers]))

    @property
    def share(self) -> float:
        """Hand-offs over hops: the share of hops that go to another server."""
        return self.handoffs / self.mean("hops")


class LocalCluster:
    """Engines over one index; server s holds the partitions `holdings[s]` (default: partition s).

    `part_of (n,)` uint8 overrides the map of an index of one partition (engine.make_engine).
    """

    def __init__(
        self,
        index: "Index",
        holdings: Sequence[Sequence[int]] | None = None,
        *,
        native: bool | None = None,
        part_of: np.ndarray | None = None,
        **options: Any,
    ):
        count = index.meta.parts if part_of is None else int(part_of.max()) + 1
        holdings = holdings or [(part,) for part in range(count)]
        self._index = index
        self._engines = [
            engines.make_engine(
                index, parts, server_id=server, io="mem", native=native, part_of=part_of, **options
            ).engine
            for server, parts in enumerate(holdings)
        ]
        self._holder = {part: server for server, parts in enumerate(holdings) for part in parts}

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        L: int = 20,
        W: int = 4,
        *,
        mode: str = "baton",
        mem_l: int = 10,
        flags: int = 0,
    ) -> LocalResult:
        """Search `queries (nq, d)` (stored type), query i from server i mod S."""
        check_search(k, L, W)
        if mode not in MODE_FLAGS:
            raise ValueError(f"mode (={mode!r}): expected one of {', '.join(MODE_FLAGS)}")
        vectors = [query.tobytes() for query in queries]
        for number, vector in enumerate(vectors):
            state = QueryState(
                query_id=number, epoch=self._index.epoch, k=k, L=L, W=W, mem_l=mem_l, flags=flags | MODE_FLAGS[mode]
            )
            self._submit(number % len(self._engines), state.to_bytes(), vector)
        found: dict[int, Answer] = {}
        gathered: dict[int, list[tuple[int, float]]] = {}
        result = LocalResult(np.empty(0), np.empty(0), [])
        while len(found) < len(vectors):
            for engine in self._engines:
                for kind, to, query, body in engine.poll(False):
                    if kind == engines.RESULT:
                        found[query] = Answer.from_bytes(body)
                    elif kind == engines.HANDOFF:
                        result.state_bytes.append(len(body))
                        self._submit(self._holder[to], body, vectors[query])
                    elif kind == engines.RPC_REQUEST:
                        self._refused(self._engines[self._holder[to]].submit_rpc(body, vectors[query]))
                    elif kind == engines.RPC_REPLY:
                        self._refused(self._engines[to].rpc_reply(body))
                    elif kind == engines.GATHERED:
                        gathered.setdefault(query, []).extend(wire.part_of_answer(body)[3])
                    elif kind == engines.TRACED:
                        _, _, _, server, steps = wire.trace_steps(body)
                        result.visits.setdefault(query, []).append((server, steps))
        result.answers = [found[number] for number in range(len(vectors))]
        result.ids, result.dists = as_arrays(result.answers, k)
        if mode == "baton_client_gather":
            _merge(result, gathered, k)
        return result

    def _submit(self, server: int, state: bytes, vector: bytes) -> None:
        self._refused(self._engines[server].submit(state, vector))

    @staticmethod
    def _refused(reason: str) -> None:
        if reason:
            raise ValueError(f"the engine refuses a state of this cluster: {reason}")

    def counters(self) -> list[dict[str, int]]:
        """Of every engine, after checking its invariants."""
        for engine in self._engines:
            broken = engine.validate()
            assert not broken, broken
        return [engine.counters() for engine in self._engines]


def _merge(result: LocalResult, gathered: dict[int, list[tuple[int, float]]], k: int) -> None:
    """Client gather: the k best of all parts and the last server's."""
    for row, answer in enumerate(result.answers):
        pairs = {*gathered.get(row, ()), *(answer.full or ())}
        best = sorted(pairs, key=lambda pair: (pair[1], pair[0]))[:k]
        result.ids[row], result.dists[row] = 2**32 - 1, np.inf
        result.ids[row, : len(best)] = [node for node, _ in best]
        result.dists[row, : len(best)] = [dist for _, dist in best]
