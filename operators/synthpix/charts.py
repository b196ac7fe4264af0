"""The figures of SynthPix; every function gives the figure and the table it plots."""

from typing import TYPE_CHECKING, Any

import numpy as np

from operators.lab import figures

if TYPE_CHECKING:
    import polars as pl

LOOK = figures.look(["original", "re-render"])
SHOWN_ERROR = 1.0  # px
CASES = {
    "jassal-b1": "Jassal, batch 1",
    "jassal-b32": "Jassal, batch 32",
    "jassal-b256": "Jassal, batch 256",
    "dense-b32": "dense, batch 32",
    "physics-b32": "full physics, batch 32",
}


def errors(vectors: "pl.DataFrame") -> tuple[Any, "pl.DataFrame"]:
    """Distribution of the PIV error on the original pair and on re-renders, one panel per item."""
    import polars as pl

    table = vectors.filter(pl.col("settings") == "rerender").select(
        "flow", "source", "seed", "data", "method",
        error=((pl.col("u") - pl.col("u_true")) ** 2 + (pl.col("v") - pl.col("v_true")) ** 2).sqrt(),
    )  # fmt: skip
    items = table["flow"].unique(maintain_order=True).to_list()
    if not items:
        return figures.nothing("no item was re-rendered in this run"), table
    figure, axes = figures.panels(1, len(items), width=2.7, height=3.0, sharey=True)
    for axis, item in zip(axes[0], items, strict=True):
        part = table.filter(pl.col("flow") == item)
        medians = {}
        for source, name in (("render", "re-render"), ("original", "original")):
            for _, one in part.filter(pl.col("source") == source).group_by("seed", maintain_order=True):
                e = one["error"].to_numpy()
                e = np.sort(e[np.isfinite(e)])  # OpenPIV gives no vector where nothing shines
                alpha = 0.45 if source == "render" else 1.0
                axis.plot(e, (np.arange(len(e)) + 1) / len(e), color=LOOK[name]["color"], alpha=alpha, lw=1.6)
                medians.setdefault(name, []).append(float(np.median(e)))
        ratio = np.mean(medians["re-render"]) / medians["original"][0]
        axis.set(title=f"{item}: ratio {ratio:.2f}", xlabel="vector error (px)", xlim=(0, SHOWN_ERROR), ylim=(0, 1))
    axes[0, 0].set_ylabel("share of vectors below")
    for name in ("original", "re-render"):
        axes[0, -1].plot([], [], color=LOOK[name]["color"], lw=1.6, label=name)
    axes[0, -1].legend(loc="lower right")
    kind, method = "+".join(sorted(table["data"].unique())), table["method"][0]
    figures.note(figure, f"One pass ({method}), window 24 in 32, overlap 16, label at the window's centre; flows and "
                         f"originals: {kind}; ratio: mean of the re-renders' medians over the original's. The original "
                         "cylinder pair holds fewer particles (grey mean 12): shown, not judged.")  # fmt: skip
    return figure, table


def locking(probes: "pl.DataFrame") -> tuple[Any, "pl.DataFrame"]:
    """Peak locking of both spot models: fractions that are measured, and the error over the true fraction."""
    import polars as pl

    table = probes.filter(pl.col("probe") == "peak_lock").select(
        "series", true="x", measured="y", error="z", data="data"
    )
    look = figures.look(["integrated", "point"])
    figure, axes = figures.panels(1, 2, width=4.6, height=3.3)
    for name, style in look.items():
        part = table.filter(pl.col("series") == name)
        fraction = part["measured"].to_numpy() % 1.0
        axes[0, 0].hist(fraction, bins=25, range=(0, 1), histtype="step", lw=1.8, color=style["color"], label=name)
        by = part.group_by(f=pl.col("true") % 1.0).agg(mean=pl.col("error").mean()).sort("f")
        axes[0, 1].plot(by["f"], by["mean"], color=style["color"], marker=style["marker"], ms=3, lw=1, label=name)
    even = len(table) / 2 / 25
    axes[0, 0].axhline(even, color="#555555", lw=1, ls=":", label="even")
    axes[0, 0].set(xlabel="measured displacement, fraction (px)", ylabel="vectors", ylim=(0, None))
    axes[0, 1].axhline(0, color="#555555", lw=1, ls=":")
    axes[0, 1].set(xlabel="true displacement, fraction (px)", ylabel="mean error (px)")
    axes[0, 0].legend(loc="lower left")
    axes[0, 1].legend()
    figures.note(figure, "Uniform flow, displacements spread evenly over one pixel, spots of sigma 0.4 px, 8 bit, "
                         "our one-pass correlator (window 24 in 32). Narrow point-sampled spots draw results to half "
                         "pixels.")  # fmt: skip
    return figure, table


