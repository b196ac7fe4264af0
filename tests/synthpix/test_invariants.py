"""The eight invariants of the specification, section 9."""

import hashlib
import json

import numpy as np
import pytest

from operators.synthpix import (
    Camera,
    FlowSpec,
    Generator,
    ImageSpec,
    MemorySource,
    Sampler,
    Sheet,
    analytic,
    make,
    quality,
    sheet,
    spots,
)
from tests.synthpix.configurations import configuration, same, small_flow

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(("rho", "tolerance"), [(0.0, 1e-3), (0.3, 3e-3), (-0.6, 3e-3), (0.9, 3e-3)])
def test_invariant_1_the_sum_of_an_image_is_the_energy_of_its_spots(rho, tolerance):
    table = np.stack([RNG.uniform(30, 70, 60), RNG.uniform(30, 70, 60), RNG.uniform(0.3, 2.5, 60),
                      RNG.uniform(0.3, 2.5, 60), np.full(60, rho), RNG.uniform(50, 250, 60)], axis=1)  # fmt: skip
    image = spots.add(table, (100, 100)).astype(np.float64)
    assert image.sum() == pytest.approx(spots.energy(table).sum(), rel=tolerance)


def test_invariant_2_brightness_is_flat_to_the_border_in_both_images():
    rows, profiles = quality.border(200, seed=4)
    assert {row["label_at"] for row in rows} == set(profiles)
    assert max(row["border_flatness"] for row in rows) < 0.05


def test_invariant_3_without_flow_change_hiding_and_noise_both_images_are_equal():
    batch = Generator(ImageSpec(shape=(48, 80)), seed=1).batch(analytic.uniform(0, 0).sample((48, 80)), range(4))
    assert batch.images1.any()
    assert same(batch.images1, batch.images2)


@pytest.mark.parametrize(("name", "flow", "spec", "shape"), list(quality.registration_cases()), ids=lambda v: v if
                         isinstance(v, str) else "")  # fmt: skip
def test_invariant_4_the_label_is_the_particles_displacement(name, flow, spec, shape):
    assert quality.registration_error(flow, spec, shape) < 1e-4


def test_invariant_4_is_true_of_rendered_particles_too():
    """A lone spot is found where the label says, on a flow of 16 nodes over 64 px (defect D1)."""
    values = np.zeros((16, 16, 2), np.float32)
    values[..., 0] = np.arange(16) / 2
    pair = Generator(
        ImageSpec(shape=(64, 64), density=(0.0003, 0.0003), diameter=((3, 3),), rho=((0, 0),), margin="config"),
        camera=Camera(bit_depth=None), flow=FlowSpec(), seed=11,
    )  # fmt: skip
    label = pair.label(analytic.Flow(values))
    assert label[5, [16, 32, 48], 0] == pytest.approx([2, 4, 6])
    found = 0
    for index in range(40):
        made = pair.pair(analytic.Flow(values), index)
        if made.meta["visible_1"] != 1 or made.meta["visible_2"] != 1:
            continue
        (y, x), (y2, x2) = centroid(made.image1), centroid(made.image2)
        if 8 < y < 55 and 8 < x < 40:
            found += 1
            assert (x2 - x, y2 - y) == pytest.approx((x / 8, 0), abs=2e-3)
    assert found > 3


def centroid(image):
    y, x = np.indices(image.shape)
    return (image * y).sum() / image.sum(), (image * x).sum() / image.sum()


def hashes(images) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


@pytest.mark.parametrize("split", [1, 5, 32])
def test_invariant_5_batches_are_the_pairs_one_by_one_for_any_split_order_and_threads(split):
    flow = small_flow()
    camera = Camera(shot_noise=True, noise_sigma=1.0, noise_uniform=2.0)
    generator = Generator(ImageSpec(shape=(64, 64), diameter_var=0.1), camera=camera, seed=5)
    single = [generator.pair(flow, i) for i in range(32)]
    wanted = hashes([p.image2 for p in single])
    threaded = Generator(ImageSpec(shape=(64, 64), diameter_var=0.1), camera=camera, seed=5, threads=3)
    for maker in (generator, threaded):
        for order in (1, -1):
            indices = list(range(32))[::order]
            parts = [maker.batch(flow, indices[k : k + split]) for k in range(0, 32, split)]
            assert hashes(np.concatenate([p.images2 for p in parts])) == wanted[::order]
    other = Generator(ImageSpec(shape=(64, 64), diameter_var=0.1), camera=camera, seed=6).batch(flow, range(4))
    assert not set(hashes(other.images2)) & set(wanted)
    later = Generator(ImageSpec(shape=(64, 64), diameter_var=0.1), camera=camera, seed=5, epoch=1).batch(flow, range(4))
    assert not set(hashes(later.images2)) & set(wanted)


@pytest.mark.parametrize("changes", [{}, {"buffer_size": 2}, {"randomize": True, "buffer_size": 3}, {"loop": False}])
def test_invariant_5_a_sampler_goes_on_from_its_state_with_the_same_bytes(changes, tmp_path):
    config = configuration(tmp_path, **changes)
    with make(config) as sampler:
        batches = [next(sampler) for _ in range(9)]
    for stop in (0, 1, 3, 5):
        with make(config) as first:
            for _ in range(stop):
                next(first)
            state = json.loads(json.dumps(first.state()))
        with Sampler.from_state(state) as again:
            for wanted in batches[stop:]:
                got = next(again)
                assert same(got.images1, wanted.images1)
                assert same(got.images2, wanted.images2)
                assert got.files == wanted.files


