"""Synthetic twins of the public request traces: Azure's two services and Kimi's conversations.

Token counts and gaps are drawn through the real set's quantiles (stratified, so that a twin of any seed has nearly the
same means), inputs and outputs tied by a Gaussian copula of the measured rank correlation. What the twins do not hold:
bursts longer than a gap in Azure's code service, the drift of lengths over the hour, the tree shape of Kimi's prefixes.
"""

import numpy as np
import polars as pl

from operators.llm.importers import mooncake_requests, numbered
from operators.llm.twins_routing import stream
from operators.llm.workloads import validate

BLOCK = 512  # tokens of one hashed prompt block of mooncake

# (probability, value) of the real sets' quantiles
CONV_INPUT = (
    *((0.0, 2), (0.01, 31), (0.05, 181), (0.1, 220), (0.2, 388), (0.25, 396), (0.3, 402), (0.4, 437), (0.5, 1015)),
    *((0.6, 1068), (0.7, 1134), (0.75, 1204), (0.8, 1328), (0.9, 4074), (0.95, 4085), (0.99, 4121), (0.999, 5294)),
    (1.0, 14_050),
)
CONV_OUTPUT = (
    *((0.0, 7), (0.01, 16), (0.05, 39), (0.1, 50), (0.2, 72), (0.25, 81), (0.3, 87), (0.4, 97), (0.5, 115)),
    *((0.6, 160), (0.7, 375), (0.75, 393), (0.8, 397), (0.9, 421), (0.95, 448), (0.99, 598), (0.999, 939), (1.0, 1000)),
)
CODE_INPUT = (
    *((0.0, 3), (0.01, 17), (0.05, 75), (0.1, 147), (0.2, 386), (0.25, 578), (0.3, 770), (0.4, 1075), (0.5, 1469)),
    *((0.6, 1909), (0.7, 2433), (0.75, 2744), (0.8, 3192), (0.9, 5188), (0.95, 7303), (0.99, 7436), (1.0, 7437)),
)
CODE_OUTPUT = (
    *((0.0, 6), (0.05, 6), (0.1, 7), (0.2, 8), (0.25, 9), (0.3, 9), (0.4, 11), (0.5, 13), (0.6, 16), (0.7, 20)),
    *((0.75, 24), (0.8, 29), (0.9, 55), (0.95, 90), (0.99, 251), (0.999, 825), (1.0, 1899)),
)
CODE_GAP_S = (
    *((0.0, 2e-5), (0.01, 1e-4), (0.05, 2e-4), (0.25, 2.1e-3), (0.47, 0.049), (0.5, 0.0638), (0.75, 0.104)),
    *((0.9, 0.2729), (0.95, 0.4008), (0.98, 0.7987), (0.99, 2.2051), (0.9925, 3.489), (0.995, 9.978), (0.996, 17.25)),
    *((0.997, 28.09), (0.998, 41.41), (0.9985, 50.41), (0.999, 79.23), (0.9995, 132.5), (0.9998, 169.6), (1.0, 217.2)),
)
MOONCAKE_INPUT = (
    *((0.0, 891), (0.01, 894), (0.05, 901), (0.1, 964), (0.25, 2306), (0.5, 6909), (0.75, 15_367), (0.9, 27_367)),
    *((0.95, 39_550), (0.99, 85_400), (1.0, 126_195)),
)
MOONCAKE_OUTPUT = (
    *((0.0, 1), (0.01, 3), (0.05, 10), (0.1, 24), (0.25, 156), (0.5, 350), (0.75, 472), (0.9, 597), (0.95, 698)),
    *((0.99, 1118), (1.0, 2000)),
)


