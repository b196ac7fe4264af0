"""What a predictor is worth: accuracy never without the constant answer and the resampling ceiling beside it.

`majority` is always the most frequent training class, `ceiling` the accuracy of a second sample of the same model (no
predictor can know more than the model's own next answer), `fit_rate` the share of answers inside the reservation.
Coverage is measured on unseen prompts, in a stream that stays and in one whose model changes.
"""

import math

import numpy as np
import polars as pl

from operators.odma.conformal import Conformal, split
from operators.odma.device import q_column
from operators.odma.predictor import LengthPredictor
from operators.odma.scenarios import RULES, rule_edges

ROLL = 500  # completions of the rolling coverage
GRACE = 500  # completions after a switch before coverage counts
LEVELS = (0.9, 0.95, 0.99)
ACCURACY = {
    **{"target": pl.String, "predictor": pl.String, "rule": pl.String, "size": pl.Int64, "n": pl.Int64},
    **{"accuracy": pl.Float64, "majority": pl.Float64, "ceiling": pl.Float64, "over_ceiling": pl.Float64},
    **{"fit_rate": pl.Float64, "mae": pl.Float64, "within50": pl.Float64, "within100": pl.Float64},
    **{"data": pl.String, "basis": pl.String, "seed": pl.Int64},
}
COVERAGE = {
    **{"stream": pl.String, "n_done": pl.Int64, "level": pl.Float64, "adaptive": pl.Boolean, "covered": pl.Float64},
    **{"gap": pl.Float64, "n": pl.Int64, "data": pl.String, "basis": pl.String, "seed": pl.Int64},
}


def accuracy(predictions: pl.DataFrame, past: dict[str, np.ndarray], *, level: float, seed: int) -> pl.DataFrame:
    """A row per target, predictor and rule. `past` are the training lengths of each target."""
    rows = []
    for target, lengths in past.items():
        tested = predictions.filter(pl.col("target") == target)
        length, second = tested["length"].to_numpy(), tested["second"].to_numpy()
        fit = float((length <= tested[q_column(level, "n")].to_numpy()).mean())
        shares = tested["shares"].to_list()
        for number, (rule, size) in enumerate(RULES):
            edges = rule_edges(rule, size, lengths)
            true = class_of(length, edges)
            common = np.bincount(class_of(lengths, edges)).argmax()
            ceiling = float((class_of(second, edges) == true).mean()) if (second > 0).all() else None
            guessed = np.array([int(np.argmax(row[number])) for row in shares])
            facts = {"target": target, "rule": rule, "size": size, "n": len(tested), "ceiling": ceiling,
                     "majority": float((true == common).mean()), "data": tested["data"][0], "basis": "real",
                     "seed": seed}  # fmt: skip
            ways = {
                "odma": (guessed, tested["mean"].to_numpy(), fit),
                "constant": (np.full(len(tested), common), np.full(len(tested), np.median(lengths)), None),
            }
            if ceiling is not None:
                ways["second sample"] = (class_of(second, edges), second.astype(float), None)
            rows += [facts | _scored(name, *way, length, true, ceiling) for name, way in ways.items()]
    return pl.DataFrame(rows, schema=ACCURACY)


