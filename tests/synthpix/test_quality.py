"""Closed forms of the analytic flows, the twins against the real items, the PIV loop and its anchors, peers' tables."""

import json

import numpy as np
import polars as pl
import pytest

from operators.lab import datasets
from operators.synthpix import (
    AnalyticSource,
    Camera,
    ConfigError,
    FlowSpec,
    Generator,
    ImageSpec,
    Sheet,
    analytic,
    bench_system,
    catalogue,
    evaluate,
    parameters,
    peers,
    piv,
    quality,
    sheet,
    spots,
    twins,
)

ITEMS = sorted(twins.ITEMS)
needs_openpiv = pytest.mark.skipif(not peers.available("openpiv"), reason="OpenPIV is not installed for the peers")
needs_synpivimage = pytest.mark.skipif(
    not peers.available("synpivimage"), reason="synpivimage is not installed for the peers"
)
needs_synthpix = pytest.mark.skipif(not peers.available("synthpix"), reason="synthpix is not installed for the peers")


@pytest.mark.parametrize("name", analytic.FLOWS)
def test_gradients_and_accelerations_are_those_of_the_velocity(name):
    flow = analytic.FLOWS[name]()
    y, x = np.random.default_rng(1).uniform(10, 240, (2, 300))
    far = np.abs(np.hypot(y - 128, x - 128) - 40) > 1  # the core's edge of a Rankine vortex is a kink
    far &= np.abs(np.hypot(y - 128, x - 128) - 30) > 1  # the cylinder's surface
    y, x, h = y[far], x[far], 1e-4
    east, west = flow.velocity(y, x + h), flow.velocity(y, x - h)
    south, north = flow.velocity(y + h, x), flow.velocity(y - h, x)
    found = [(east[0] - west[0]), (south[0] - north[0]), (east[1] - west[1]), (south[1] - north[1])]
    for exact, difference in zip(flow.gradient(y, x), found, strict=True):
        assert np.broadcast_to(exact, y.shape) == pytest.approx(difference / (2 * h), abs=1e-6)
    u, v = flow.velocity(y, x)
    ux, uy, vx, vy = flow.gradient(y, x)
    ax, ay = flow.acceleration(y, x)
    assert np.broadcast_to(ax, y.shape) == pytest.approx(np.broadcast_to(u * ux + v * uy, y.shape))
    assert np.broadcast_to(ay, y.shape) == pytest.approx(np.broadcast_to(u * vx + v * vy, y.shape))
    assert np.abs(ux + vy).max() < 1e-12


def test_sequences_advance_by_phase():
    source = AnalyticSource(["taylor_green", "uniform"], (32, 32), frames=3)
    assert len(source) == 6
    assert not np.array_equal(source.get(0).values, source.get(1).values)
    assert np.array_equal(source.get(3).values, source.get(5).values)
    with pytest.raises(ConfigError, match=r"analytic: 'vortex'; unknown flow"):
        AnalyticSource(["vortex"])


@pytest.mark.parametrize("name", ITEMS)
def test_twins_have_the_statistics_they_are_made_for(name):
    wanted = twins.ITEMS[name]
    values = twins.flow(name, 0).values
    assert values.shape == (256, 256, 2)
    found = twins.statistics(values)
    loose = {"cylinder": 0.15, "backstep": 0.1}.get(name, 0.05)
    assert found["std_u"] == pytest.approx(wanted.std_u, rel=loose)
    assert found["std_v"] == pytest.approx(wanted.std_v, rel=loose)
    assert found["div_rms"] < 0.002
    assert np.array_equal(values, twins.flow(name, 0).values)
    assert not np.array_equal(values, twins.flow(name, 1).values)


@pytest.mark.parametrize("name", ITEMS)
def test_twins_match_the_real_items(name, real_data):
    if not datasets.present(catalogue.SET, real_data):
        pytest.skip("piv_cai2019 is not there")
    real = twins.statistics(catalogue.item_flow(name, seed=0, root=real_data).values)
    twin = twins.statistics(twins.flow(name, 0).values)
    loose = {"cylinder": 0.15, "backstep": 0.1}.get(name, 0.05)
    for key in ("std_u", "std_v"):
        assert twin[key] == pytest.approx(real[key], rel=loose)
    if name in ("DNS", "JHTDB", "SQG"):
        assert twin["grad_rms"] == pytest.approx(real["grad_rms"], rel=0.25)
    if name == "backstep":
        for key in ("u_min", "u_max", "v_min", "v_max"):
            assert twin[key] == pytest.approx(real[key], rel=0.1, abs=0.02)
    original = catalogue.item_images(name, seed=0, root=real_data)[0]
    rendered = twins.images(name, 0)[0]
    assert rendered.mean() == pytest.approx(original.mean(), rel=0.15)
    assert twins.sigma_eff(rendered) == pytest.approx(twins.sigma_eff(original), abs=0.1)


