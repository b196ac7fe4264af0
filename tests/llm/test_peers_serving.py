"""The engine against a serving loop in simpy under DistServe's rules; the peers' programs answer when there."""

import numpy as np
import pytest

from operators.lab import peers
from operators.llm import peer_simpy, twins_measured, workloads
from operators.llm.engine import serve
from operators.llm.stepmodels import TwoPhaseStep

PROFILE = twins_measured.distserve_profile()


def rules(step):
    return {
        "prefill": list(step.prefill),
        "decode_small": list(step.decode_small),
        "decode_large": list(step.decode_large),
        "threshold": step.threshold,
    }


def columns(frame):
    return {name: frame[name].to_list() for name in ("arrival_s", "input_tokens", "output_tokens")}


@pytest.mark.parametrize(("slower", "budget"), [(8.0, 10**7), (2.0, 4096)])
@pytest.mark.parametrize("method", ["step", "jump"])
def test_prefill_first_is_distserves_loop(method, slower, budget):
    frame = workloads.synthetic("azure_conv", requests=250)
    frame = frame.with_columns(arrival_s=frame["arrival_s"] * slower)
    step = TwoPhaseStep.from_distserve(PROFILE, "facebook/opt-13b", 1)
    other = peer_simpy.serve(**columns(frame), **rules(step), max_tokens=budget)
    made = serve(frame, step, scheduler="prefill_first", token_budget=budget, max_seqs=10**6, method=method)
    np.testing.assert_allclose(made.first_token_s, other["first_token_s"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(made.last_token_s, other["last_token_s"], rtol=0, atol=1e-7)


def test_constants_added_to_its_steps_are_added_to_ours():
    frame = workloads.synthetic("azure_conv", requests=120, seed=2)
    frame = frame.with_columns(arrival_s=frame["arrival_s"] * 8)
    step = TwoPhaseStep.from_distserve(PROFILE, "facebook/opt-13b", 2)
    other = peer_simpy.serve(**columns(frame), **rules(step), extra_s=0.001)
    more = [(a + 0.001, b, c) for a, b, c in (step.prefill, step.decode_small, step.decode_large)]
    made = serve(frame, TwoPhaseStep(*more), scheduler="prefill_first", token_budget=10**7, max_seqs=10**6)
    np.testing.assert_allclose(made.last_token_s, other["last_token_s"], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("program", "package", "more"),
    [
        ("peer_simpy.py", "simpy", rules(TwoPhaseStep((0.02, 1e-4, 0), (0.02, 0, 0), (0.02, 0, 0)))),
        ("peer_vidur.py", "vidur", {"step": [0.01, 1e-4, 1e-5, 1e-8]}),
    ],
)
def test_the_peers_programs_answer(program, package, more, repository):
    try:
        python = peers.interpreter(".venv-peers-llm", package=package)
    except peers.PeerError as missing:
        pytest.skip(str(missing))
    frame = workloads.synthetic("azure_conv", requests=30)
    with peers.Peer(python, repository / "operators" / "llm" / program) as peer:
        answers = [peer.ask(op="serve", **columns(frame), **more) for _ in range(2)]
    assert all(answer["requests_per_s"] > 0 for answer in answers)
