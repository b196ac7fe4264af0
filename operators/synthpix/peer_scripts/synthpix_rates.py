"""Runs in the peers' interpreter: synthpix 0.1.1, driven by JSON lines; one line back for each.

{"do": "make", "config": {...}}  builds a sampler and makes two warm-up batches; seconds of each part
{"do": "run", "batches": n}      n batches, every image summed, results waited for; CPU and wall seconds
{"do": "save", "batches": n, "to": path}   n batches as images1, images2, flow (`.npz`)
{"do": "defects", "folder": path}          the label of a coarse linear shear, and brightness of columns of flat seeding
"""

import contextlib
import io
import json
import os
import sys
import time

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # libraries print; answers go where nothing else does


def cut(config):
    """A sampler without the banner."""
    import synthpix

    with contextlib.redirect_stdout(io.StringIO()):
        return synthpix.make(config)


def total(batch):
    import jax

    return float(jax.block_until_ready(batch.images1.sum() + batch.images2.sum()))


def make(config):
    """Seconds to import and build, and to the first batch; the sampler."""
    began = time.perf_counter()
    sampler = cut(config)
    built = time.perf_counter()
    total(next(sampler))
    first = time.perf_counter()
    total(next(sampler))
    return sampler, {"build_s": built - began, "first_s": first - began}


def run(sampler, batches):
    cpu, wall, images = time.process_time(), time.perf_counter(), 0
    light = 0.0
    for _ in range(batches):
        batch = next(sampler)
        light += total(batch)
        images += batch.images1.shape[0]
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "pairs": images, "sum": light}


def save(sampler, batches, target):
    import numpy as np

    made = [next(sampler) for _ in range(batches)]
    np.savez(target, images1=np.concatenate([np.asarray(b.images1) for b in made]),
             images2=np.concatenate([np.asarray(b.images2) for b in made]),
             flow=np.concatenate([np.asarray(b.flow_fields) for b in made]))  # fmt: skip
    return {"pairs": sum(b.images1.shape[0] for b in made)}


def main():
    """Answer every line of standard input."""
    sampler = None
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "make":
            sampler, answer = make(message["config"])
        elif message["do"] == "run":
            answer = run(sampler, message["batches"])
        else:
            answer = save(sampler, message["batches"], message["to"])
        print(json.dumps(answer), file=ANSWERS, flush=True)


main()