def test_the_correlator_finds_a_shift_and_its_windows_tile_the_image():
    generator = Generator(ImageSpec(shape=(128, 128), **quality.PIV_LOOK), seed=0)
    pair = generator.pair(analytic.uniform(1.3, -2.6).sample((128, 128)), 0)
    vectors = piv.correlate(pair.image1, pair.image2, search=32)
    assert vectors.u.shape == (7, 7)
    assert vectors.y[0, 0] == vectors.x[0, 0] == 15.5
    assert vectors.x[-1, -1] == 111.5
    assert np.median(vectors.u) == pytest.approx(1.3, abs=0.05)
    assert np.median(vectors.v) == pytest.approx(-2.6, abs=0.05)
    with pytest.raises(ConfigError, match=r"windows: 256; larger than the image"):
        piv.correlate(pair.image1, pair.image2, search=256)
    with pytest.raises(ConfigError, match=r"method: 'tracking'"):
        piv.analyse([], method="tracking", windows=(32,))


def test_summaries_leave_outliers_out_of_bias_and_rms():
    du = np.array([0.1, -0.1, 0.1, 5.0])
    found = piv.summary(du, np.zeros(4), np.arange(4) / 4, np.zeros(4))
    assert found["outlier_share"] == 0.25
    assert found["bias_u"] == pytest.approx(0.1 / 3)
    assert found["n"] == 4


def test_peak_locking_is_measured_where_it_is_put():
    true = (np.arange(400) + 0.5) / 400
    error = 0.02 * np.sin(2 * np.pi * true)
    assert piv.summary(error, error, true, true)["peak_lock_px"] == pytest.approx(0.02, rel=1e-6)


def test_evaluate_gives_a_row_per_pair():
    generator = Generator(ImageSpec(shape=(96, 96), **quality.PIV_LOOK), flow=FlowSpec(label_at="mid"), seed=2)
    table = evaluate(generator.batch(analytic.uniform(0.5, 0.0).sample((96, 96)), range(3)), "fft", (32,))
    assert table["pair"].to_list() == [0, 1, 2]
    assert table["rms"].max() < 0.1
    assert set(table.columns) >= {"bias_u", "bias_v", "rms", "median", "p90", "outliers", "peak_lock_px", "n", "method"}


def test_integrated_spots_lock_less_than_point_spots():
    rows, _ = quality.peak_lock(32, seed=1)
    lock = {row["policy"]: row["peak_lock_px"] for row in rows}
    assert lock["integrated"] < lock["point"]


def test_the_second_order_term_is_in_the_start_label_and_not_in_the_mid_label():
    slope = {row["label_at"]: row["slope_second_order"] for row in quality.second_order("fft", seed=3)}
    assert -1.15 < slope["start"] < -0.85
    assert -0.15 < slope["mid"] < 0.15


def test_the_sheet_is_its_closed_form():
    z = np.linspace(-6, 6, 101)
    assert sheet.brightness(Sheet(width_px=10), np.array([0, 5.0, 5.01])) == pytest.approx([1, np.exp(-2), 0])
    assert sheet.brightness(Sheet(width_px=10, shape=200), z).tolist() == (np.abs(z) <= 5).astype(float).tolist()
    assert sheet.brightness(Sheet(width_px=10, profile="synpivimage"), np.array([5.0])) == pytest.approx(
        0.671, abs=1e-3
    )
    look = {"shape": (128, 128), "intensity": ((100, 100),), "density": (0.002, 0.002), "rho": ((0, 0),)}
    still = analytic.uniform(0, 0).sample((128, 128))
    for made in (Sheet(width_px=10), Sheet(width_px=10, shape=3), Sheet(width_px=10, profile="synpivimage")):
        batch = Generator(ImageSpec(**look), made, Camera(bit_depth=None), seed=0).batch(still, range(32))
        peaks = batch.meta["snr"]
        assert peaks.is_infinite().all()
        z = np.linspace(-5, 5, 4001)
        mean = batch.images1.mean() / batch.meta["ppp_effective"].mean()
        spot = spots.energy([[0, 0, 1, 1, 0, 100.0]])[0] * np.mean(sheet.brightness(made, z))
        assert mean == pytest.approx(spot, rel=0.1)


def test_snr_is_peak_over_the_noise():
    camera = Camera(bit_depth=16, noise_sigma=3.0, dark_sigma=4.0)
    image = ImageSpec(shape=(64, 64), intensity=((100, 100),))
    meta = Generator(image, camera=camera, seed=0).batch(analytic.uniform(0, 0).sample((64, 64)), range(2)).meta
    assert meta["snr"].to_list() == pytest.approx([20, 20])


def test_parameters_tell_what_has_no_counterpart():
    lacking, extra = parameters.without_counterpart()
    assert "light sheet width" in lacking
    assert "hidden particles" in extra
    assert 0 < parameters.shared() < 1


def test_d1_and_d2_do_not_happen_here(tmp_path):
    import operators.synthpix.settings as module

    made = module.Settings.checked({"peers": False})
    rows = {row["case"]: row for row in bench_system._defects(made, tmp_path)}
    assert rows["D1"]["ours_value"] < 1e-4
    assert rows["D2"]["ours_value"] < 0.1  # 400 images of 64 px: the noise of a column is 2 %
    assert {row["status"] for row in rows.values()} == {"not measured"}


