"""How fast pages can be gathered from this host's memory, as a share of streaming: a measured alpha by page size.

Both sides are the same native kernel (native/alpha.c) over the same touched memory, several times larger than the last
cache; streaming reads the pages in address order, gathering in random order. Processor time of the reading thread.
"""

from pathlib import Path

import numpy as np

from operators.odma.errors import ConfigError

TRIES = 4  # the fastest counts: what other processes take from the memory is not the pages' doing
PAGES = tuple(2**k for k in range(10, 23))  # 1 KiB to 4 MiB


def cache_bytes() -> int:
    """Size of the last-level cache; 0 when the system does not tell."""
    found = 0
    for place in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = place.read_text().strip()
        found = max(found, int(text[:-1]) * {"K": 2**10, "M": 2**20}.get(text[-1], 1))
    return found


def memory(mib: int, *, seed: int = 0) -> np.ndarray:
    """Touched bytes, `mib` MiB of them."""
    block = np.random.default_rng([seed, 9]).integers(0, 256, 2**20, np.uint8)
    return np.tile(block, mib)


def curve(data: np.ndarray, *, ms: float, seed: int = 0) -> list[dict[str, float]]:
    """One pass over PAGES: page_bytes, gather_Bps, stream_Bps, alpha. ConfigError where the kernel is not built."""
    from operators.odma.arena import native

    module = native()
    if module is None:
        raise ConfigError("alpha curve: the native kernel is not built here; run `make native`")
    rng, rows = np.random.default_rng([seed, 10]), []
    for page in PAGES:
        pages = len(data) // page
        order = np.arange(pages)
        # Enough pages for `ms`, at about 5 GB/s; a share of the memory for small pages.
        some = min(pages, max(16, int(ms / TRIES * 5e6 / page)))
        stream_ns = gather_ns = 1 << 62
        for _ in range(TRIES):
            start = int(rng.integers(pages - some + 1))
            stream_ns = min(stream_ns, module.gather(data, page, order[start : start + some])[0])
            gather_ns = min(gather_ns, module.gather(data, page, rng.permutation(order)[:some])[0])
        rate = some * page * 1e9
        rows.append({"page_bytes": page, "gather_Bps": rate / gather_ns, "stream_Bps": rate / stream_ns,
                     "alpha": min(stream_ns / gather_ns, 1.0)})  # fmt: skip
    return rows
