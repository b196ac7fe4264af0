"""The kernels: native against numba (same bytes), both against plain references, Philox against known answers."""

import itertools

import numpy as np
import pytest

from operators.synthpix import Camera, FlowSpec, Generator, ImageSpec, Sheet, analytic, geometry, kernel, rng, spots
from tests.synthpix.configurations import same, small_flow

try:
    kernel.core("native")
    BUILT = True
except ValueError:
    BUILT = False
needs_native = pytest.mark.skipif(
    not BUILT, reason="the native core is not built; numba stands in and has no twin here"
)

# Known answers of philox4x32-10 from the Random123 distribution (kat_vectors).
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]  # fmt: skip
SETTINGS = {
    "jassal": (ImageSpec(shape=(40, 72), psf="point", diameter_var=0.03, intensity_var=0.01, rho_var=0.1), Sheet(),
               Camera(bit_depth=None, noise_uniform=0.001)),
    "integrated": (ImageSpec(shape=(33, 50), diameter=((1.5, 4), (0.3, 1))), Sheet(), Camera()),
    "round": (ImageSpec(shape=(33, 50), rho=((0, 0),), fill=(0.7, 0.9), p_hide=(0.1, 0.2)), Sheet(),
              Camera(bit_depth=12)),
    "leaning": (ImageSpec(shape=(64, 64), rho=((-0.99, 0.99),), diameter=((0.1, 1.0),), psf="point"), Sheet(),
                Camera()),
    "physics": (ImageSpec(shape=(48, 65)), Sheet(width_px=8, shape=3, out_of_plane=1.0, profile="synpivimage"),
                Camera(bit_depth=10, qe=0.6, gain=2, baseline=20, dark_sigma=3, shot_noise=True, noise_mean=1)),
    "tiny": (ImageSpec(shape=(1, 1), density=(0.5, 0.5)), Sheet(), Camera(bit_depth=16)),
}  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, words):
    assert rng.philox(np.array([counter]), np.array(key))[0].tolist() == words


@pytest.mark.parametrize("name", ["numba", pytest.param("native", marks=needs_native)])
def test_the_cores_draw_the_reference_words(name):
    out = np.zeros((37, 4), np.uint32)
    key = rng.key_of(2**40 + 7, 3)
    kernel.core(name).words(*key, 5, 2**33 + 1, 11, out)
    assert (out == rng.words(key, 5, 2**33 + 1, 11, 37)).all()


@needs_native
@pytest.mark.parametrize("name", SETTINGS)
def test_native_and_numba_give_the_same_bytes(name):
    image, sheet, camera = SETTINGS[name]
    spec = FlowSpec(integrator="rk4", label_at="mid", substeps=3)
    flow = small_flow()
    made = [Generator(image, sheet, camera, spec, seed=9, backend=b).batch(flow, range(3)) for b in ("native", "numba")]
    assert same(made[0].images1, made[1].images1)
    assert same(made[0].images2, made[1].images2)
    assert same(made[0].flow, made[1].flow)
    assert made[0].meta.equals(made[1].meta)


@needs_native
def test_masks_and_displacements_agree_too():
    mask = np.tri(40, 56, 3, dtype=np.uint8)
    batches = [Generator(ImageSpec(shape=(40, 56), mask=mask), seed=1, backend=b).batch(small_flow(), range(2))
               for b in ("native", "numba")]  # fmt: skip
    assert same(batches[0].images1, batches[1].images1)
    assert batches[0].meta.equals(batches[1].meta)
    assert not batches[0].images1[:, mask == 0].any()
    assert batches[0].images1[:, mask == 1].any()
    points = np.random.default_rng(0).uniform(-10, 80, (2, 50))
    out = [np.empty((50, 2)) for _ in range(2)]
    for core, array in zip(("native", "numba"), out, strict=True):
        kernel.core(core).displace(small_flow().values, np.array([0.9, 0.1, 1.1, -0.5, 1.3, 4.0]), *points, array)
    assert same(*out)


