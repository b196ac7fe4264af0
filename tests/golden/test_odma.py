"""Blessed numbers of ODMA. A change here is a decision: each block says when it may change.

- OFFSETS: where a fixed stream of reservations and releases ends up, in both implementations. Changes only with the
  allocator's placement rule (a decision: every log ever written would replay differently).
- RESERVATIONS: expected reservation of 2, 4, 8 and 16 optimal and quantile classes on the measured Alpaca lengths under
  perfect prediction. Changes only with the data set.
- SERVED: steps, copies, preemptions and makespan of a small hand-made trace. Changes with the engine's step rules.
"""

import hashlib

import numpy as np
import polars as pl
import pytest

from operators.lab import datasets
from operators.llm.shapes import MODELS
from operators.odma import DeviceSpec, arena_core, expected_reservation, optimal_buckets, policies
from operators.odma import engine_state as es
from operators.odma.arena import native
from operators.odma.bench_core import HANDLES, UNITS, stream
from operators.odma.buckets import histogram
from operators.odma.device import serve

pytestmark = pytest.mark.golden

OFFSETS = "66cdcb60a35e24c81a80b7de"
RESERVATIONS = {2: (260, 309), 4: (183, 207), 8: (151, 164), 16: (138, 143)}
SERVED = {
    "static": (2531, 0, 0, 158.23915583),
    "s3": (1663, 48, 128, 104.60420726),
    "oracle": (1787, 0, 0, 112.22581001),
    "paged": (1031, 0, 246, 67.26618856),
}


@pytest.mark.parametrize("implementation", ["numba", "native"])
def test_where_a_stream_of_reservations_ends_up(implementation):
    run = arena_core.replay if implementation == "numba" else getattr(native(), "replay", None)
    if run is None:
        pytest.skip("the native core is not built here")
    op, slot, size = stream(5000, 0)
    out = np.zeros(len(op), np.int32)
    run(arena_core.new(UNITS), op, slot, size, np.full(HANDLES, -1, np.int32), out)
    assert hashlib.sha256(out.astype("<i4").tobytes()).hexdigest()[:24] == OFFSETS


@pytest.mark.parametrize("k", RESERVATIONS)
def test_expected_reservations_on_the_measured_lengths(k, real_data):
    frame = datasets.read("alpaca-lengths", "alpaca_52k.parquet", real_data)
    lengths = frame.filter(pl.col("split_seqsched") == "train")["len_t07"].to_numpy()
    hist = histogram(lengths, 514)
    found = [expected_reservation(hist, optimal_buckets(hist, k, method=method)) for method in ("dnc", "quantile")]
    assert found == pytest.approx(RESERVATIONS[k], abs=1.5)


def hand_made() -> pl.DataFrame:
    n = np.arange(240)
    return pl.DataFrame(
        {
            "arrival_s": np.where(n < 120, 0.0, n * 0.05),
            "input_tokens": (20 + n * 7 % 50).astype(np.int32),
            "output_tokens": (5 + n * n % 290).astype(np.int32),
            "mean": (5 + n * n % 290) * (0.7 + n % 7 / 10),
        }
    )


@pytest.mark.parametrize("name", ["static", "s3", "oracle", "paged"])
def test_a_hand_made_trace(name):
    made = {
        "static": policies.static(304),
        "s3": policies.s3(304),
        "oracle": policies.oracle(),
        "paged": policies.paged(),
    }
    found = serve(hand_made(), MODELS["qwen2.5-7b"], DeviceSpec(tokens=6400), made[name])
    facts = (int(found.s[es.STEPS]), int(found.r[:, es.COPIES].sum()), int(found.r[:, es.PREEMPTIONS].sum()))
    assert facts == SERVED[name][:3]
    assert np.nanmax(found.x[:, es.FINISH]) == pytest.approx(SERVED[name][3], rel=1e-6)
