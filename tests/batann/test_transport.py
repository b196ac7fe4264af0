"""Frames: what arrives is what was sent, what is no frame ends its connection only, what never left comes back."""

import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from operators.batann import transport
from operators.batann.messages import MessageError, pack_states, unpack_states
from operators.batann.transport import Down, Frame, Hello, PortInUse, Tcp, unpack_address

PATIENCE_S = 20.0


def until(tcp: Tcp, wanted, *others: Tcp):
    """Poll until something `wanted` has come; the rest is dropped."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for other in others:
            other.poll(0)
        for news in tcp.poll(0.02):
            if wanted(news):
                return news
    raise AssertionError("nothing came")


def is_frame(news) -> bool:
    return isinstance(news, Frame)


def is_down(news) -> bool:
    return isinstance(news, Down)


@pytest.fixture
def pair():
    made = [
        Tcp(Hello(transport.SERVER, 5, number), lambda hello: "" if hello.epoch == 5 else "stale") for number in (0, 1)
    ]
    yield made
    for tcp in made:
        tcp.close()


def raw(tcp: Tcp) -> socket.socket:
    made = socket.create_connection(unpack_address(tcp.address), timeout=PATIENCE_S)
    made.settimeout(PATIENCE_S)
    return made


HELLO = Hello(transport.CLIENT, 5, 9).to_bytes()


def test_frames_of_any_size_arrive_whole_and_in_order(pair):
    first, second = pair
    bodies = [b"", b"x", bytes(range(256)) * 2000, b"y" * transport.FRAME_LIMIT]
    for number, body in enumerate(bodies):
        first.send(second.address, transport.BATON, body, flags=number)
    found: list = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < len(bodies) and time.monotonic() < deadline:
        first.poll(0)
        found += [news for news in second.poll(0.02) if is_frame(news)]
    assert [(frame.flags, frame.body) for frame in found] == list(enumerate(bodies))
    assert found[0].sender == Hello(transport.SERVER, 5, 0)
    assert first.counters["bytes_out"] == second.counters["bytes_in"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack("<IHH", 2**31, transport.BATON, 0) + b"x" * 100,
        struct.pack("<IHH", 4, 999, 0) + b"abcd",
        struct.pack("<IHH", 4, transport.BATON, 0) + b"abcd",  # no HELLO before
        struct.pack("<IHH", 3, transport.HELLO, 0) + b"abc",
        struct.pack("<IHH", len(HELLO), transport.HELLO, 0) + b"\x63" + HELLO[1:],  # another protocol version
    ],
)
def test_garbage_ends_its_connection_and_no_other(pair, garbage):
    first, second = pair
    with raw(second) as intruder:
        intruder.sendall(garbage)
        deadline = time.monotonic() + PATIENCE_S
        while second.counters["malformed"] == 0 and time.monotonic() < deadline:
            second.poll(0.02)
        assert second.counters["malformed"] == 1
        assert intruder.recv(100) == b""
    first.send(second.address, transport.BATON, b"still here")
    assert until(second, is_frame, first).body == b"still here"


FULL = """
import os, resource, socket
from operators.batann.transport import ACK, SERVER, Down, Hello, Tcp, unpack_address
tcp = Tcp(Hello(SERVER, 5, 0), lambda hello: "")
guest = socket.create_connection(unpack_address(tcp.address), 5)
_, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit))
rest = []
try:
    while True:
        rest.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
tcp.poll(1)
assert tcp.counters["refused"] == 1
assert guest.recv(1) == b""
tcp.send(tcp.address, ACK, b"")
assert [news.kind for news in tcp.poll(0.1) if isinstance(news, Down)] == ["unreachable"]
for one in rest:
    os.close(one)
tcp.poll(0)
tcp.send(tcp.address, ACK, b"")
frames = [news for _ in range(50) for news in tcp.poll(0.05) if not isinstance(news, Down)]
assert [frame.type for frame in frames] == [ACK]
"""


def test_a_party_without_descriptors_goes_on():
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def test_half_a_frame_waits_and_then_vanishes_with_its_connection(pair):
    _, second = pair
    with raw(second) as intruder:
        intruder.sendall(struct.pack("<IHH", len(HELLO), transport.HELLO, 0) + HELLO)
        intruder.sendall(struct.pack("<IHH", 100, transport.BATON, 0) + b"half")
    assert not [news for _ in range(5) for news in second.poll(0.01)]
    assert second.counters["frames_in"] == 0


def test_another_epoch_is_refused_with_the_reason(pair):
    _, second = pair
    other = Tcp(Hello(transport.SERVER, 6, 7), lambda hello: "")
    other.send(second.address, transport.BATON, b"x")
    down = until(other, is_down, second)
    assert (down.kind, down.reason) == ("refused", "stale")
    assert second.counters["refused"] == 1
    other.close()


def test_what_never_left_comes_back(pair):
    first, second = pair
    gone = second.address
    second.close()
    first.send(gone, transport.BATON, b"one")
    first.send(gone, transport.BATON, b"two")
    unsent = []
    deadline = time.monotonic() + PATIENCE_S
    while len(unsent) < 2 and time.monotonic() < deadline:
        for news in first.poll(0.02):
            assert news.kind == "unreachable"
            unsent += news.unsent
    assert [body for _, _, body in unsent] == [b"one", b"two"]
    pair[1] = Tcp(Hello(transport.SERVER, 5, 1), lambda hello: "")  # for the fixture to close


def test_a_taken_port_is_named(pair):
    _, port = unpack_address(pair[0].address)
    with pytest.raises(PortInUse, match=str(port)):
        Tcp(Hello(transport.SERVER, 5, 3), lambda hello: "", port=port)


def test_listeners_are_on_loopback(pair):
    assert unpack_address(pair[0].address)[0] == "127.0.0.1"


def test_a_held_frame_leaves_when_it_is_due():
    first = Tcp(Hello(transport.SERVER, 5, 0), lambda hello: "", delay_us=20_000)
    second = Tcp(Hello(transport.SERVER, 5, 1), lambda hello: "")
    began = time.monotonic()
    first.send(second.address, transport.BATON, b"late")
    assert first.next_due_ns > 0
    until(second, is_frame, first)
    assert time.monotonic() - began >= 0.02
    first.close(), second.close()


def test_states_share_a_body():
    items = [(b"state", b"vector"), (b"s" * 5000, b""), (b"", b"v")]
    assert unpack_states(pack_states(items)) == items
    body = pack_states(items)
    for damaged in (b"", b"\0", body[:-1], body + b"x", body[:3]):
        with pytest.raises(MessageError):
            unpack_states(damaged)
    with pytest.raises(ValueError, match="items"):
        pack_states([])
