"""Runs in the peers' interpreter: OpenPIV over a stack of pairs; one JSON line in, one out.

Arguments: pairs.npy `(n, 2, H, W)`, vectors.npz to write. One window: extended search area with 3/4 of it as window and
an overlap that tiles the image; several: multi-pass window deformation.
"""

import json
import os
import sys

import numpy as np

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # libraries print; answers go where nothing else does


def one_pass(first, second, search):
    """y, x, u, v of one extended-search pass; coordinates of window centres, counted from the image's corner."""
    from openpiv import pyprocess

    window, overlap = search * 3 // 4, search // 2
    u, v, _ = pyprocess.extended_search_area_piv(
        first.astype(np.int32), second.astype(np.int32), window_size=window, overlap=overlap, dt=1.0,
        search_area_size=search, sig2noise_method="peak2peak", subpixel_method="gaussian",
    )  # fmt: skip
    rows = np.arange(u.shape[0]) * (search - overlap) + (search - 1) / 2
    columns = np.arange(u.shape[1]) * (search - overlap) + (search - 1) / 2
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return y, x, u, v


def several_passes(first, second, windows):
    """y, x, u, v of the last pass of OpenPIV's window deformation."""
    from openpiv import windef
    from openpiv.settings import PIVSettings

    settings = PIVSettings()
    settings.windowsizes = tuple(windows)
    settings.overlap = tuple(w // 2 for w in windows)
    settings.num_iterations = len(windows)
    settings.show_plot = settings.save_plot = False
    _, _, u, v, _ = windef.simple_multipass(first.astype(np.int32), second.astype(np.int32), settings)
    last = windows[-1]
    rows = np.arange(u.shape[0]) * (last - last // 2) + (last - 1) / 2
    columns = np.arange(u.shape[1]) * (last - last // 2) + (last - 1) / 2
    yy, xx = np.meshgrid(rows, columns, indexing="ij")
    # simple_multipass turns the y axis upwards and the rows with it; turn both back.
    return yy, xx, np.asarray(u), -np.asarray(v)


def main():
    """Answer every line of standard input."""
    given, target = sys.argv[1:3]
    for line in sys.stdin:
        windows = json.loads(line)["windows"]
        pairs = np.load(given)
        several = len(windows) > 1
        found = [several_passes(a, b, windows) if several else one_pass(a, b, windows[0]) for a, b in pairs]
        np.savez(target, **{name: np.stack([f[k] for f in found]) for k, name in enumerate(("y", "x", "u", "v"))})
        print(json.dumps({"pairs": len(found)}), file=ANSWERS, flush=True)


main()