@pytest.mark.parametrize("core", ["numba", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize(
    ("psf", "rho"), list(itertools.product(("point", "integrated"), (0.0, 0.05, -0.4, 0.8, -0.95)))
)
def test_spots_are_within_1e_4_of_the_plain_reference(core, psf, rho):
    draw = np.random.default_rng([7, int(100 * abs(rho))])
    for s in (0.1, 0.25, 0.4, 0.6, 0.75, 1.0, 1.6, 3.0):
        # Correlated spots wider than 0.65 px take 2 x 2 points a pixel: that is part of their definition.
        narrow = s * np.sqrt(1 - rho**2)
        spot = np.array([[*draw.uniform(18, 22, 2), s, s * 1.2, rho, 200.0]])
        got = spots.add(spot, (41, 41), psf=psf, core=kernel.core(core))
        exact = np.abs(got - spots.reference(spot, (41, 41), psf=psf)).max() / 200
        if psf == "integrated" and rho != 0 and narrow >= 0.65:
            by_rule = np.abs(got - spots.reference(spot, (41, 41), psf=psf, nodes=2)).max() / 200
            assert min(by_rule, exact) < 1e-4
            assert exact < 5e-3
        else:
            assert exact < 1e-4


def test_spots_are_cut_at_the_border_and_centres_never_move():
    at_edge = np.array(
        [[0.2, 63.7, 1.0, 1.0, 0.0, 100.0], [-2.0, 10.0, 1.0, 1.0, 0.1, 100.0], [-9.0, 5, 1, 1, 0, 100.0]]
    )
    big = spots.add(at_edge + np.array([20, 20, 0, 0, 0, 0]), (104, 104))
    assert np.abs(spots.add(at_edge, (64, 64)) - big[20:84, 20:84]).max() < 2e-4


def test_a_spot_is_scipys_error_function():
    from scipy.special import erf

    y, x, sy, sx = 10.3, 9.8, 0.7, 1.3
    grid = np.arange(21)

    def steps(centre, sigma, fill):
        return [erf((g - centre + e * fill / 2) / (np.sqrt(2) * sigma)) for e in (1, -1) for g in [grid]]

    (a, b), (c, d) = steps(y, sy, 0.8), steps(x, sx, 0.6)
    wanted = np.pi / 2 * 100 * sy * sx * np.outer(a - b, c - d)
    got = spots.add([[y, x, sy, sx, 0, 100.0]], (21, 21), fill=(0.8, 0.6), cut=6.0)
    assert np.abs(got - wanted).max() < 1e-4 * 100


def test_displacement_is_the_bilinear_interpolation_of_scipy():
    from scipy.ndimage import map_coordinates

    values = np.random.default_rng(1).normal(size=(20, 30, 2)).astype(np.float32)
    flow = geometry.Flow(values)
    y, x = np.random.default_rng(2).uniform(-3, 70, (2, 200))
    spec = FlowSpec(size=(40.0, 60.0), offset=(1.0, 2.0))
    dy, dx = geometry.displacement(flow, y, x, spec=spec, shape=(64, 64))
    node = np.stack([np.clip((y + 1) * 20 / 40, 0, 19), np.clip((x + 2) * 30 / 60, 0, 29)])
    for k, got in ((1, dy), (0, dx)):
        assert got == pytest.approx(map_coordinates(values[..., k].astype(float), node, order=1), abs=1e-6)


def test_runge_kutta_follows_a_rotation_and_euler_does_not():
    omega, centre = 0.05, 64.0
    flow = analytic.rotation(omega, centre, centre).sample((128, 128))
    y, x = np.array([80.0]), np.array([90.0])
    cos, sin = np.cos(omega), np.sin(omega)
    true = (16 * cos + 26 * sin - 16, 26 * cos - 16 * sin - 26)
    for spec, close in ((FlowSpec(integrator="rk4"), 1e-5), (FlowSpec(), 0.1)):
        dy, dx = geometry.displacement(flow, y, x, spec=spec, shape=(128, 128))
        error = abs(dy[0] - true[0]) + abs(dx[0] - true[1])
        assert error < close
    assert error > 1e-3


def test_labels_that_fold_are_nan_and_counted():
    values = np.zeros((64, 64, 2), np.float32)
    values[..., 0] = 30 * np.sin(np.arange(64) * 1.5)
    made = Generator(ImageSpec(shape=(64, 64)), flow=FlowSpec(label_at="end"), seed=0).pair(geometry.Flow(values), 0)
    assert 0 < made.meta["label_failed"] == np.isnan(made.flow[..., 0]).sum()
    assert np.isnan(made.flow[..., 1]).sum() == made.meta["label_failed"]


def test_an_unknown_core_is_named():
    with pytest.raises(ValueError, match=r"backend: 'cuda'; expected one of native, numba, jax"):
        kernel.core("cuda")