def test_invariant_6_noise_has_the_mean_and_variance_asked_for_and_never_wraps():
    n = 8 * 128 * 128
    still = analytic.uniform(0, 0).sample((128, 128))
    dark = ImageSpec(shape=(128, 128), density=(0.0, 0.0))

    def counts(**camera):
        batch = Generator(dark, camera=Camera(**camera), seed=2).batch(still, range(4))
        return np.concatenate([batch.images1, batch.images2]).astype(np.float64)

    normal = counts(bit_depth=None, baseline=100.0, noise_sigma=4.0, dark_sigma=3.0)
    assert normal.mean() == pytest.approx(100, abs=3 * 5 / n**0.5)
    assert normal.var() == pytest.approx(25, rel=3 * (2 / n) ** 0.5)
    uniform = counts(bit_depth=None, noise_uniform=6.0, noise_mean=1.0)
    assert uniform.mean() == pytest.approx(4, abs=3 * (3 / n) ** 0.5)
    assert uniform.var() == pytest.approx(3, rel=0.01)
    bright = ImageSpec(shape=(128, 128), density=(0.4, 0.4), diameter=((4, 4),), intensity=((250, 250),))
    batch = Generator(bright, camera=Camera(bit_depth=None), seed=2).batch(still, range(2))
    clipped = Generator(bright, camera=Camera(bit_depth=8), seed=2).batch(still, range(2))
    assert (clipped.images1 == 255).sum() > 1000
    assert (np.rint(batch.images1) == clipped.images1).all()
    above = Generator(bright, camera=Camera(bit_depth=16), seed=2).batch(still, range(2)).images1 > 255
    assert clipped.meta["saturated_1"].to_list() == above.sum(axis=(1, 2)).tolist()


@pytest.mark.parametrize("light", [0.02, 0.5, 3.0, 9.0, 11.0, 40.0, 230.0])
def test_invariant_6_shot_noise_has_variance_and_mean_of_the_light(light):
    from operators.synthpix import kernel, rng

    n = 512
    parameters = np.zeros(len(kernel.PARAMETERS))
    for name, value in {"bits": 16, "qe": 1, "gain": 1, "shot_noise": 1}.items():
        parameters[kernel.PARAMETERS.index(name)] = value
    out, stats = np.zeros((n, n), np.uint16), np.zeros(2)
    kernel.core().expose(np.full((n, n), light, np.float32), parameters, *rng.key_of(1, 0), 3, 0, out, stats)
    counts = out.astype(np.float64)
    assert counts.mean() == pytest.approx(light, abs=4 * (light / n**2) ** 0.5)
    # variance of a Poisson sample's variance: (mu + 2 mu^2) / n
    assert counts.var() == pytest.approx(light, abs=4 * ((light + 2 * light**2) / n**2) ** 0.5)
    from scipy.special import gammaln

    k = np.arange(counts.max() + 1)
    chance = np.exp(k * np.log(light) - light - gammaln(k + 1))
    apart = 0.5 * np.abs(np.bincount(out.ravel(), minlength=len(k)) / n**2 - chance).sum()
    assert apart < 3 * (len(chance[chance > 1e-6]) / n**2) ** 0.5


@pytest.mark.parametrize("dz", [0.0, 1.5, -4.0, 12.0])
def test_invariant_7_loss_of_pairs_is_the_formula_and_ppp_is_what_is_seen(dz):
    light = Sheet(width_px=10.0, out_of_plane=dz)
    image = ImageSpec(shape=(128, 128), density=(0.05, 0.05))
    meta = Generator(image, light, seed=3).batch(analytic.uniform(0.5, 0.2).sample((128, 128)), range(8)).meta
    seen = meta["visible_1"].sum()
    expected = sheet.expected_loss(light, dz)
    lost = (meta["loss_of_pair"] * meta["visible_1"]).sum()
    assert lost / seen == pytest.approx(expected, abs=3 * (expected * (1 - expected) / seen) ** 0.5 + 1e-12)
    assert (meta["ppp_effective"] * 128**2).to_list() == pytest.approx(meta["visible_1"].to_list())
    assert meta["ppp_effective"].mean() == pytest.approx(0.05, abs=3 * (0.05 / (8 * 128**2)) ** 0.5 + 1e-4)


def test_invariant_8_energy_does_not_depend_on_subpixel_position_unless_point_sampled():
    def energies(psf):
        shift = np.linspace(-0.5, 0.49, 23)
        return np.array([spots.add([[20 + s, 20 + s, 0.25, 0.25, 0, 200.0]], (41, 41), psf=psf).sum() for s in shift])

    integrated, point = energies("integrated"), energies("point")
    assert np.ptp(integrated) / integrated.mean() < 1e-3
    assert np.ptp(point) / point.mean() > 0.5  # defect D4


def test_flows_in_memory_serve_a_sampler(tmp_path):
    config = configuration(tmp_path)
    source = MemorySource([small_flow(t) for t in range(5)])
    assert same(next(make(config, source=source)).images1, next(make(config)).images1)
