"""Fit a linear step model to a measured serving run, and say how well the engine then tells that run's latencies.

The engine is run with the measured arrivals, token counts and limits; the coefficients minimise the mean absolute
errors of first-token and last-token times, each relative to the mean latency it belongs to, so that a run with short
waits is not fitted on its last tokens alone (Nelder-Mead, three starts from the run's own figures, two fresh simplices
round the best; none below 0).
Data parallel ranks of an expert parallel model step together, as the engine's do; others are independent. Errors
reported are those of the means a user reads: time to first token, time per output token, latency. A fit is checked on
what it has not seen: `half_split` (one half of the requests counts, the other is scored) and `leave_one_out` (several
runs: the coefficients of the others, which says how far numbers carry to another machine).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np

from operators.llm.engine import ServedMany, serve_many
from operators.llm.importers import Measured
from operators.llm.stepmodels import LinearStep

FORMS = {"linear4": 4, "linear5": 5}
COEFFICIENTS = ("c0_s", "prefill_token_s", "decode_s", "context_token_s", "prefill_sq_s")
EVALUATIONS = 300  # of the objective, a start
SUMMARY = ("ttft_mean_err", "tpot_mean_err", "latency_mean_err", "ttft_corr")
KvTokens = int | Literal["reported", "meta"] | None


@dataclass(frozen=True)
class FitReport:
    """Errors of the means, relative (0.05: five per cent too long), over the requests that were scored.

    `residuals` holds per request: request_id, first_s and last_s measured, first_err_s and last_err_s (ours minus
    measured). `source` is the sha256 of the measured run.
    """

    ttft_mean_err: float
    tpot_mean_err: float
    latency_mean_err: float
    ttft_corr: float
    preemptions: int
    requests: int
    coefficients: dict[str, float]
    residuals: list[tuple[str, float, float, float, float]]
    source: str

    def worst(self) -> float:
        """The largest of the three relative errors, as a magnitude."""
        return max(abs(self.ttft_mean_err), abs(self.tpot_mean_err), abs(self.latency_mean_err))

    def save(self, path: Path) -> None:
        """Write as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path, measured: Measured | None = None) -> Self:
        """Read a saved report; with `measured`, ValueError when it was not made from that run."""
        found = json.loads(Path(path).read_text())
        if measured is not None and found["source"] != source_hash(measured):
            raise ValueError(f"{path}: made from another run (source {found['source'][:12]}); fit again")
        return cls(**found | {"residuals": [tuple(row) for row in found["residuals"]]})

    def step(self) -> LinearStep:
        """The fitted step model."""
        return LinearStep(**self.coefficients)


def source_hash(measured: Measured) -> str:
    """Hex sha256 of a measured run's requests, times and limits."""
    digest = hashlib.sha256(json.dumps(measured.meta, sort_keys=True).encode())
    for name in ("arrival_s", "input_tokens", "output_tokens"):
        digest.update(np.ascontiguousarray(measured.requests[name].to_numpy()).tobytes())
    for times in (measured.first_token_s, measured.last_token_s):
        digest.update(np.ascontiguousarray(times).tobytes())
    return digest.hexdigest()


def fit(
    measured: Measured, form: str = "linear4", seed: int = 0, *, kv_tokens: KvTokens = "reported"
) -> tuple[LinearStep, FitReport]:
    """The step model that tells `measured` best, and its report over all requests.

    `kv_tokens`: the cache's size as the run reports it (no limit where it does not), `meta` where it must be reported,
    None for no limit, or a number.
    """
    run = _limited(measured, kv_tokens)
    step = _search([run], [np.ones(run.requests.height, bool)], form, seed)
    return step, evaluate(run, step)


def fit_together(runs: Sequence[Measured], form: str = "linear4", seed: int = 0) -> LinearStep:
    """One step model for several runs, each weighed alike."""
    if not runs:
        raise ValueError("runs: none given; expected at least one")
    return _search(list(runs), [np.ones(run.requests.height, bool) for run in runs], form, seed)


def half_split(measured: Measured, form: str = "linear4", seed: int = 0, *, by: str = "time") -> list[FitReport]:
    """Fit on one half, score on the other, both ways round; every request is served each time, half of them count.

    `by`: `time` (first against second half of the arrivals) or `turn` (every other request).
    """
    order = np.arange(measured.requests.height)
    if by not in ("time", "turn"):
        raise ValueError(f"by (={by!r}): expected 'time' or 'turn'")
    first = order < len(order) // 2 if by == "time" else order % 2 == 0
    return [evaluate(measured, _search([measured], [counts], form, seed), scored=~counts) for counts in (first, ~first)]


def leave_one_out(runs: Mapping[str, Measured], form: str = "linear4", seed: int = 0) -> dict[str, FitReport]:
    """Per run: its report under the coefficients fitted on the others together. ValueError on fewer than two runs."""
    if len(runs) < 2:
        raise ValueError(f"runs ({', '.join(runs) or 'none'}): need two or more to leave one out")
    others = {name: [run for other, run in runs.items() if other != name] for name in runs}
    return {name: evaluate(run, fit_together(others[name], form, seed)) for name, run in runs.items()}


def replay(measured: Measured, step: LinearStep) -> ServedMany:
    """The run's requests through the engine with the run's limits; data parallel ranks take the least loaded."""
    return serve_many(
        measured.requests,
        step,
        replicas=measured.data_parallel,
        assign="least_loaded",
        lockstep=measured.lockstep,
        scheduler="chunked",
        max_seqs=measured.max_num_seqs,
        token_budget=measured.token_budget,
        kv_tokens=measured.kv_tokens,
        block=measured.block,
    )


