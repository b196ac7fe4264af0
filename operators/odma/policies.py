"""Who reserves how much: the policies that are compared, as plain descriptions; the engine knows what each means.

`static` is the paper's baseline (worst case), `s3` its second (arXiv 2306.06000: one of ten equal classes, decreasing
first fit, doubling on overflow). `paged` is what a user of vLLM has: free-list pages and a watermark, no worst case.
`oracle` reserves exactly prompt and answer; `constant_quantile` gives every request the same quantile of past lengths;
`hybrid` is ours: a predicted contiguous head, large pages for the tail.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from operators.odma.buckets import histogram, optimal_buckets
from operators.odma.errors import ConfigError

KINDS = ("fixed", "classes", "s3", "paged", "hybrid")
VALUES = ("truth", "none", "mean", "q", "need")
OVERFLOWS = ("cost", "park", "recompute")
ORDERS = ("fcfs", "tag")
CUT_ON = ("lengths", "needs")
JUMPS = ("next", "large")
S3_CLASSES = 10
MOST_SAFETY = 0.3


@dataclass(frozen=True)
class Policy:
    """One policy. `boundaries` are its classes (answer tokens), `value` what a class is chosen on.

    A request with spread above `tau` gets the last class. `safety` is the share of memory kept for that class and for
    overflows; `watermark` the share of pages kept free at admission. `dynamic` re-cuts classes online with the rest.
    """

    name: str
    kind: str = "classes"
    value: str = "none"
    boundaries: tuple[int, ...] = (512,)
    level: float = 0.9
    tau: float = 0.0
    safety: float = 0.0
    dynamic: bool = False
    adaptive: bool = False
    overflow: str = "cost"
    order: str = "fcfs"
    cut_on: str = "lengths"
    jump: str = "next"
    page: int = 16
    watermark: float = 0.0
    gamma: float = 0.02
    period: int = 512
    decay: float = 0.995
    min_samples: int = 256
    hysteresis: float = 0.05
    drift: float = 0.1
    compaction: float = 0.0
    history: np.ndarray | None = field(default=None, compare=False, repr=False)
    residuals: np.ndarray | None = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        for name, value, known in (
            ("kind", self.kind, KINDS),
            ("value", self.value, VALUES),
            ("overflow", self.overflow, OVERFLOWS),
            ("order", self.order, ORDERS),
            ("cut_on", self.cut_on, CUT_ON),
            ("jump", self.jump, JUMPS),
        ):
            if value not in known:
                raise ConfigError(f"{name} (={value!r}): expected one of {', '.join(known)}")
        if not self.boundaries or self.boundaries[0] < 1 or np.any(np.diff(self.boundaries) <= 0):
            raise ConfigError(f"boundaries (={self.boundaries}): expected strictly rising tokens")
        if not 0 <= self.safety < 1 or not 0 <= self.watermark < 1:
            raise ConfigError(f"safety, watermark (={self.safety}, {self.watermark}): expected shares in [0, 1)")
        if self.page < 1:
            raise ConfigError(f"page (={self.page}): must be >= 1 token")

    @property
    def contiguous(self) -> bool:
        """Whether alpha does not matter to it."""
        return self.kind not in ("paged", "hybrid")

    def __hash__(self) -> int:
        return hash((self.name, self.kind, self.boundaries, self.level, self.page))

    def but(self, **changed) -> "Policy":
        """A copy with other values."""
        return replace(self, **changed)


def static(max_tokens: int, name: str = "static") -> Policy:
    """Every request reserves `max_tokens` for its answer."""
    return Policy(name, boundaries=(max_tokens,))


def oracle(name: str = "oracle") -> Policy:
    """Every request reserves exactly its answer: what no predictor can beat without copies."""
    return Policy(name, kind="fixed", value="truth")


def constant_quantile(level: float, lengths: np.ndarray, max_tokens: int, *, align: int = 16) -> Policy:
    """Every request reserves the same quantile of past `lengths`; overflows go to `max_tokens`."""
    first = -(-int(np.ceil(np.quantile(lengths, level))) // align) * align
    bounds = (first, max_tokens) if first < max_tokens else (max_tokens,)
    return Policy("constant_quantile", boundaries=bounds, level=level)


def s3(max_tokens: int, k: int = S3_CLASSES, name: str = "s3") -> Policy:
    """S3: the equal class of `max_tokens` / k that holds the predicted length; with k = 1 it is `static`."""
    bounds = tuple(-(-max_tokens * j // k) for j in range(1, k + 1))
    return Policy(name, kind="s3", value="mean", boundaries=bounds)


def paged(page: int = 16, *, watermark: float = 0.01, name: str = "paged") -> Policy:
    """Pages of `page` tokens, read at alpha of the streaming bandwidth; `watermark` of them stay free at admission."""
    return Policy(name, kind="paged", page=page, watermark=watermark)


def odma(lengths: np.ndarray, max_tokens: int, *, k: int = 8, align: int = 16, level: float = 0.9, tau: float = 0.0,
         residuals: np.ndarray | None = None, needs: np.ndarray | None = None, name: str = "odma",
         **changed) -> Policy:  # fmt: skip
    """The paper's system, classes cut for past `lengths` (or for past bounds `needs`) and re-cut online.

    `residuals` log(length / bound) of the past start the adaptive level; `changed` are fields of Policy.
    """
    past = lengths if needs is None else np.maximum(needs, 1.0)
    hist = histogram(np.minimum(past, max_tokens), max_tokens, 1)
    bounds = optimal_buckets(hist, min(k, max_tokens // align), align, max_tokens)
    values = {"dynamic": True, "adaptive": residuals is not None, "value": "q"} | changed
    cut_on = "lengths" if needs is None else "needs"
    return Policy(name, boundaries=tuple(int(b) for b in bounds), level=level, tau=tau, cut_on=cut_on,
                  history=histogram(np.minimum(past, max_tokens), max_tokens, align), residuals=residuals,
                  **values)  # fmt: skip


def hybrid(head: Policy, page: int = 256) -> Policy:
    """`head`'s reservation in one block; what overflows goes to pages of `page` tokens and is never copied."""
    return head.but(name="hybrid", kind="hybrid", page=page)


def safety_pool(p_overflow: np.ndarray, live: np.ndarray, next_tokens: np.ndarray, z: float = 2.33, *,
                capacity: int | None = None) -> float:  # fmt: skip
    """Tokens to keep free so that overflows of the live requests find room with probability given by `z`.

    Per class: p_overflow f64[K], live requests i64[K], tokens an overflow needs i64[K]. The sum of n p b and z standard
    deviations sqrt(sum n p (1 - p) b^2), capped at 30 % of `capacity`.
    """
    p, n, b = (np.asarray(values, float) for values in (p_overflow, live, next_tokens))
    if not (len(p) == len(n) == len(b)) or ((p < 0) | (p > 1)).any() or (n < 0).any() or (b < 0).any():
        raise ValueError("p_overflow, live, next_tokens: expected as many values, shares in [0, 1], counts >= 0")
    wanted = float((n * p * b).sum() + z * np.sqrt((n * p * (1 - p) * b**2).sum()))
    return wanted if capacity is None else min(wanted, MOST_SAFETY * capacity)
