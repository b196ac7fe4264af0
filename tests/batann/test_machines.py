"""The pure machines of server and client: who gets what, at most one answer, nothing kept for ever. No clock."""

import pytest

from operators.batann import engine as engines
from operators.batann import state as wire
from operators.batann import transport
from operators.batann.client import ClientCore, Plan
from operators.batann.messages import ACKED, PINGED, MessageError, pack_states, unpack_states
from operators.batann.peers import SILENT_S, Peer, Peers, parts_of
from operators.batann.server_core import ServerCore
from operators.batann.state import QueryState
from operators.batann.transport import Down, Frame, Hello

EPOCH = 11
SERVER = [Hello(transport.SERVER, EPOCH, number) for number in range(3)]
CLIENT = Hello(transport.CLIENT, EPOCH, 9)
CLIENT_ADDRESS = (127 << 40) + 4242


class Engine:
    """An engine that keeps what it is given."""

    def __init__(self, refusal: str = ""):
        self.taken, self.refusal, self.waiting_states = [], refusal, 0

    def submit(self, state, vector):
        if not self.refusal:
            self.taken.append((state, vector))
        return self.refusal

    def waiting(self):
        return self.waiting_states

    def counters(self):
        return {"live": 0}

    def validate(self):
        return ""


def peers(replicas: int = 1) -> Peers:
    return Peers([Peer(who, 1000 + who, parts_of(who, 3, 3, replicas), EPOCH) for who in range(3)])


def state(query: int = 1, **changes) -> bytes:
    made = QueryState(query_id=query, epoch=EPOCH, client_ip=CLIENT_ADDRESS >> 16, client_port=CLIENT_ADDRESS & 0xFFFF)
    return made.with_changes(**changes).to_bytes()


def frame(kind: int, body: bytes, sender: Hello = CLIENT, flags: int = 0) -> Frame:
    return Frame(sender, kind, flags, body)


def query_frame(*states: bytes, vector: bytes = b"v") -> Frame:
    return frame(transport.QUERY, pack_states([(one, vector) for one in states]))


def answer(query: int, attempt: int = 0, status: str = "ok", reason: str = "", server: int = 0, **more) -> Frame:
    ids, dists, history = more.get("ids", (7,)), more.get("dists", (1.5,)), more.get("history", (server,))
    body = wire.RESULT.pack(
        query, attempt, wire.STATUS.index(status), wire.REASONS.index(reason), len(ids), len(history), server, 0,
        *([1] * 5), 0, *([1] * 5),
    )  # fmt: skip
    import struct

    body += struct.pack(f"<{len(ids)}I", *ids) + struct.pack(f"<{len(dists)}f", *dists) + bytes(history)
    return frame(transport.RESULT, body, SERVER[server])


