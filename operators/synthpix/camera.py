"""Closed forms of the camera: how much noise it adds. Drawing and rounding are the kernel's (native/sensor.cpp).

Departures from synpivimage, on purpose: shot noise has variance qe * S (there qe^2 * S), values are rounded half to
even (there cut off), dark noise may be negative before clipping.
"""

import math

import numpy as np

from operators.synthpix.specs import Camera


def noise_sigma(camera: Camera) -> float:
    """Standard deviation of the additive noise in counts, shot noise left out."""
    return math.sqrt(camera.dark_sigma**2 + camera.noise_sigma**2 + camera.noise_uniform**2 / 12)


def snr(camera: Camera, peak: np.ndarray, mean_light: np.ndarray) -> np.ndarray:
    """Mean peak amplitude over the standard deviation of all added noise; infinite without noise.

    peak and mean_light are in photons; shot noise counts with its mean variance over the image.
    """
    shot = camera.gain**2 * camera.qe * np.asarray(mean_light, np.float64) if camera.shot_noise else 0.0
    sigma = np.sqrt(noise_sigma(camera) ** 2 + shot)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sigma > 0, camera.gain * camera.qe * np.asarray(peak) / sigma, np.inf)
