"""Optional command: measure a grouped expert kernel on a local CUDA GPU and write it in the form of moe.csv.

Nothing depends on it. The table (tokens, activated_experts, time_us) becomes one more calibration table for your own
accelerator. The kernel is plain torch: tokens sorted by expert, then one batched matrix product per projection over
the activated experts, padded to the fullest one. That reads every activated expert once, as engines' grouped GEMMs
do, but it is not their kernel: say so when you use the numbers. Balanced routing: every activated expert gets the
same number of assignments, rounded up.
"""

from pathlib import Path

from operators.lab import stage

TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class GpuError(ValueError):
    """There is no torch, or no CUDA device, on this machine."""


def main(
    *,
    out: Path,
    experts: int = 128,
    hidden: int = 2048,
    width: int = 768,
    top_k: int = 8,
    reps: int = 20,
) -> None:
    """Measure expert-layer times on this machine's GPU.

    Args:
        out: CSV to write: tokens, activated_experts, time_us
        experts: experts of the layer (default Qwen3-30B's)
        hidden: hidden size
        width: expert width
        top_k: experts per token
        reps: timed repetitions per point; the median counts
    """
    torch = _torch()
    rows = ["tokens,activated_experts,time_us"]
    weights = [
        torch.randn(experts, *shape, device="cuda", dtype=torch.bfloat16) / hidden**0.5
        for shape in ((hidden, 2 * width), (width, hidden))
    ]
    for tokens in TOKENS:
        for activated in _grid(tokens, experts, top_k):
            time_us = _median_us(torch, weights, activated, -(-tokens * top_k // activated), reps)
            rows.append(f"{tokens},{activated},{time_us:.3f}")
    with stage.atomic(out) as temporary:
        temporary.write_text("\n".join(rows) + "\n")


def _torch():
    try:
        import torch
    except ImportError:
        raise GpuError("measure_gpu: torch is not installed here; install a CUDA build of torch to use it") from None
    if not torch.cuda.is_available():
        raise GpuError("measure_gpu: torch finds no CUDA device on this machine")
    return torch


def _grid(tokens: int, experts: int, top_k: int) -> list[int]:
    """Activated experts worth measuring: doubling from top_k to as many as the tokens can reach."""
    most = min(experts, tokens * top_k)
    return sorted({min(top_k * 2**power, most) for power in range(experts.bit_length())})


def _median_us(torch, weights, activated: int, per_expert: int, reps: int) -> float:
    """Median microseconds of the layer's two products and the gate, experts chosen anew in every repetition."""
    up, down = weights
    x = torch.randn(activated, per_expert, up.shape[1], device="cuda", dtype=up.dtype)
    times = []
    for rep in range(reps + 3):
        first = (rep * activated) % (len(up) - activated + 1)
        chosen = slice(first, first + activated)  # a view: no copy, and other experts than the run before
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        gate, value = torch.bmm(x, up[chosen]).chunk(2, dim=-1)
        torch.bmm(torch.nn.functional.silu(gate) * value, down[chosen])
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return sorted(times[3:])[reps // 2]


if __name__ == "__main__":
    stage.run(main)