def quantiled(u: np.ndarray, table: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Values at probabilities `u` of a table of quantiles, interpolated in the logarithm."""
    probability, value = np.array(table, float).T
    return np.exp(np.interp(u, probability, np.log(value)))


def copula(n: int, correlation: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two stratified uniform samples f64[n] tied by a Gaussian copula."""
    first = rng.standard_normal(n)
    second = correlation * first + np.sqrt(1 - correlation**2) * rng.standard_normal(n)
    return _ranked(first), _ranked(second)


def _ranked(values: np.ndarray) -> np.ndarray:
    """Ranks as probabilities at the middle of their strata."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return (ranks + 0.5) / len(values)


def _tokens(n: int, tables: tuple, correlation: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    u, v = copula(n, correlation, rng)
    names = ("input_tokens", "output_tokens")
    return {
        name: np.rint(quantiled(p, table)).astype(np.int32)
        for name, p, table in zip(names, (u, v), tables, strict=True)
    }


def azure_conv(*, seed: int = 0, requests: int = 14_176) -> pl.DataFrame:
    """Azure's conversation service: about 5.9 requests/s, rising from 4.8 to 7.5 in 40 minutes, gap CV 1.08."""
    rng = np.random.default_rng([seed, stream("requests/azure_conv")])
    gaps = rng.gamma(1 / 1.05**2, 1.05**2, requests)
    expected = np.cumsum(gaps) / gaps.sum()  # in units of the whole trace
    minutes = np.array([0, 10, 20, 27, 30, 38, 40]) * 60.0
    rate = np.array([4.6, 5.0, 5.3, 6.2, 7.7, 7.4, 5.5])
    grid = np.linspace(0, minutes[-1], 481)
    density = np.interp(grid, minutes, rate)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    span = requests / 5.907
    arrival = np.interp(expected, cumulative / cumulative[-1], grid / grid[-1]) * span
    tokens = _tokens(requests, (CONV_INPUT, CONV_OUTPUT), 0.034, rng)
    return _table("azure-conv", arrival - arrival[0], tokens)


def azure_code(*, seed: int = 0, requests: int = 8_819) -> pl.DataFrame:
    """Azure's code service: about 2.6 requests/s in bursts, gap CV 13, silences of minutes."""
    rng = np.random.default_rng([seed, stream("requests/azure_code")])
    gaps = quantiled(_ranked(rng.random(requests - 1)), CODE_GAP_S) if requests > 1 else np.empty(0)
    tokens = _tokens(requests, (CODE_INPUT, CODE_OUTPUT), -0.022, rng)
    return _table("azure-code", np.concatenate([[0.0], np.cumsum(gaps)]), tokens)


def mooncake(*, seed: int = 0, requests: int = 12_031) -> pl.DataFrame:
    """Kimi's conversations: ten or so at once every 3 s, long prompts, 37 % of prompt blocks seen before."""
    rng = np.random.default_rng([seed, stream("requests/mooncake")])
    instants = max(1, round(requests / 10.2))
    share = np.linspace(0.84, 1.12, instants)
    counts = rng.multinomial(requests, share / share.sum())
    jitter = rng.choice([-1, 0, 0, 0, 1], instants)
    times = np.repeat(np.maximum(np.arange(instants) * 3000 + jitter, 0), counts)
    tokens = _tokens(requests, (MOONCAKE_INPUT, MOONCAKE_OUTPUT), 0.075, rng)
    blocks = -(-tokens["input_tokens"] // BLOCK)
    frame = pl.DataFrame({"timestamp_ms": times.astype(np.int64) - times[0], **tokens})
    hashes = pl.Series("hash_ids", _prefixes(blocks, rng), pl.List(pl.Int32))
    return mooncake_requests(frame.with_columns(hashes))


def _prefixes(blocks: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
    """Block ids of every prompt: block 0 is everybody's, two in five go on from a prompt that came before."""
    n = len(blocks)
    goes_on, share = rng.random(n) < 0.40, rng.beta(8, 1.2, n)
    fresh, made = 1, []
    for i in range(n):
        ids = [0]
        if goes_on[i] and made:
            earlier = max((made[k] for k in rng.integers(0, len(made), 6)), key=len)
            ids = earlier[: max(1, min(round(share[i] * blocks[i]), len(earlier)))]
        new = int(blocks[i]) - len(ids)
        made.append(ids + list(range(fresh, fresh + new)))
        fresh += new
    return made


def _table(source: str, arrival_s: np.ndarray, tokens: dict[str, np.ndarray]) -> pl.DataFrame:
    return validate(numbered(pl.DataFrame({"arrival_s": arrival_s, **tokens}), source))
