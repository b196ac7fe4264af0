"""Weight files of the real run: bytes drawn from the seed, one file per model and rank, a checksum of the first block.

The bytes matter: a token of the tiny decoder is computed from them, so an answer proves which weights lie in memory.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from operators.lab import stage

MANIFEST = "manifest.json"
STRIDE = 4099  # bytes of weights one token reads apart


def write(folder: Path, models: dict[str, int], blocks: int, block_bytes: int, seed: int) -> dict[str, dict]:
    """Files of `models` (name -> ranks), `blocks` blocks each; the manifest, also written beside them."""
    manifest = {}
    for number, (name, ranks) in enumerate(sorted(models.items())):
        for rank in range(ranks):
            rng = np.random.default_rng([seed, number, rank])
            one = rng.integers(0, 256, blocks * block_bytes, np.uint8)
            path = folder / f"{name}-{rank}.weights"
            with stage.atomic(path) as temporary:
                one.tofile(temporary)
            manifest[f"{name}-{rank}"] = {
                "path": str(path),
                "blocks": blocks,
                "crc": zlib.crc32(one[:block_bytes]),
            }
    with stage.atomic(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest))
    return manifest


def token(weights: np.ndarray, prompt_tokens: int, position: int) -> int:
    """The tiny decoder: a token from a stripe of the weights."""
    start = (prompt_tokens * 31 + position * 17) % STRIDE
    return int(weights[start::STRIDE].astype(np.uint64).sum() * 2654435761 % 50_257)
