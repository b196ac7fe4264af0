"""The synthetic twin of the recorded histories: same text, statistics of the real set, verdicts known by construction.

Register: five live clients; after an unknown outcome a client goes on under its id + 5. Every call gets a hidden
moment between its begin and end (an unknown one: any later moment or never) at which it acts on a true register, so the
history is linearizable; a false one has one read changed to a value no write or cas begun before that read's return
could have put there. Key-value: a false one has an append missing from, or two swapped in, a later get.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from operators.locks import history

if TYPE_CHECKING:
    import numpy as np

STREAM_REGISTER, STREAM_KV = 11, 12
REGISTERS, FALSE_SHARE = 60, 0.78
CLIENTS, VALUES = 5, 5
MIX = (0.345, 0.311, 0.344)  # read, write, cas
WRITE_INFO, CAS_OK, CAS_FAIL, CAS_INFO = 0.23, 0.15, 0.62, 0.23
KEYS = 10
KV_MIX = (0.46, 0.48, 0.06)  # get, append, put


def histories(seed: int) -> Iterator[tuple[str, str, bool]]:
    """(name, text, linearizable) of 60 register and 4 key-value histories."""
    import numpy as np

    for number in range(REGISTERS):
        rng = np.random.default_rng([seed, STREAM_REGISTER, number])
        good = bool(number % 50 not in _false_numbers(seed))
        yield f"etcd_{number:03}.log", twin_register(rng, good=good), good
    for number, (name, clients, good) in enumerate(
        [("c01-ok", 1, True), ("c01-bad", 1, False), ("c10-ok", 10, True), ("c10-bad", 10, False)]
    ):
        rng = np.random.default_rng([seed, STREAM_KV, number])
        yield f"kv/{name}.txt", twin_kv(rng, clients=clients, good=good), good


def _false_numbers(seed: int) -> set[int]:
    import numpy as np

    return set(np.random.default_rng([seed, STREAM_REGISTER]).permutation(50)[: round(50 * FALSE_SHARE)].tolist())


def twin_register(rng: "np.random.Generator", *, good: bool) -> str:
    """One register history of 77 to 90 calls."""
    calls = int(rng.integers(77, 91))
    state: int | None = None
    ids, running = list(range(CLIENTS)), {}
    events: list[tuple[int, str, str, str]] = []
    could: set[int] = set()  # values some write or cas begun so far could have put there
    late: list[tuple[str, tuple[int, ...]]] = []  # calls of unknown outcome that may still act
    reads: list[tuple[int, set[int]]] = []  # position of a read's return, values possible by then
    begun = 0
    while begun < calls or running:
        client = int(rng.integers(CLIENTS))
        if client not in running:
            if begun == calls:
                continue
            kind = ("read", "write", "cas")[int(rng.choice(3, p=MIX))]
            args = tuple(int(v) for v in rng.integers(0, VALUES, {"read": 0, "write": 1, "cas": 2}[kind]))
            running[client] = (kind, args)
            could |= {args[-1]} if args else set()
            events.append((ids[client], "invoke", kind, _shown(args)))
            begun += 1
            continue
        if late and rng.random() < 0.05:  # an earlier call of unknown outcome acts now
            state = _act(state, *late.pop(int(rng.integers(len(late)))))
        kind, args = running.pop(client)
        ended, state = _end(rng, kind, args, state)
        if ended == "info":
            late.append((kind, args))
            events.append((ids[client], "info", kind, ":timed-out"))
            ids[client] += CLIENTS
            continue
        if kind == "read":
            reads.append((len(events), set(could)))
        events.append((ids[client], ended, kind, _shown(args) if args else _value(state)))
    if not good:
        _spoil(rng, events, reads)
    return history.write_register(events)


def _end(rng: "np.random.Generator", kind: str, args: tuple[int, ...], state: int | None) -> tuple[str, int | None]:
    """How a call ends, and the register after it; a cas that must swap or differ is what the register says it is."""
    if kind == "read":
        return "ok", state
    if kind == "write":
        return ("info", state) if rng.random() < WRITE_INFO else ("ok", args[0])
    if rng.random() < CAS_INFO:
        return "info", state
    return ("ok", args[1]) if state == args[0] else ("fail", state)


def _act(state: int | None, kind: str, args: tuple[int, ...]) -> int | None:
    if kind == "write":
        return args[0]
    return args[1] if state == args[0] else state


def _spoil(rng: "np.random.Generator", events: list, reads: list[tuple[int, set[int]]]) -> None:
    """Change one read to a value that could not have been there."""
    at, could = reads[int(rng.integers(len(reads)))]
    never = next(value for value in range(VALUES, 2 * VALUES + 90) if value not in could)
    process, kind, function, _ = events[at]
    events[at] = (process, kind, function, str(never))


def _shown(args: tuple[int, ...]) -> str:
    return "nil" if not args else str(args[0]) if len(args) == 1 else f"[{args[0]} {args[1]}]"


def _value(state: int | None) -> str:
    return "nil" if state is None else str(state)


def twin_kv(rng: "np.random.Generator", *, clients: int, good: bool) -> str:
    """One key-value history: 38 to 58 calls of one client, 337 to 405 of ten."""
    calls = int(rng.integers(38, 59) if clients == 1 else rng.integers(337, 406))
    store = [""] * KEYS
    counts = [0] * clients
    running: dict[int, tuple[str, int, str]] = {}
    events: list[tuple[int, str, str, int, str]] = []
    begun = 0
    while begun < calls or running:
        client = int(rng.integers(clients))
        if client not in running:
            if begun == calls:
                continue
            kind, key = ("get", "append", "put")[int(rng.choice(3, p=KV_MIX))], int(rng.integers(KEYS))
            value = "" if kind == "get" else f"x {client} {counts[client]} y"
            counts[client] += kind != "get"
            running[client] = (kind, key, value)
            events.append((client, "invoke", kind, key, value))
            begun += 1
            continue
        kind, key, value = running.pop(client)
        store[key] = value if kind == "put" else store[key] + value
        events.append((client, "ok", kind, key, store[key] if kind == "get" else value))
    if not good:
        _spoil_kv(events)
    return history.write_kv(events)


def _spoil_kv(events: list[tuple[int, str, str, int, str]]) -> None:
    """Drop an append from the last get that shows one."""
    for at in range(len(events) - 1, -1, -1):
        process, kind, function, key, value = events[at]
        if kind == "ok" and function == "get" and value.count("y") > 1:
            events[at] = (process, kind, function, key, value[: value.index("y") + 1])
            return
    raise ValueError("twin_kv: no get shows two appends; expected a longer history")
