"""Answer lengths from prompts: a linear model on TF-IDF of 1-3-grams, with conformal quantiles and a spread.

The paper trains a light Transformer; ours (our choice) is ridge regression on log and on square-root length, blended
half and half, which sits close to what a second sample of the same model could tell (see `accuracy.parquet`). Both
residuals and the spread `u` (ridge on the absolute log residual) are taken out of fold, near-duplicate prompts on one
side, so calibration never sees a prompt that trained it; the final model is trained on everything. That is
cross-conformal prediction: slightly conservative instead of a fifth of the data held back.

Training uses scikit-learn; a prediction does not: it is one pass over the words of a prompt and a dot product.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from operators.odma import features
from operators.odma.conditional import Conditional
from operators.odma.conformal import Conformal, split
from operators.odma.errors import NotFitted
from operators.odma.settings import check_levels

RIDGE = 1.0
RIDGE_SPREAD = 30.0
TOLERANCE = 1e-3
SIDE_SCALE = 0.3  # of a standardised number beside unit-length word weights
LEAST_SPREAD, MOST_SPREAD = 0.1, 2.5
FOLDS = 5
LOG, ROOT, SPREAD, BELOW = 0, 1, 2, 3
MARKS = 12  # lengths whose probability is fitted directly, for the most probable class


class Prediction(NamedTuple):
    """Lengths of n requests: mean `(n,)` tokens, upper bounds q `(n, levels)`, spread u `(n,)` of the log residual."""

    mean: np.ndarray
    q: np.ndarray
    u: np.ndarray


def fold_of(instruction: str, folds: int = FOLDS) -> int:
    """The fold of a prompt; prompts that differ only in case, digits and punctuation share one."""
    plain = "".join(letter for letter in instruction.lower() if letter.isalpha())
    return int(hashlib.sha1(plain.encode()).hexdigest()[:8], 16) % folds


class LengthPredictor:
    """Predicts answer lengths from instruction, input and (optionally) one label known on arrival, such as the model.

    `levels` are the conformal levels of `q`; `scaled` divides residuals by the predicted spread.
    """

    def __init__(self, levels: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99), *, scaled: bool = True):
        check_levels("levels", tuple(levels))
        self.levels, self.scaled = tuple(levels), scaled
        self._vocabulary: features.Vocabulary | None = None

    def fit(
        self, instruction: Sequence[str], input: Sequence[str], lengths: np.ndarray, meta: Sequence[str] | None = None
    ) -> "LengthPredictor":
        """Train. ValueError names the first text that is none and the first length below 1."""
        lengths = self._checked(instruction, input, lengths, meta)
        counted = [features.terms(a, b) for a, b in zip(instruction, input, strict=True)]
        self._vocabulary = features.Vocabulary.learn(counted)
        self._labels = {} if meta is None else {label: i for i, label in enumerate(sorted(set(meta)))}
        beside = np.array([features.side(a, b) for a, b in zip(instruction, input, strict=True)])
        self._centre, self._width = beside.mean(0), np.maximum(beside.std(0), 1e-6)
        x = self._design(counted, beside, meta)
        targets = np.column_stack([np.log(lengths), np.sqrt(lengths)])
        fold = np.array([fold_of(text) for text in instruction])
        mean, u = self._out_of_fold(x, targets, fold)
        log_residual = np.log(lengths / mean)
        self.residuals = np.sort(log_residual / (u if self.scaled else 1.0))
        self.train_u, self.train_lengths = np.sort(u), lengths
        self.conditional = Conditional.learn(mean, lengths)
        self._prices = self.conditional.prices(mean, lengths, self.levels)
        self.train_needs = self.conditional.needs(mean, self._prices)
        self._marks = np.unique(np.quantile(lengths, np.arange(1, MARKS + 1) / (MARKS + 1)))
        weights = [_ridge(x, targets[:, LOG]), _ridge(x, targets[:, ROOT])]
        weights.append(_ridge(x, np.abs(log_residual), RIDGE_SPREAD))
        weights += [_ridge(x, (lengths <= mark).astype(float)) for mark in self._marks]
        self._weights = np.column_stack([w for w, _ in weights])
        self._bias = np.array([b for _, b in weights])
        self._q = np.array([split(self.residuals, level) for level in self.levels])
        self._adaptive: dict[float, Conformal] = {}
        return self

    def _checked(self, instruction, input_texts, lengths, meta) -> np.ndarray:
        lengths = np.asarray(lengths, float)
        if len(instruction) == 0:
            raise ValueError("instruction: empty training set")
        if not len(instruction) == len(input_texts) == len(lengths) or (meta is not None and len(meta) != len(lengths)):
            raise ValueError(
                f"instruction, input, lengths: {len(instruction)}, {len(input_texts)}, {len(lengths)} rows, not equal"
            )
        features.check("instruction", instruction)
        features.check("input", input_texts)
        bad = ~(lengths >= 1)
        if bad.any():
            i = int(bad.argmax())
            raise ValueError(f"lengths[{i}] is {lengths[i]:g}; must be >= 1")
        return lengths

    def _design(self, counted, beside: np.ndarray, meta: Sequence[str] | None):
        """Words, standardised numbers and labels as one sparse matrix."""
        from scipy.sparse import csr_matrix, hstack

        parts = [self._vocabulary.matrix(counted), csr_matrix((beside - self._centre) / self._width * SIDE_SCALE)]
        if self._labels:
            rows = np.arange(len(counted))
            parts.append(
                csr_matrix(
                    (np.ones(len(rows)), (rows, [self._labels[label] for label in meta])),
                    (len(rows), len(self._labels)),
                )
            )
        return hstack(parts).tocsr()

    def _out_of_fold(self, x, targets: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread of every training row by models that did not see its fold."""
        mean, u = np.empty(len(fold)), np.empty(len(fold))
        for held in np.unique(fold):
            out = fold == held
            seen = ~out if (~out).any() else out
            fitted = [_ridge(x[seen], targets[seen, column]) for column in (LOG, ROOT)]
            mean[out] = _blend(*(x[out] @ w + b for w, b in fitted))
        residual = np.abs(targets[:, LOG] - np.log(mean))
        for held in np.unique(fold):
            out = fold == held
            seen = ~out if (~out).any() else out
            w, b = _ridge(x[seen], residual[seen], RIDGE_SPREAD)
            u[out] = x[out] @ w + b
        return mean, np.clip(u, LEAST_SPREAD, MOST_SPREAD)

    def _scores(self, instruction: Sequence[str], input: Sequence[str], meta: Sequence[str] | None) -> np.ndarray:
        """Every linear score of n requests: log, root, spread, and P(L <= mark) of each mark."""
        if self._vocabulary is None:
            raise NotFitted("LengthPredictor: not trained; call fit or load first")
        features.check("prompts", instruction)
        features.check("inputs", input)
        weights, terms, beside = self._weights, len(self._vocabulary.idf), len(features.SIDE)
        score = np.zeros((len(instruction), weights.shape[1]))
        numbers = np.empty((len(instruction), beside))
        for i, (a, b) in enumerate(zip(instruction, input, strict=True)):
            columns, shares = self._vocabulary.row(features.terms(a, b))
            if columns:
                score[i] = shares @ weights[columns]
            numbers[i] = features.side(a, b)
        score += (numbers - self._centre) / self._width * SIDE_SCALE @ weights[terms : terms + beside]
        if self._labels and meta is not None:
            labelled = np.vstack([weights[terms + beside :], np.zeros(weights.shape[1])])
            score += labelled[[self._labels.get(label, len(self._labels)) for label in meta]]
        return score + self._bias

    def raw(
        self, instruction: Sequence[str], input: Sequence[str], meta: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread, without quantiles."""
        return self._means(self._scores(instruction, input, meta))

    @staticmethod
    def _means(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _blend(score[:, LOG], score[:, ROOT]), np.clip(score[:, SPREAD], LEAST_SPREAD, MOST_SPREAD)

    def needs(self, mean: np.ndarray) -> np.ndarray:
        """Cost-aware reservations `(n, levels)` of requests predicted at `mean` (see conditional.py)."""
        return self.conditional.needs(mean, self._prices)

    def predict(
        self, instruction: Sequence[str], input: Sequence[str], meta: Sequence[str] | None = None
    ) -> Prediction:
        """Predictions of n requests; NotFitted before training, ValueError for a prompt that is no text."""
        return self._predicted(*self._means(self._scores(instruction, input, meta)))

    def _predicted(self, mean: np.ndarray, u: np.ndarray) -> Prediction:
        q = np.array(
            [self._adaptive[level].q if self._adaptive else q for level, q in zip(self.levels, self._q, strict=True)]
        )
        exponent = np.outer(u, q) if self.scaled else np.broadcast_to(q, (len(mean), len(q)))
        return Prediction(mean, mean[:, None] * np.exp(np.minimum(exponent, 50.0)), u)

    def update(self, instruction: str, input: str, length: float, meta: str | None = None) -> None:
        """A request finished: from the first call on, `predict` uses adaptive quantiles."""
        if not self._adaptive:
            if self._vocabulary is None:
                raise NotFitted("LengthPredictor: not trained; call fit or load first")
            order = np.random.default_rng([len(self.residuals), 1]).permutation(self.residuals)
            self._adaptive = {level: Conformal(level, start=order) for level in self.levels}
        mean, u = self.raw([instruction], [input], None if meta is None else [meta])
        for bound in self._adaptive.values():
            bound.observe(float(mean[0]), float(length), float(u[0]) if self.scaled else 1.0)

    def tau(self, quantile: float) -> float:
        """The spread that `quantile` of the training prompts stay below (out of fold)."""
        return float(np.quantile(self.train_u, quantile))

    def class_shares(
        self, instruction: Sequence[str], input: Sequence[str], edges: np.ndarray, meta: Sequence[str] | None = None
    ) -> np.ndarray:
        """Probability of each class (edges[j-1], edges[j]] `(n, classes)`; the last class is open.

        The mean of two estimates: the lengths seen near this prediction, and the probabilities fitted directly.
        """
        return self._shares(self._scores(instruction, input, meta), edges)

    def all_at_once(
        self, instruction: Sequence[str], input: Sequence[str], meta: Sequence[str] | None, edges: list[np.ndarray]
    ) -> tuple[Prediction, np.ndarray, list[np.ndarray]]:
        """`predict`, `needs`, and `class_shares` for several sets of classes, in one pass over the texts."""
        score = self._scores(instruction, input, meta)
        found = self._predicted(*self._means(score))
        return found, self.needs(found.mean), [self._shares(score, some) for some in edges]

    def _shares(self, score: np.ndarray, edges: np.ndarray) -> np.ndarray:
        inner = np.asarray(edges, float)[:-1]
        near = self.conditional.below(_blend(score[:, LOG], score[:, ROOT]), inner)
        fitted = np.maximum.accumulate(np.clip(score[:, BELOW:], 0, 1), axis=1)
        marks = np.concatenate([[0.0], self._marks])
        direct = np.array([np.interp(inner, marks, row, right=1.0) for row in np.pad(fitted, ((0, 0), (1, 0)))])
        far = inner > self._marks[-1]  # nothing was fitted out there
        direct[:, far] = near[:, far]
        return np.diff((near + direct) / 2, prepend=0.0, append=1.0, axis=1)

    def save(self, path: Path) -> None:
        """Write `predictor.json` and `predictor.npz` into the folder `path`."""
        path.mkdir(parents=True, exist_ok=True)
        words = list(self._vocabulary.index)
        facts = {"levels": self.levels, "scaled": self.scaled, "terms": words, "labels": list(self._labels)}
        (path / "predictor.json").write_text(json.dumps(facts))
        np.savez(path / "predictor.npz", idf=self._vocabulary.idf, weights=self._weights, bias=self._bias,
                 centre=self._centre, width=self._width, residuals=self.residuals, train_u=self.train_u,
                 train_needs=self.train_needs, train_lengths=self.train_lengths, prices=self._prices, marks=self._marks,
                 knots=self.conditional.knots, table=self.conditional.table)  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> "LengthPredictor":
        """The predictor saved in a folder."""
        facts = json.loads((path / "predictor.json").read_text())
        made = cls(facts["levels"], scaled=facts["scaled"])
        with np.load(path / "predictor.npz", allow_pickle=False) as arrays:
            made._vocabulary = features.Vocabulary({term: i for i, term in enumerate(facts["terms"])}, arrays["idf"])
            made._weights, made._bias = arrays["weights"], arrays["bias"]
            made._centre, made._width = arrays["centre"], arrays["width"]
            made.residuals, made.train_u = arrays["residuals"], arrays["train_u"]
            made.train_lengths = arrays["train_lengths"]
            made.train_needs, made._prices, made._marks = arrays["train_needs"], arrays["prices"], arrays["marks"]
            made.conditional = Conditional(arrays["knots"], arrays["table"])
        made._labels = {label: i for i, label in enumerate(facts["labels"])}
        made._q = np.array([split(made.residuals, level) for level in made.levels])
        made._adaptive = {}
        return made


def _ridge(x, y: np.ndarray, alpha: float = RIDGE) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import Ridge

    fitted = Ridge(alpha=alpha, tol=TOLERANCE).fit(x, y)
    return np.asarray(fitted.coef_), float(fitted.intercept_)


def _blend(log: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Half exp(log prediction), half square of the root prediction; at least one token."""
    return np.maximum(0.5 * np.exp(np.minimum(log, math.log(1e6))) + 0.5 * np.maximum(root, 1.0) ** 2, 1.0)