class TestServer:
    def core(self, engine: Engine | None = None, **options) -> ServerCore:
        made = ServerCore(0, engine or Engine(), peers(options.pop("replicas", 1)), **options)
        made.part_of = [0, 1, 2]
        return made

    def test_a_ping_from_no_address_is_refused(self):
        with pytest.raises(MessageError, match="no address"):
            self.core().on_frame(frame(transport.PING, PINGED.pack(2**64 - 1)), 0.0)

    def test_a_remote_read_for_nobody_is_only_counted(self):
        core = self.core()
        assert core.on_events([(engines.RPC_REPLY, 200, 1, b"reply")], 0.0) == []
        assert core.counters["bad_states"] == 1

    def test_a_query_reaches_the_engine_with_its_vector(self):
        core = self.core()
        assert core.on_frame(query_frame(state()), 0.0) == []
        assert core.engine.taken == [(state(), b"v")]

    def test_a_full_server_refuses_queries_but_never_batons(self):
        core = self.core(queue_limit=2)
        core.engine.waiting_states = 2
        (out,) = core.on_frame(query_frame(state()), 0.0)
        assert wire.Answer.from_bytes(out.body).reason == "busy"
        assert out.address == CLIENT_ADDRESS
        assert core.on_frame(frame(transport.BATON, pack_states([(state(), b"v")]), SERVER[1]), 0.0) == []
        assert len(core.engine.taken) == 1

    def test_a_baton_without_a_vector_uses_the_one_that_came_before(self):
        core = self.core()
        core.on_frame(frame(transport.BATON, pack_states([(state(), b"v")]), SERVER[1]), 0.0)
        core.on_frame(frame(transport.BATON, pack_states([(state(), b"")]), SERVER[1]), 0.0)
        assert [vector for _, vector in core.engine.taken] == [b"v", b"v"]

    def test_an_unknown_vector_is_answered(self):
        (out,) = self.core().on_frame(frame(transport.BATON, pack_states([(state(), b"")]), SERVER[1]), 0.0)
        assert wire.Answer.from_bytes(out.body).reason == "no_vector"

    def test_a_stale_state_is_answered_and_counted(self):
        core = self.core(Engine("stale epoch"))
        (out,) = core.on_frame(query_frame(state()), 0.0)
        assert wire.Answer.from_bytes(out.body).reason == "stale_epoch"
        assert core.counters["stale"] == 1

    def test_damaged_states_are_counted_and_bodies_refused(self):
        core = self.core(Engine("wrong checksum"))
        assert core.on_frame(query_frame(b"\0" * 130), 0.0) == []
        assert core.counters["bad_states"] == 1
        with pytest.raises(MessageError):
            core.on_frame(frame(transport.QUERY, b"\5"), 0.0)

    def test_acks_and_time_free_vectors(self):
        core = self.core(vector_ttl_s=5.0)
        core.on_frame(query_frame(state(1), state(2), state(3)), 0.0)
        core.on_frame(frame(transport.ACK, ACKED.pack(1, 0) + ACKED.pack(2, 0)), 1.0)
        assert core.vectors_held == 1
        core.on_frame(frame(transport.ACK, ACKED.pack(3, 1)), 1.0)  # of another attempt
        assert core.vectors_held == 1
        core.forget_old_vectors(6.0)
        assert core.vectors_held == 0

    def test_batons_for_one_server_share_frames_of_at_most_eight(self):
        core = self.core()
        events = [(engines.HANDOFF, 1, number, state(number, history=(0,))) for number in range(19)]
        core.on_frame(query_frame(*(state(number) for number in range(19))), 0.0)
        outs = core.on_events(events, 0.0)
        assert [out.address for out in outs] == [1001] * 3
        items = [item for out in outs for item in unpack_states(out.body)]
        assert [wire.query_id_of(one) for one, _ in items] == list(range(19))
        assert [len(unpack_states(out.body)) for out in outs] == [8, 8, 3]
        assert all(vector == b"v" for _, vector in items)
        core.validate()

    def test_the_vector_goes_to_each_server_once(self):
        core = self.core()
        core.on_frame(query_frame(state(5)), 0.0)
        (out,) = core.on_events([(engines.HANDOFF, 1, 5, state(5, history=(1, 0)))], 0.0)
        assert unpack_states(out.body)[0][1] == b""

    def test_a_partition_nobody_holds_ends_the_query(self):
        core = self.core()
        core.on_frame(query_frame(state(5)), 0.0)
        core.peers.mark_down(1, 0.0)
        (out,) = core.on_events([(engines.HANDOFF, 1, 5, state(5, history=(0,)))], 0.0)
        assert (out.type, out.address) == (transport.RESULT, CLIENT_ADDRESS)
        assert wire.Answer.from_bytes(out.body).reason == "partition_down"

    def test_a_baton_that_never_left_goes_to_the_replica(self):
        core = self.core(replicas=2)
        core.on_frame(query_frame(state(5)), 0.0)
        (out,) = core.on_events([(engines.HANDOFF, 1, 5, state(5, history=(0,), beam=((1, 1.0, 0),)))], 0.0)
        assert out.address == 1001
        (again,) = core.on_down(Down(1001, "unreachable", "refused", [(transport.BATON, 0, out.body)]), 1.0)
        assert again.address == 1002
        assert unpack_states(again.body)[0][1] == b"v"
        assert core.counters["rerouted"] == 1

    def test_batons_prefer_the_replica_with_the_shorter_queue(self):
        core = self.core(replicas=2)
        core.on_frame(frame(transport.PONG, b"", SERVER[1], flags=50), 0.0)
        core.on_frame(frame(transport.PONG, b"", SERVER[2], flags=3), 0.0)
        (out,) = core.on_events([(engines.HANDOFF, 1, 5, state(5, history=(0,)))], 0.0)
        assert out.address == 1002

    def test_a_silent_server_is_taken_for_down_until_it_speaks(self):
        core = self.core()
        pings = core.pings(77, 0.0)
        assert [(out.address, PINGED.unpack(out.body)[0]) for out in pings] == [(1001, 77), (1002, 77)]
        assert core.peers.is_up(1, SILENT_S / 2)
        assert not core.peers.is_up(1, SILENT_S)
        core.on_frame(frame(transport.PONG, b"", SERVER[1]), SILENT_S)
        assert core.peers.is_up(1, SILENT_S)

    def test_pings_are_answered_to_the_address_they_name(self):
        (out,) = self.core().on_frame(frame(transport.PING, PINGED.pack(77), SERVER[1]), 0.0)
        assert (out.address, out.type) == (77, transport.PONG)