def class_of(lengths: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Index of the class (edges[j-1], edges[j]] of each length; the last class is open."""
    return np.minimum(np.searchsorted(edges, lengths), len(edges) - 1)


def _scored(name: str, guessed, mean, fit, length, true, ceiling) -> dict:
    error = np.abs(mean - length)
    share = float((guessed == true).mean())
    return {"predictor": name, "accuracy": share, "over_ceiling": None if ceiling is None else share - ceiling,
            "fit_rate": fit, "mae": float(error.mean()), "within50": float((error <= 50).mean()),
            "within100": float((error <= 100).mean())}  # fmt: skip


def coverage(predictions: pl.DataFrame, predictors: dict[str, LengthPredictor], *, seeds: range, gamma: float,
             window: int, boundaries: dict[str, np.ndarray], level: float) -> pl.DataFrame:  # fmt: skip
    """Coverage of unseen prompts: a stream that stays, one whose model changes half-way, and by size class."""
    rows = []
    for target, predictor in predictors.items():
        if target == "reference":
            continue
        tested = predictions.filter(pl.col("target") == target)
        stream = "static" if target == "generated" else f"static-{target}"
        for seed in seeds:
            shuffled = tested[np.random.default_rng([seed, 31]).permutation(len(tested))]
            for wanted in LEVELS:
                for adaptive in (False, True):
                    covered = _stream(shuffled, predictor, wanted, gamma if adaptive else 0.0, window)
                    rows.append(_row(stream, covered, wanted, adaptive, tested, seed))
        rows += _by_class(tested, target, boundaries[target], level, seeds[0])
    if {"before", "after"} <= set(predictions["target"]):
        rows += _switched(predictions, predictors["reference"], seeds, gamma, window)
    return pl.DataFrame(rows, schema=COVERAGE)


def _stream(table: pl.DataFrame, predictor: LengthPredictor, level: float, gamma: float, window: int) -> np.ndarray:
    """Whether each request of a stream was covered at its completion; gamma 0: the calibrated quantile for ever."""
    mean, length, u = (table[name].to_numpy() for name in ("mean", "length", "u"))
    scale = u if predictor.scaled else np.ones(len(u))
    if gamma == 0:
        return length <= mean * np.exp(np.minimum(split(predictor.residuals, level) * scale, 50.0))
    start = np.random.default_rng([len(predictor.residuals), 1]).permutation(predictor.residuals)
    bound = Conformal(level, gamma, window, start=start)
    triples = zip(mean.tolist(), length.tolist(), scale.tolist(), strict=True)
    return np.array([bound.observe(m, n, s) for m, n, s in triples])


def _row(
    stream: str, covered: np.ndarray, level: float, adaptive: bool, table: pl.DataFrame, seed: int, at: int = 0
) -> dict:
    share = float(covered.mean()) if len(covered) else math.nan
    return {"stream": stream, "n_done": at or len(covered), "level": level, "adaptive": adaptive, "covered": share,
            "gap": abs(share - level), "n": len(covered), "data": table["data"][0], "basis": "real",
            "seed": seed}  # fmt: skip


def _by_class(table: pl.DataFrame, target: str, bounds: np.ndarray, level: float, seed: int) -> list[dict]:
    """Per size class: how often its reservation held the answer."""
    need, length = table[q_column(level, "n")].to_numpy(), table["length"].to_numpy()
    chosen = np.minimum(np.searchsorted(bounds, need), len(bounds) - 1)
    return [
        _row(f"class-{target}-{bound}", length[chosen == j] <= bound, level, False, table, seed)
        for j, bound in enumerate(bounds)
        if (chosen == j).any()
    ]


def _switched(predictions, predictor, seeds, gamma, window) -> list[dict]:
    """Reference lengths first, generated ones from the middle on; the predictor knows the former only."""
    before, after = (predictions.filter(pl.col("target") == name) for name in ("before", "after"))
    rows, half = [], len(before) // 2
    for seed in seeds:
        order = np.random.default_rng([seed, 32]).permutation(len(before))
        table = pl.concat([before[order[:half]], after[order[half:]]])
        for level in LEVELS:
            for adaptive in (False, True):
                covered = _stream(table, predictor, level, gamma if adaptive else 0.0, window)
                later = (
                    covered[half + GRACE : half + 3 * GRACE]
                    if len(covered) > half + 2 * GRACE
                    else covered[-GRACE // 4 :]
                )
                rows.append(_row("switch-after-500", later, level, adaptive, table, seed, half + GRACE))
                ends = range(100, len(covered) + 1, 100)
                rows += [
                    _row("switch", covered[max(0, end - ROLL) : end], level, adaptive, table, seed, end) for end in ends
                ]
    return rows
