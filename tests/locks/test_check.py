"""The checker: known verdicts on recorded histories, by construction on their twin, witnesses, shortest prefixes."""

import statistics

import pytest

from operators.locks import history, twin
from operators.locks.check import Op, linearizable, prefix, replay
from operators.locks.errors import LocksError, StateLimit


def judge(name, text):
    if name.startswith("kv/"):
        return all(linearizable(ops, "kv").ok for ops in history.parse_kv(text, name).values())
    return linearizable(history.parse_register(text, name), "register").ok


def test_small_histories():
    write, read = Op(0, "write", (1,), None, 0, 3), Op(1, "read", (), 1, 1, 2)
    assert linearizable([write, read], "register").ok
    late = Op(1, "read", (), "nil", 4, 5)
    found = linearizable([write, late], "register")
    assert not found.ok
    assert found.bad_prefix == 4
    never = Op(0, "write", (2,), None, 0, None)
    assert linearizable([never, Op(1, "read", (), "nil", 1, 2), Op(1, "read", (), 2, 3, 4)], "register").ok
    assert not linearizable([never, Op(1, "read", (), 2, 1, 2), Op(1, "read", (), "nil", 3, 4)], "register").ok
    assert linearizable([Op(0, "add", (2,), 5, 0, 4), Op(1, "add", (3,), 3, 1, 2)], "counter").ok
    assert not linearizable([Op(0, "add", (2,), 2, 3, 4), Op(1, "add", (3,), 5, 1, 2)], "counter").ok


def test_an_unknown_cas_may_or_may_not_have_swapped():
    base = [Op(0, "write", (1,), None, 0, 1), Op(1, "cas", (1, 2), None, 2, None)]
    for value in (1, 2):
        assert linearizable([*base, Op(0, "read", (), value, 3, 4)], "register").ok
    assert not linearizable([*base, Op(0, "read", (), 3, 3, 4)], "register").ok


def test_bounds_and_names():
    many = [Op(p, "write", (p,), None, 0, 100) for p in range(12)] + [Op(99, "read", (), "nil", 101, 102)]
    with pytest.raises(StateLimit, match="no verdict"):
        linearizable(many, "register", limit=50)
    with pytest.raises(LocksError, match=r"model \(='queue'\): expected one of"):
        linearizable([], "queue")
    with pytest.raises(LocksError, match=r"x:1: .*expected `INFO"):
        history.parse_register("rubbish\n", "x")
    with pytest.raises(LocksError, match=r"y:1: .*expected an EDN map"):
        history.parse_kv("{:process 1}\n", "y")


def test_the_twin_has_the_verdicts_it_was_made_for():
    verdicts = [(name, judge(name, text), good) for name, text, good in twin.histories(0)]
    assert len(verdicts) == 64
    assert [name for name, found, good in verdicts if found != good] == []
    assert 5 <= sum(good for *_, good in verdicts) <= 25


def test_witnesses_replay_and_the_shortest_bad_prefix_is_bad_and_one_event_less_is_good():
    for name, text, good in list(twin.histories(3))[:12]:
        ops = history.parse_register(text, name)
        found = linearizable(ops, "register")
        if good:
            assert replay(ops, "register", found.witness)
            assert not replay(ops, "register", found.witness[::-1])
        else:
            assert not linearizable(prefix(ops, found.bad_prefix), "register").ok
            assert linearizable(prefix(ops, found.bad_prefix - 1), "register").ok


def test_a_seed_decides_the_twin():
    one, again, other = (list(twin.histories(seed)) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_real_verdicts(real_data):
    wrong = [name for name, text, good in history.read_real(real_data) if judge(name, text) != good]
    assert wrong == []


def statistics_of(histories):
    """Calls, ids, calls that never returned, and shares of reads, writes, cas and of how writes and cas end."""
    logs = [text.splitlines() for name, text, _ in histories if name.startswith("etcd")]
    calls = [[line.split() for line in log if ":invoke" in line] for log in logs]
    ends = [[line.split() for line in log if ":invoke" not in line] for log in logs]
    kinds = [words[5] for log in calls for words in log]

    def share(function, kind):
        mine = [words for log in ends for words in log if words[5] == f":{function}"]
        return sum(words[4] == f":{kind}" for words in mine) / len(mine)

    return {
        "calls": statistics.median(map(len, calls)),
        "ids": statistics.median(len({words[3] for words in log}) for log in calls),
        "open": statistics.median(sum(words[4] == ":info" for words in log) for log in ends),
        **{kind: kinds.count(f":{kind}") / len(kinds) for kind in ("read", "write", "cas")},
        "write info": share("write", "info"),
        "cas ok": share("cas", "ok"),
    }


def test_the_twin_matches_the_real_set(real_data):
    real, made = statistics_of(history.read_real(real_data)), statistics_of(twin.histories(0))
    assert abs(real["calls"] - made["calls"]) <= 4
    assert abs(real["ids"] - made["ids"]) <= 4
    assert abs(real["open"] - made["open"]) <= 4
    for name in ("read", "write", "cas", "write info", "cas ok"):
        assert abs(real[name] - made[name]) <= 0.03, (name, real[name], made[name])