class TestClient:
    def core(self, mode: str = "baton", replicas: int = 1, **plan) -> ClientCore:
        return ClientCore(Plan(mode=mode, **plan), peers(replicas), CLIENT_ADDRESS, window=8)

    def sent(self, outs) -> list[tuple[int, QueryState]]:
        return [
            (out.address, QueryState.from_bytes(unpack_states(out.body)[0][0]))
            for out in outs
            if out.type == transport.QUERY
        ]

    def test_queries_go_round_the_servers(self):
        core = self.core()
        sent = [self.sent(core.ask(number, b"v", 0.0))[0] for number in range(6)]
        assert sorted(address for address, _ in sent) == [1000, 1000, 1001, 1001, 1002, 1002]
        assert len({one.query_id for _, one in sent}) == 6

    def test_an_answer_ends_its_query_and_acks_every_server_it_visited(self):
        core = self.core()
        ((_, asked),) = self.sent(core.ask(0, b"v", 0.0))
        acks = core.on_frame(answer(asked.query_id, history=(0, 2, 0)), 0.5)
        assert sorted(out.address for out in acks) == [1000, 1002]
        assert core.outcomes[0].ids == [7]
        assert core.outcomes[0].latency_us == 500_000
        core.validate()

    def test_a_second_answer_and_one_of_an_older_attempt_are_dropped(self):
        core = self.core(timeout_s=1.0)
        ((_, asked),) = self.sent(core.ask(0, b"v", 0.0))
        ((_, again),) = self.sent(core.tick(2.0))
        assert again.attempt == 1
        core.on_frame(answer(asked.query_id, attempt=0, ids=(1,)), 2.1)
        assert not core.outcomes
        core.on_frame(answer(asked.query_id, attempt=1, ids=(2,)), 2.2)
        core.on_frame(answer(asked.query_id, attempt=1, ids=(3,)), 2.3)
        assert core.outcomes[0].ids == [2]
        assert core.counters["late"] == 2
        core.validate()

    def test_a_retry_goes_to_another_server(self):
        core = self.core(timeout_s=1.0)
        ((first, _),) = self.sent(core.ask(0, b"v", 0.0))
        ((second, _),) = self.sent(core.on_down(Down(first, "closed", "reset", []), 0.1))
        assert second != first

    def test_an_unanswered_query_fails_with_its_reason(self):
        core = self.core(timeout_s=1.0)
        core.ask(0, b"v", 0.0)
        core.tick(2.0)
        core.tick(4.0)
        assert (core.outcomes[0].status, core.outcomes[0].reason) == ("failed", "deadline")
        core.validate()

    def test_busy_comes_back_after_a_pause_as_often_as_it_takes(self):
        core = self.core()
        ((_, asked),) = self.sent(core.ask(0, b"v", 0.0))
        for attempt in range(6):
            core.on_frame(answer(asked.query_id, attempt, "failed", "busy", ids=(), dists=()), attempt * 0.1)
            assert self.sent(core.tick(attempt * 0.1 + 0.001)) == []
            ((_, again),) = self.sent(core.tick(attempt * 0.1 + 0.05))
            assert again.attempt == attempt + 1
        core.on_frame(answer(asked.query_id, 6), 1.0)
        assert core.outcomes[0].status == "ok"

    def test_no_server_left_is_a_failed_row(self):
        core = self.core()
        for who in range(3):
            core.peers.mark_down(who, 0.0)
        core.ask(0, b"v", 0.0)
        assert core.outcomes[0].reason == "partition_down"

    def test_scatter_waits_for_every_shard_and_merges(self):
        core = self.core("scatter")
        sent = self.sent(core.ask(0, b"v", 0.0))
        assert [address for address, _ in sent] == [1000, 1001, 1002]
        query = sent[0][1].query_id
        for server, (ids, dists) in enumerate([((5, 6), (2.0, 3.0)), ((1, 2), (1.0, 9.0)), ((8,), (2.5,))]):
            assert not core.outcomes
            core.on_frame(answer(query, server=server, ids=ids, dists=dists), 0.1)
            core.on_frame(answer(query, server=server, ids=(99,), dists=(0.0,)), 0.1)  # twice: dropped
        assert core.outcomes[0].ids == [1, 5, 8, 6, 2]

    def test_a_partial_answer_is_marked(self):
        core = self.core()
        ((_, asked),) = self.sent(core.ask(0, b"v", 0.0))
        core.on_frame(answer(asked.query_id, status="partial", reason="hops"), 0.1)
        assert (core.outcomes[0].status, core.outcomes[0].reason) == ("partial", "hops")

    def test_a_stale_server_is_left_alone_afterwards(self):
        core = self.core()
        ((_, asked),) = self.sent(core.ask(0, b"v", 0.0))
        core.on_frame(answer(asked.query_id, 0, "failed", "stale_epoch", server=1, ids=(), dists=()), 0.1)
        assert not core.peers.is_up(1, 1.0)

    @pytest.mark.parametrize(("mode", "window", "word"), [("fan", 1, "mode"), ("baton", 0, "window")])
    def test_wrong_arguments_name_themselves(self, mode, window, word):
        with pytest.raises(ValueError, match=word):
            ClientCore(Plan(mode=mode), peers(), 0, window=window)


def test_parts_and_replicas():
    assert [parts_of(server, 3, 3, 2) for server in range(3)] == [(0, 2), (0, 1), (1, 2)]
    assert [parts_of(server, 2, 4, 1) for server in range(2)] == [(0, 2), (1, 3)]
    for servers, parts, replicas, word in ((3, 3, 4, "replicas"), (3, 3, 0, "replicas"), (4, 3, 1, "servers")):
        with pytest.raises(ValueError, match=word):
            parts_of(0, servers, parts, replicas)
