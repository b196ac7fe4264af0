"""Accelerators: memory bandwidth, peak arithmetic, memory and link, from vendor sheets and the published tables' peaks.

Bytes and seconds, decimal (1 TB/s = 1e12 B/s). `link_Bps` is one direction. The 40 GB A100 has no kernel table of its
own: its memory-bound expert time is the 80 GB card's scaled by the bandwidths (`steptime.step_tables`).
"""

from dataclasses import dataclass, field

GB, GIB, TERA = 10**9, 2**30, 10**12


@dataclass(frozen=True)
class Accelerator:
    """One accelerator; `flops` maps a number type to dense tensor FLOP/s."""

    name: str
    mem_Bps: float
    flops: dict[str, float] = field(hash=False)
    mem_bytes: int
    link_Bps: float

    def peak(self, dtype: str) -> float:
        """Peak FLOP/s for a type; ValueError when it is not known for this accelerator."""
        key = "fp8" if dtype == "fp8_block" else dtype
        if key not in self.flops:
            raise ValueError(
                f"{self.name}: peak FLOP/s of {dtype} is not known; known: {', '.join(self.flops) or 'none'}"
            )
        return self.flops[key]

    def ridge(self, dtype: str) -> float:
        """FLOP per byte above which the accelerator is bound by arithmetic."""
        return self.peak(dtype) / self.mem_Bps


class Accelerators(dict):
    """Accelerators by name; an unknown name lists the known ones."""

    def __missing__(self, name: str) -> Accelerator:
        raise KeyError(f"accelerator {name!r}: unknown; known: {', '.join(self)}")


_ALL = [
    Accelerator("a100-40g", 1.555 * TERA, {"bfloat16": 312 * TERA}, 40 * GB, 300 * GB),
    Accelerator("a100-80g", 2.039 * TERA, {"bfloat16": 312 * TERA}, 80 * GIB, 300 * GB),
    Accelerator("h100", 3.35 * TERA, {"bfloat16": 989 * TERA, "fp8": 1979 * TERA}, 80 * GB, 450 * GB),
    Accelerator("b200", 7.7 * TERA, {"bfloat16": 2250 * TERA, "fp8": 4500 * TERA}, 180 * GIB, 900 * GB),
    Accelerator("rtx-pro-6000", 1.597 * TERA, {}, 96 * GB, 64 * GB),  # PCIe 5 x16
]
ACCELERATORS = Accelerators({item.name: item for item in _ALL})
