"""The distribution of a length given what was predicted, and reservations that spend their risk where it saves most.

`Conditional` is a table: quantiles of the training lengths among the nearest out-of-fold predictions, at knots along
the predictions, interpolated. It knows that residuals are not one family: long answers stop at the model's limit, short
ones scatter.

Cost-aware reservations are our addition. A bound at one level for everybody spends the risk of overflow evenly; but
memory is held for as long as a request runs, so a tight block saves more under a long answer than under a short one.
For request x and reservation b let M(b) be the expected memory-time (b for the tokens up to b, the next block beyond);
each request takes the b that minimises M(b) + price * P(L > b | x). One price serves all and is set so that over the
training prompts (out of fold) exactly the wanted share is covered: the same overflow probability as the plain bound,
less memory.
"""

import numpy as np

NEIGHBOURS = 400
KNOTS = 64
SHARES = (np.arange(50) + 0.5) / 50  # quantiles a row of the table holds
LEAST_SHARE = 0.3  # no reservation is tighter than this quantile
NEXT = 1.5  # the block after an overflow, relative to the full one, in the expected cost
PRICE_STEPS = 50


class Conditional:
    """Quantiles of the length at knots of the (log) predicted mean: knots f64[k], table f64[k, shares]."""

    def __init__(self, knots: np.ndarray, table: np.ndarray):
        self.knots, self.table = knots, table

    @classmethod
    def learn(cls, mean: np.ndarray, lengths: np.ndarray) -> "Conditional":
        """From predictions that did not see the lengths."""
        order = np.argsort(mean, kind="stable")
        mean, lengths = mean[order], lengths[order]
        n, width = len(mean), min(NEIGHBOURS, len(mean))
        centres = np.unique(np.linspace(0, n - 1, min(KNOTS, n)).astype(int))
        starts = np.clip(centres - width // 2, 0, n - width)
        table = np.array([np.quantile(lengths[start : start + width], SHARES) for start in starts])
        knots = np.log(mean[centres])
        rising = np.append(True, np.diff(knots) > 1e-9)
        return cls(knots[rising], table[rising])

    def rows(self, mean: np.ndarray) -> np.ndarray:
        """The quantiles `(n, shares)` of requests predicted at `mean`."""
        if len(self.knots) == 1:
            return np.repeat(self.table, len(mean), axis=0)
        z = np.log(mean)
        i = np.clip(np.searchsorted(self.knots, z) - 1, 0, len(self.knots) - 2)
        weight = np.clip((z - self.knots[i]) / (self.knots[i + 1] - self.knots[i]), 0, 1)[:, None]
        return (1 - weight) * self.table[i] + weight * self.table[i + 1]

    def below(self, mean: np.ndarray, marks: np.ndarray) -> np.ndarray:
        """P(L <= mark) `(n, marks)`."""
        return (self.rows(mean)[:, :, None] <= np.asarray(marks)[None, None, :]).mean(1)

    def choices(self, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Candidate reservations b `(n, c)`, their expected memory-time (tokens squared) and overflow risks `(c,)`."""
        rows = self.rows(mean)
        some = np.flatnonzero(SHARES >= LEAST_SHARE)
        b = rows[:, some]
        cost = np.empty_like(b)
        for column in range(len(some)):
            full = b[:, column : column + 1]
            beyond = np.maximum(rows, NEXT * full)
            cost[:, column] = (full * np.minimum(rows, full) + np.maximum(rows - full, 0) * beyond).mean(1)
        return b, cost, 1 - SHARES[some]

    def prices(self, mean: np.ndarray, lengths: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
        """Per level: the price of an overflow at which that share of `lengths` is covered."""
        b, cost, risk = self.choices(mean)
        highest = float(cost.max()) * 1e3
        found = []
        for level in levels:
            low, high = 0.0, highest
            for _ in range(PRICE_STEPS):
                price = (low + high) / 2
                covered = (lengths <= _cheapest(b, cost, risk, price)).mean()
                low, high = (price, high) if covered < level else (low, price)
            found.append(high)
        return np.array(found)

    def needs(self, mean: np.ndarray, prices: np.ndarray) -> np.ndarray:
        """Tokens to reserve `(n, prices)`."""
        choices = self.choices(mean)
        return np.column_stack([_cheapest(*choices, price) for price in prices])


def _cheapest(b: np.ndarray, cost: np.ndarray, risk: np.ndarray, price: float) -> np.ndarray:
    chosen = np.argmin(cost + price * risk, axis=1)
    return b[np.arange(len(b)), chosen]
