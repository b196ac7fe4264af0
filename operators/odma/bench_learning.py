"""Rows of bench.parquet about predictor and simulator. Processor time, interleaved A B A B."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.lab.peers import paired, row
from operators.odma import device, scenarios, sets
from operators.odma.predictor import LengthPredictor
from operators.odma.settings import Settings

SINGLE_BAR_MS, BATCH_BAR = 1.0, 5000.0
SIMULATOR_BAR = 5e5
REPOSITORIES = {
    "simdistserve (LLMServe/DistServe @ 82831f16)": "437 requests per CPU-second were seen of it, Azure requests",
    "Vidur @ 7d475133": "114 requests per CPU-second were seen of it",
    "LLMServingSim @ 5daddb21": "1.9 requests per second by its published summaries",
}


def rows(settings: Settings, traces: Path, predictor: Path, data: Path | None) -> list[dict[str, Any]]:
    """All rows; some seconds, with the peer's training."""
    return [*_predictor(settings, predictor, data), *_simulator(settings, traces, predictor)]


def _predictor(settings: Settings, folder: Path, data: Path | None) -> list[dict[str, Any]]:
    """One prompt at a time and in batches, against scikit-learn's vectoriser and ridge trained on the same prompts."""
    rows_, mark = sets.alpaca_rows(data, prompts=settings.prompts, seed=settings.seed)
    table = sets.generated(rows_, prompts=settings.prompts, seed=settings.seed)
    texts, inputs = table["instruction"].to_list(), table["input"].to_list()
    target = "generated" if "alpaca" in settings.sets else "hard"
    ours = LengthPredictor.load(folder / target)
    peer = _sklearn([f"{a} {b}" for a, b in zip(texts, inputs, strict=True)], table["length"].to_numpy())
    count = 20 if settings.profile == "ci" else 100

    def one_by_one(predict: Callable) -> Callable[[], None]:
        return lambda: [predict([texts[i]], [inputs[i]]) for i in range(count)] and None

    many = min(len(texts), 500 if settings.profile == "ci" else 4000)
    common = {"bench": "predictor", "ours": "LengthPredictor (mean, six bounds, spread)", "data": mark,
              "peer": "scikit-learn TF-IDF + ridge (one number)"}  # fmt: skip
    n = settings.bench_repeats
    ms = [[s * 1e3 / count for s in side] for side in paired(one_by_one(ours.predict), one_by_one(peer), n=n)]
    rate = [[many / s for s in side]
            for side in paired(lambda: ours.predict(texts[:many], inputs[:many]),
                               lambda: peer(texts[:many], inputs[:many]), n=max(1, n // 2))]  # fmt: skip
    return [
        row(case="single prompt", unit="ms", ours_samples=ms[0], peer_samples=ms[1], **common),
        row(
            case="batch", unit="prompts/s", ours_samples=rate[0], peer_samples=rate[1], higher_is_better=True, **common
        ),
    ]


def _sklearn(texts: list[str], lengths) -> Callable:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    words = TfidfVectorizer(ngram_range=(1, 3), sublinear_tf=True, min_df=2, max_features=100_000,
                            token_pattern=r"\w+|[^\w\s]")  # fmt: skip
    some = texts[:2000]
    model = Ridge(alpha=1.0).fit(words.fit_transform(some), np.log(lengths[: len(some)]))
    return lambda a, b: np.exp(model.predict(words.transform([f"{x} {y}" for x, y in zip(a, b, strict=True)])))


def _simulator(settings: Settings, traces: Path, folder: Path) -> list[dict[str, Any]]:
    """Requests per CPU-second of each policy at everything queued at the start."""
    name = next(name for name in scenarios.names(settings) if name.drift == "none" and name.load == scenarios.QUEUED)
    trace = stage.read_table(traces / f"{name}.parquet")
    predictor, mark = LengthPredictor.load(folder / name.target), trace["data"][0]
    common = {"bench": "simulator", "unit": "requests/s", "higher_is_better": True, "data": mark}
    found = []
    for which in ("odma", "static", "paged"):
        policy = scenarios.policy(which, settings, predictor, settings.longest(name.set))
        rates = []
        for _ in range(settings.bench_repeats + 1):
            began = time.process_time()
            device.serve(trace, scenarios.shape(settings), scenarios.device(settings), policy, align=settings.align)
            rates.append(len(trace) / (time.process_time() - began))
        case = "requests per CPU-second" if which == "odma" else f"requests per CPU-second, {which}"
        found.append(row(case=case, ours=f"simulated device, {which}", peer="bar", ours_samples=rates[1:],
                         peer_samples=[SIMULATOR_BAR], bar=1.0, **common))  # fmt: skip
    for peer, seen in REPOSITORIES.items():
        found.append(row(case="against event simulators", ours="simulated device", peer=peer, **common,
                         reason=f"exists as a repository only; {seen}, in other conditions"))  # fmt: skip
    return found
