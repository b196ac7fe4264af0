"""Runs in the peers' interpreter: synpivimage 1.0.0a9, driven by JSON lines; one line back for each.

{"do": "run", "pairs": n, "size": s, "ppp": p}   n pairs without noise, every image summed; CPU and wall seconds
{"do": "spot", "y": y, "x": x, "diameter": d, "size": s, "fill": f}   the image of one particle, light summed in photons
"""

import json
import logging
import os
import sys
import time
import warnings

import numpy as np

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # libraries print; answers go where nothing else does

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)


def camera_of(size, diameter, fill=1.0, bits=8):
    import synpivimage

    return synpivimage.Camera(nx=size, ny=size, bit_depth=bits, qe=1, sensitivity=1, baseline_noise=0, dark_noise=0,
                              shot_noise=False, fill_ratio_x=fill, fill_ratio_y=fill,
                              particle_image_diameter=diameter, seed=1)  # fmt: skip


def run(pairs, size, ppp, diameter):
    """Pairs of a uniform flow of (2, 1) px in a sheet of 10 px."""
    import synpivimage

    camera, laser = camera_of(size, diameter), synpivimage.Laser(shape_factor=2, width=10)
    rng = np.random.default_rng(0)
    cpu, wall, light = time.process_time(), time.perf_counter(), 0.0
    for _ in range(pairs):
        n = int(ppp * size * size)
        x, y, z = rng.uniform(0, size, n), rng.uniform(0, size, n), rng.uniform(-4, 4, n)
        for shift in (0.0, 1.0):
            particles = synpivimage.Particles(x=x + 2 * shift, y=y + shift, z=z + 0.0, size=np.ones(n))
            image, _ = synpivimage.take_image(laser, camera, particles, particle_peak_count=200)
            light += float(image.sum())
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "pairs": pairs, "sum": light}


def spot(y, x, diameter, size, fill):
    """Light of one particle of unit intensity before the sensor."""
    from synpivimage.camera import model_image_particles
    from synpivimage.particles import Particles

    one = Particles(x=np.array([x]), y=np.array([y]), z=np.zeros(1), size=np.ones(1), source_intensity=np.ones(1))
    light, _ = model_image_particles(one, nx=size, ny=size, sigmax=diameter / 4, sigmay=diameter / 4,
                                     fill_ratio_x=fill, fill_ratio_y=fill)  # fmt: skip
    return {"image": np.asarray(light).tolist()}


def main():
    """Answer every line of standard input."""
    for line in sys.stdin:
        message = json.loads(line)
        answer = {"run": run, "spot": spot}[message.pop("do")](**message)
        print(json.dumps(answer), file=ANSWERS, flush=True)


main()