@pytest.mark.slow
@needs_synthpix
def test_d1_and_d2_are_seen_in_the_peer(tmp_path):
    import operators.synthpix.settings as module

    rows = {row["case"]: row for row in bench_system._defects(module.Settings.checked({}), tmp_path)}
    assert rows["D1"]["peer_value"] > 0.05
    assert rows["D2"]["peer_value"] > 0.3


@pytest.mark.slow
@needs_synthpix
def test_images_have_the_statistics_of_the_peers(tmp_path):
    """Point spots with sigma >= 0.75 px and margins: mean, deviation and width of the autocorrelation within 2 %."""
    from operators.synthpix import bench_rates, make
    from operators.synthpix.settings import Settings

    config = bench_rates.configuration(Settings().looks, 100, tmp_path)
    np.save(tmp_path / "flow_0.npy", np.zeros((320, 320, 2), np.float32))
    config |= {f"{end}_speed_{axis}": 12.0 if end == "max" else -12.0 for end in ("max", "min") for axis in "xy"}
    config |= {"flow_field_size": [320, 320], "img_offset": [32, 32], "noise_uniform": 0.0,
               "seeding_density_range": [0.035, 0.035]}  # fmt: skip
    with peers.peer("synthpix_rates.py", "synthpix") as peer:
        peer.ask(do="make", config=config)
        peer.ask(do="save", batches=2, to=str(tmp_path / "theirs.npz"))
    theirs = np.load(tmp_path / "theirs.npz")["images2"][:, 32:-32, 32:-32]
    sampler = make({**config, "margin": "config"})
    ours = np.concatenate([next(sampler).images2 for _ in range(2)])[:, 32:-32, 32:-32]
    assert ours.mean() == pytest.approx(theirs.mean(), rel=0.02)
    assert ours.var() == pytest.approx(theirs.var(), rel=0.02)
    width = [np.mean([twins.sigma_eff(image) for image in images[:50]]) for images in (ours, theirs)]
    assert width[0] == pytest.approx(width[1], rel=0.02)


@pytest.mark.slow
@needs_synpivimage
def test_a_spot_is_synpivimages_spot():
    """Pixel by pixel where synpivimage draws at all: it cuts its spots off nearer to the centre."""
    with peers.peer("synpivimage_rates.py", "synpivimage") as peer:
        for fill in (1.0, 0.7):
            for y, x, diameter in ((15.0, 15.0, 3.0), (14.3, 15.8, 2.2)):
                answer = peer.ask(do="spot", y=y, x=x, diameter=diameter, size=31, fill=fill)
                theirs, s = np.array(answer["image"]), diameter / 4
                ours = spots.add([[y, x, s, s, 0, 1.0]], (31, 31), fill=(fill, fill), cut=6.0).astype(float)
                drawn = theirs > 0
                assert drawn.sum() >= 9
                assert np.abs(theirs - ours)[drawn].max() < 1e-6


@needs_openpiv
@pytest.mark.slow
@pytest.mark.parametrize(
    ("flow", "bias", "rms"),
    [
        (analytic.uniform(0.25, 0.1), 0.02, 0.02),
        (analytic.uniform(3.3, -1.7), 0.02, 0.02),
        (analytic.sine(2.0, 128.0), 1, 0.09),
    ],
)
def test_openpiv_anchors(flow, bias, rms):
    image = ImageSpec(shape=(256, 256), **quality.PIV_LOOK)
    batch = Generator(image, flow=FlowSpec(label_at="mid", integrator="rk4"), seed=1).batch(
        flow.sample((256, 256)), range(4)
    )
    table = evaluate(batch, "openpiv", (64, 32, 16))
    assert abs(table["bias_u"].mean()) < bias
    assert abs(table["bias_v"].mean()) < bias
    assert (table["rms"] ** 2).mean() ** 0.5 < rms


@needs_openpiv
@pytest.mark.slow
def test_openpiv_regression_on_the_second_order_term():
    slopes = pl.concat([pl.DataFrame(quality.second_order("openpiv", seed, pairs=4)) for seed in range(2)])
    mean = dict(slopes.group_by("label_at").agg(pl.col("slope_second_order").mean()).iter_rows())
    assert -1.15 < mean["start"] < -0.85
    assert -0.15 < mean["mid"] < 0.15


def test_a_missing_peer_is_a_row_not_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("PG_PEERS_SYNTHPIX_PYTHON", str(tmp_path / "none"))
    with pytest.raises(peers.PeerError, match=r"no peers' interpreter"):
        piv.analyse([], method="openpiv", windows=(32,))
    row = peers.row(bench="wall", case="a", ours="ours", peer="b", unit="s", ours_samples=[1.0], reason="missing")
    assert row["status"] == "not measured"
    assert row["ours_value"] == 1.0
    assert json.dumps(row["ratio"]) == "null"
    both = peers.row(bench="wall", case="a", ours="ours", peer="b", unit="1/s", ours_samples=[4.0, 6.0, 9.0],
                     peer_samples=[2.0, 2.0, 3.0])  # fmt: skip
    assert (both["ratio"], both["ratio_low"], both["ratio_high"], both["n"]) == (3.0, 2.0, 3.0, 3)