def evaluate(measured: Measured, step: LinearStep, *, scored: np.ndarray | None = None) -> FitReport:
    """How well `step` tells the run, over the requests `scored` (bool[n]; default all)."""
    made = replay(measured, step)
    scored = np.ones(measured.requests.height, bool) if scored is None else scored
    arrival = measured.requests["arrival_s"].to_numpy()
    outputs = measured.requests["output_tokens"].to_numpy()
    several = scored & (outputs > 1)

    def means(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        per_token = (last - first)[several] / (outputs - 1)[several]
        return np.array([(first - arrival)[scored].mean(), per_token.mean(), (last - arrival)[scored].mean()])

    ours = means(made.first_token_s, made.last_token_s)
    wanted = means(measured.first_token_s, measured.last_token_s)
    errors = dict(zip(SUMMARY, (ours / wanted - 1).tolist(), strict=False))
    ttft = np.stack([made.first_token_s - arrival, measured.first_token_s - arrival])[:, scored]
    columns = (
        measured.requests["request_id"].to_numpy(),
        measured.first_token_s,
        measured.last_token_s,
        made.first_token_s - measured.first_token_s,
        made.last_token_s - measured.last_token_s,
    )
    return FitReport(
        **errors,
        ttft_corr=float(np.corrcoef(ttft)[0, 1]),
        preemptions=int(made.preemptions.sum()),
        requests=int(scored.sum()),
        coefficients={name: float(getattr(step, name)) for name in COEFFICIENTS},
        residuals=list(zip(*(column[scored].tolist() for column in columns), strict=True)),
        source=source_hash(measured),
    )


def _limited(measured: Measured, kv_tokens: KvTokens) -> Measured:
    if kv_tokens == "meta" and measured.kv_tokens is None:
        raise ValueError("kv_tokens (='meta'): the run does not report its cache; give kv_tokens or None")
    return measured if kv_tokens in ("meta", "reported") else replace(measured, kv_tokens=kv_tokens)


def _search(runs: list[Measured], counts: list[np.ndarray], form: str, seed: int) -> LinearStep:
    """The coefficients of least error over the requests that count, the best of three starts."""
    from scipy.optimize import minimize

    if form not in FORMS:
        raise ValueError(f"form (={form!r}): expected one of {', '.join(FORMS)}")
    scale = _guess(runs)[: FORMS[form]]

    def error(x: np.ndarray) -> float:
        step = LinearStep(*np.maximum(x, 0.0) * scale)
        if step.c0_s <= 0:
            return 1e9
        return sum(_distance(run, step, who) for run, who in zip(runs, counts, strict=True))

    rng = np.random.default_rng([seed, 0xCA11])
    starts = [np.ones(len(scale)), *(np.exp(0.5 * rng.standard_normal(len(scale))) for _ in range(2))]
    options = {"maxfev": EVALUATIONS, "xatol": 1e-3, "fatol": 1e-5, "adaptive": True}
    found = [minimize(error, start, method="Nelder-Mead", options=options) for start in starts]
    best = min(found, key=lambda result: result.fun)
    for size in (
        0.3,
        0.1,
    ):  # the error is ragged where waits depend on routing: look round the best with a fresh simplex
        corners = np.vstack([best.x, best.x + size * np.diag(np.maximum(np.abs(best.x), 0.1))])
        again = minimize(error, best.x, method="Nelder-Mead", options=options | {"initial_simplex": corners})
        best = min(best, again, key=lambda result: result.fun)
    return LinearStep(*(np.maximum(best.x, 0.0) * scale).tolist())


def _distance(run: Measured, step: LinearStep, counts: np.ndarray) -> float:
    """Mean absolute errors of first and last token times over the mean time to the first and to the last token."""
    made, arrival = replay(run, step), run.requests["arrival_s"].to_numpy()
    pairs = ((made.first_token_s, run.first_token_s), (made.last_token_s, run.last_token_s))
    return sum(
        float(np.abs(ours - wanted)[counts].mean() / (wanted - arrival)[counts].mean()) for ours, wanted in pairs
    )


def _guess(runs: list[Measured]) -> np.ndarray:
    """Orders of magnitude from the runs' own figures: the fastest token, prompts served alone, the busiest tokens."""
    gaps, prompts, slow = [], [], []
    for run in runs:
        outputs = run.requests["output_tokens"].to_numpy()
        several = outputs > 1
        per_token = (run.last_token_s - run.first_token_s)[several] / (outputs - 1)[several]
        gaps.append(np.quantile(per_token, 0.02))
        slow.append(np.quantile(per_token, 0.9))
        inputs = run.requests["input_tokens"].to_numpy()
        prompts.append(np.quantile((run.first_token_s - run.scheduled_s) / inputs, 0.25))
    base, per_prompt, busy = np.median(gaps), np.median(prompts), np.median(slow)
    mean_context = np.median([run.requests["input_tokens"].mean() + 1 for run in runs])
    batch = np.median([run.max_num_seqs for run in runs])
    rest = max(busy - 0.7 * base, 0.1 * base) / batch
    return np.array([0.7 * base, 0.5 * per_prompt, 0.3 * rest, 0.4 * rest / mean_context, per_prompt / 1e5])