def border(probes: "pl.DataFrame", bench: "pl.DataFrame") -> tuple[Any, "pl.DataFrame"]:
    """Brightness of columns and rows over their centre, both images; what the peer shows stands in the title."""
    import polars as pl

    table = probes.filter(pl.col("probe") == "border").select("series", pixel="x", relative="y", data="data")
    figure, axes = figures.panels(1, 2, width=4.6, height=3.2, sharey=True)
    for axis, kind in zip(axes[0], ("columns", "rows"), strict=True):
        for number, style in enumerate(figures.look(["image 1", "image 2"]).items()):
            part = table.filter(pl.col("series") == f"image {number + 1}, {kind}")
            axis.plot(part["pixel"], part["relative"], color=style[1]["color"], lw=1, label=style[0])
        axis.axhspan(0.95, 1.05, color="#999999", alpha=0.15, lw=0)
        axis.set(xlabel=f"{kind[:-1]} (px)", ylim=(0.85, 1.15))
    axes[0, 0].set_ylabel("mean brightness / centre")
    axes[0, 0].legend(loc="lower center", ncols=2)
    two = bench.filter((pl.col("bench") == "defects") & (pl.col("case") == "D2") & pl.col("peer_value").is_not_null())
    beside = (f" SynthPix 0.1.1 without a margin, same bench: largest deviation {two['peer_value'][0]:.2f} (ours "
              f"{two['ours_value'][0]:.2f}, 400 images of 64 px).") if len(two) else ""  # fmt: skip
    figures.note(figure, "Uniform flow of 5 px to the right, 256 px, mean over all pairs; band: +-5 %. " + beside)
    return figure, table


def throughput(rates: "pl.DataFrame") -> tuple[Any, "pl.DataFrame"]:
    """Pairs per core-second of ours and the peers, logarithmic axis."""
    import polars as pl

    table = rates.filter(pl.col("unit") == "pairs per core-second").group_by("case", "policy", maintain_order=True).agg(
        median=pl.col("rate").median(), low=pl.col("rate").min(), high=pl.col("rate").max(), n=pl.len()
    )  # fmt: skip
    cases = [case for case in CASES if case in table["case"].to_list()]
    tools = table["policy"].unique(maintain_order=True).to_list()
    look = figures.look(tools)
    figure, axes = figures.panels(1, 1, width=max(4.5, 1.75 * len(cases) + 1), height=3.6)
    axis = axes[0, 0]
    for place, case in enumerate(cases):
        for k, tool in enumerate(tools):
            part = table.filter((pl.col("case") == case) & (pl.col("policy") == tool))
            if part.is_empty():
                continue
            value, low, high = part.select("median", "low", "high").row(0)
            x = place + (k - (len(tools) - 1) / 2) * 0.27
            axis.bar(x, value, 0.25, color=look[tool]["color"], label=tool if place == 0 else None)
            axis.errorbar(x, value, [[value - low], [high - value]], color="black", lw=1, capsize=2)
            shown = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
            axis.annotate(shown, (x, high), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axis.set_yscale("log")
    axis.set_xticks(range(len(cases)), [CASES[case] for case in cases])
    axis.set(ylabel="pairs per core-second", ylim=(1, 2.5 * table["high"].max()))
    figures.plain_ticks(axis.yaxis)
    axis.yaxis.set_minor_formatter("")
    axis.grid(axis="x", visible=False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=len(tools))
    figures.note(figure, "256x256, pairs / process CPU time of all threads, every image summed inside the timed "
                         "section, taken in turn; bars: median, lines: extremes. SynthPix has no sheet, camera or "
                         "pixel integration: beside 'full physics' it renders its simpler images. synpivimage: no "
                         "noise, 0.035 particles per px.")  # fmt: skip
    return figure, table


def pair(image1: np.ndarray, image2: np.ndarray, label: np.ndarray, text: str) -> tuple[Any, "pl.DataFrame"]:
    """One image pair of the run and its label as arrows."""
    import polars as pl

    figure, axes = figures.panels(1, 3, width=3.6, height=3.7)
    for axis, image, name in zip(axes[0, :2], (image1, image2), ("image 1", "image 2"), strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set(title=name, xlabel="x (px)", ylabel="y (px)")
        axis.grid(visible=False)
    step = max(1, label.shape[0] // 20)
    rows, columns = np.mgrid[step // 2 : label.shape[0] : step, step // 2 : label.shape[1] : step]
    u, v = label[rows, columns, 0], label[rows, columns, 1]
    speed = np.hypot(u, v)
    arrows = axes[0, 2].quiver(columns, rows, u, v, speed, angles="xy", cmap="viridis", pivot="mid", width=0.006)
    axes[0, 2].set(title="label (u, v)", xlabel="x (px)", xlim=(-0.5, label.shape[1] - 0.5),
                   ylim=(label.shape[0] - 0.5, -0.5), aspect="equal")  # fmt: skip
    figure.colorbar(arrows, ax=axes[0, 2], label="displacement (px per frame)", shrink=0.8)
    figures.note(figure, text)
    table = pl.DataFrame({"x": columns.ravel(), "y": rows.ravel(), "u": u.ravel(), "v": v.ravel()})
    return figure, table
