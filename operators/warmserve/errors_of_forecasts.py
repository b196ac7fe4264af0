"""How far forecasters are off on production rates: every method on the same windows, one step and one hour ahead.

Rates summed over clients, 10-minute windows, each of the last days forecast from the seven before it and its own
windows so far; gaps are missing, not zero, and are not scored.
"""

import numpy as np

from operators.warmserve import forecast

FIRST_DAY = 7  # 0-based: the eighth day is the first with a week before it
METHODS = ("csp", "csp_printed", "seasonal", "last", "yesterday", "blend")
HORIZONS = (1, 6)  # windows


def rows(rates: dict[str, np.ndarray], days: int = 7, horizons: tuple[int, ...] = HORIZONS) -> list[tuple]:
    """(model, day, window, horizon, method, actual, forecast) for every scored window of every model."""
    out = []
    for model, grid in rates.items():
        for day in range(FIRST_DAY, len(grid)):
            past = grid[max(0, day - days) : day]
            for ahead in horizons:
                made = _one_day(past, grid[day], grid[:day], ahead, model)
                for method in METHODS:
                    for window in range(grid.shape[1]):
                        if not np.isnan(grid[day, window]):
                            actual = float(grid[day, window])
                            out.append((model, day + 1, window, ahead, method, actual, float(made[method][window])))
    return out


def _one_day(
    past: np.ndarray, today: np.ndarray, all_past: np.ndarray, ahead: int, model: str
) -> dict[str, np.ndarray]:
    windows = len(today)
    season = forecast.seasonal(past, model=model)
    blend = forecast.Blend(ahead=ahead).fit(all_past)
    made = {method: np.full(windows, np.nan) for method in METHODS}
    for window in range(windows):
        seen = today[: max(window - ahead + 1, 0)]
        made["seasonal"][window] = season[window]
        made["yesterday"][window] = past[-1, window]
        made["last"][window] = forecast.last_window(season, np.concatenate([past[-1], seen]), window)
        for method, order in (("csp", "newest"), ("csp_printed", "printed")):
            off = forecast.correction(season, seen, 10, order)
            made[method][window] = max(season[window] + off, 0.0)
        made["blend"][window] = blend.forecast(past, seen, window)
    return made
