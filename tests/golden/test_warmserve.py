"""Blessed run of warmserve: ten minutes of the twin at 15 requests/s. A change here is a decision.

They change with the twins of ServeGen and Azure, with the generator of traces, with a rule of the control plane (plan,
placement, autoscaler, promotion, reservation) or with the order of equal events - and with nothing else.
"""

import numpy as np
import pytest

from operators.warmserve import plane, workload
from operators.warmserve.settings import Settings
from operators.warmserve.simulator import simulate

pytestmark = pytest.mark.golden

# policy: requests, starts that found their weights, replicas decided, P99 TTFT (s)
BLESSED = {
    "warmserve": (8989, 8, 39, 0.24870450497319257),
    "no_proactive": (8989, 12, 39, 0.2539722682348332),
    "sllm_gpu": (8989, 78, 38, 6.1989427546439355),
}


@pytest.mark.parametrize("name", BLESSED)
def test_ten_minutes_of_the_twin(name):
    settings = Settings(hours=1 / 6, history_days=3)
    names = [served.name for served in settings.models]
    frame, history = workload.make(workload.sources(None, 0), settings, rps=15.0, alpha=0.5, seed=0)
    result = simulate(workload.as_trace(frame, names), settings, workload.as_history(history, names), name=name)
    p = result.plane
    hits = int((p.r_kind == plane.KIND_HIT).sum())
    p99 = float(np.quantile((p.r_first - p.r_arrival)[p.r_arrival >= 60], 0.99))
    requests, blessed_hits, replicas, blessed_p99 = BLESSED[name]
    assert (len(frame), hits, len(result.cluster.ledger.entries)) == (requests, blessed_hits, replicas)
    assert p99 == pytest.approx(blessed_p99, rel=1e-6)
