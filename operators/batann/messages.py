"""Bodies of the frames that carry states: several (state, query vector) in one message."""

import struct

STATES_LIMIT = 255
ITEM = struct.Struct("<II")


class MessageError(ValueError):
    """A frame's body that is not what its type says."""


def pack_states(items: list[tuple[bytes, bytes]]) -> bytes:
    """One body of up to 255 (state, vector); an empty vector means that the receiver has it."""
    if not 1 <= len(items) <= STATES_LIMIT:
        raise ValueError(f"items (={len(items)} states): expected 1 to {STATES_LIMIT}")
    parts = [bytes([len(items)])]
    for state, vector in items:
        parts += [ITEM.pack(len(state), len(vector)), state, vector]
    return b"".join(parts)


def unpack_states(body: bytes) -> list[tuple[bytes, bytes]]:
    """The inverse of `pack_states`; MessageError on anything else."""
    if not body or not body[0]:
        raise MessageError("states: empty body")
    items, at = [], 1
    for _ in range(body[0]):
        if len(body) - at < ITEM.size:
            raise MessageError("states: body ends within an item's head")
        state, vector = ITEM.unpack_from(body, at)
        at += ITEM.size
        if len(body) - at < state + vector:
            raise MessageError("states: body ends within an item")
        items.append((body[at : at + state], body[at + state : at + state + vector]))
        at += state + vector
    if at != len(body):
        raise MessageError(f"states: {len(body) - at} bytes too many")
    return items


ACKED = struct.Struct("<QH")  # query, attempt
PINGED = struct.Struct("<Q")  # the address that wants the answer
RPC_ITEM = struct.Struct("<I")


def pack_rpc(body: bytes, vector: bytes) -> bytes:
    """A remote read's request and, the first time, the query vector."""
    return RPC_ITEM.pack(len(body)) + body + vector


def rpc_key(body: bytes) -> bytes:
    """Query and attempt of a remote read's request (job.h), as `state.key_of`."""
    return body[8:16] + body[24:26]


def unpack_rpc(body: bytes) -> tuple[bytes, bytes]:
    if len(body) < RPC_ITEM.size:
        raise MessageError("remote read: shorter than its head")
    length = RPC_ITEM.unpack_from(body)[0]
    if len(body) < RPC_ITEM.size + length or length < 26:
        raise MessageError("remote read: wrong size")
    return body[RPC_ITEM.size : RPC_ITEM.size + length], body[RPC_ITEM.size + length :]
