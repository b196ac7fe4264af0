"""SynthPix YAML accepted unchanged; bad values and keys named; whole configurations by hypothesis."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.synthpix import (
    Camera,
    ConfigError,
    Flow,
    FlowSpec,
    Generator,
    ImageSpec,
    MemorySource,
    Sheet,
    analytic,
    config,
    make,
    matching,
)
from operators.synthpix.generator import META
from tests.synthpix.configurations import JASSAL, configuration, same, small_flow


def test_yaml_of_release_0_1_1_is_accepted_unchanged(tmp_path):
    configuration(tmp_path)
    path = tmp_path / "jassal.yaml"
    path.write_text(JASSAL.replace("FILES", f"[{tmp_path}]"))
    with make(str(path)) as sampler:
        batch = next(sampler)
    assert batch.images1.shape == batch.images2.shape == (4, 64, 64)
    assert batch.images1.dtype == np.float32
    assert batch.flow_fields.shape == (4, 64, 64, 2)
    assert (batch.flow_fields[2] == small_flow(0).values).all()
    assert batch.params.seeding_densities.shape == (4,)
    assert batch.params.diameter_ranges.tolist() == [[1.5, 2.5]] * 4
    assert batch.mask.tolist() == [True, True]
    assert [f.rpartition("/")[2] for f in batch.files] == ["flow_0.npy", "flow_1.npy"]
    assert batch.done is None
    assert tuple(batch.meta.columns) == META


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diameter_ranges": [[0, 1]]}, r"diameter_ranges\[0\]: \(0.0, 1.0\); must satisfy 0 < min <= max"),
        ({"rho_ranges": [[-1, 0]]}, r"rho_ranges\[0\]: \(-1.0, 0.0\); must satisfy -1 < min <= max < 1"),
        ({"intensity_ranges": [[5, 3]]}, r"intensity_ranges\[0\]: \(5.0, 3.0\)"),
        ({"p_hide_img1": 1.2}, r"p_hide_img1: 1.2; must satisfy 0 <= p <= 1"),
        ({"dt": 0}, r"dt: 0; must satisfy > 0"),
        ({"seeding_density_range": [0.2, 0.1]}, r"seeding_density_range: \(0.2, 0.1\); must satisfy 0 <= min <= max"),
        ({"max_speed_x": -1, "min_speed_x": 0}, r"max_speed_x: -1; must satisfy >= min_speed_x"),
        ({"flow_fields_per_batch": 9}, r"flow_fields_per_batch: 9; must satisfy <= batch_size \(4\)"),
        ({"noise_gaussian_std": -1}, r"noise_gaussian_std: -1; must satisfy >= 0"),
        ({"diameter_var": -0.1}, "diameter_var: -0.1"),
        ({"scheduler_class": ".csv"}, "scheduler_class: '.csv'; must satisfy one of .h5, .mat, .npy, .flo"),
        ({"output_units": "px"}, "output_units: 'px'"),
        ({"batch_size": 0}, "batch_size: 0; must satisfy a positive integer"),
        ({"noise_level": 0.1}, "noise_level: 0.1; a key of revisions before 0.1; the present key is 'noise_uniform'"),
        ({"diameter_range": [1, 2]}, "the present key is 'diameter_ranges'"),
        ({"scheduler_files": []}, "the present key is 'file_list'"),
        ({"imgae_shape": [3, 3]}, "imgae_shape: .*unknown key; did you mean 'image_shape'?"),
        ({"include_images": True}, "include_images: '.npy'; stored images are read from .mat only"),
        ({"episode_length": 99}, "episode_length: 99; .* has only 5 flows"),
        ({"image_shape": [64, 0]}, r"image_shape: \(64, 0\); must satisfy two positive integers"),
        ({"margin": "config", "max_speed_x": 3.0}, r"img_offset: \(0.0, 0.0\); the image is too close to the field's"),
        ({"margin": "config", "min_speed_x": -3.0}, r"flow_field_size: .*at least \(64.0, 67.0\)"),
        ({"mask": "none.npy"}, "mask: 'none.npy'; must satisfy the path of a .npy file"),
        ({"sheet": {"width": 3}}, "sheet.width: unknown key"),
        ({"camera": {"bit_depth": 9}}, "camera.bit_depth: 9"),
        ({"loop": 1}, "loop: 1; must satisfy true or false"),
    ],
)
def test_bad_values_are_named(change, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        next(make(configuration(tmp_path, **change)))


def test_missing_keys_and_files_are_named(tmp_path):
    given = configuration(tmp_path)
    del given["rho_var"]
    with pytest.raises(ConfigError, match=r"rho_var: missing"):
        make(given)
    with pytest.raises(ConfigError, match=r"config: .*; no such file"):
        make(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"config: 3; expected the path"):
        config.load(3)


def test_masks_and_histograms_are_checked():
    shape = (8, 8)
    for mask in (np.ones((8, 9)), np.full(shape, 2)):
        with pytest.raises(ConfigError, match=r"mask"):
            ImageSpec(shape=shape, mask=mask)
    for histogram in (np.ones(255), np.ones(256)):
        with pytest.raises(ConfigError, match=r"histogram"):
            ImageSpec(shape=shape, histogram=histogram)


def test_three_components_need_a_sheet_and_the_reverse():
    deep = Flow(np.zeros((16, 16, 3)))
    with pytest.raises(ConfigError, match=r"flow: .*three components need a sheet"):
        Generator(ImageSpec(shape=(16, 16)), seed=0).pair(deep, 0)
    with pytest.raises(ConfigError, match=r"sheet.out_of_plane: .*needs a flow of three components"):
        Generator(ImageSpec(shape=(16, 16)), Sheet(width_px=4, out_of_plane="flow"), seed=0).pair(small_flow(), 0)
    moved = np.zeros((64, 64, 3))
    moved[..., 2] = 2.0
    sheet = Sheet(width_px=8, out_of_plane="flow")
    got = Generator(ImageSpec(shape=(64, 64)), sheet, seed=0).pair(Flow(moved), 0)
    constant = Sheet(width_px=8, out_of_plane=2.0)
    wanted = Generator(ImageSpec(shape=(64, 64)), constant, seed=0).pair(Flow(moved[..., :2]), 0)
    assert same(got.image2, wanted.image2)


def test_density_zero_hiding_all_and_one_pixel_work():
    still = analytic.uniform(1, 0).sample((16, 16))
    assert not Generator(ImageSpec(shape=(16, 16), density=(0, 0)), seed=0).pair(still, 0).image1.any()
    hidden = Generator(ImageSpec(shape=(16, 16), p_hide=(1, 0)), seed=0).pair(still, 0)
    assert not hidden.image1.any()
    assert hidden.image2.any()
    assert Generator(ImageSpec(shape=(1, 1)), seed=0).pair(still, 0).image1.shape == (1, 1)


def test_histogram_matching_gives_the_histogram():
    rng = np.random.default_rng(0)
    image = rng.permutation(np.arange(4096) % 256).reshape(64, 64).astype(np.float32)
    wanted = np.bincount(rng.integers(40, 90, 4096), minlength=256)
    got = np.bincount(matching.matched(image, wanted).astype(int).ravel(), minlength=256)
    assert np.abs(np.cumsum(got) - np.cumsum(wanted)).max() <= 2 * 4096 / 256
    spec = ImageSpec(shape=(64, 64), histogram=wanted, density=(0.3, 0.3))
    pair = Generator(spec, seed=0).pair(small_flow(), 0)
    assert 40 <= np.median(pair.image1) < 90


def test_out_arrays_are_written_and_checked():
    generator = Generator(ImageSpec(shape=(64, 64)), seed=0)
    out = (np.empty((2, 64, 64), np.uint8), np.empty((2, 64, 64), np.uint8), np.empty((2, 64, 64, 2), np.float32))
    assert generator.batch(small_flow(), [3, 4], out).images1 is out[0]
    assert same(out[0][1], generator.pair(small_flow(), 4).image1)
    with pytest.raises(ConfigError, match=r"out.images2"):
        generator.batch(small_flow(), [3, 4], (out[0], out[1][:1], out[2]))


def test_diameter_conventions_differ_by_two():
    four = ImageSpec(shape=(64, 64), diameter=((4, 4),), diameter_convention="4sigma")
    two = ImageSpec(shape=(64, 64), diameter=((2, 2),))
    assert same(*(Generator(s, seed=0).pair(small_flow(), 0).image1 for s in (four, two)))


ranges = st.tuples(st.floats(0.1, 6), st.floats(0, 3)).map(lambda p: (p[0], p[0] + p[1]))
images = st.builds(
    ImageSpec,
    shape=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    density=st.tuples(st.floats(0, 0.05), st.floats(0, 0.1)).map(lambda p: (p[0], p[0] + p[1])),
    diameter=st.lists(ranges, min_size=1, max_size=3).map(tuple),
    rho=st.tuples(st.floats(-0.99, 0.0), st.floats(0.0, 0.99)).map(lambda p: (p,)),
    diameter_var=st.floats(0, 1),
    rho_var=st.floats(0, 1),
    p_hide=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    psf=st.sampled_from(["point", "integrated"]),
    fill=st.tuples(st.floats(0.2, 1), st.floats(0.2, 1)),
    cut=st.floats(1, 6),
)
sheets = st.one_of(
    st.just(Sheet()),
    st.builds(Sheet, width_px=st.floats(1, 20), shape=st.integers(0, 200), out_of_plane=st.floats(-5, 5),
              profile=st.sampled_from(["e2", "synpivimage"])),
)  # fmt: skip
cameras = st.builds(Camera, bit_depth=st.sampled_from([None, 8, 10, 12, 16]), qe=st.floats(0.1, 1),
                    gain=st.floats(0.1, 3), baseline=st.floats(0, 50), dark_sigma=st.floats(0, 9),
                    shot_noise=st.booleans(), noise_uniform=st.floats(0, 9))  # fmt: skip
flow_specs = st.builds(FlowSpec, grid=st.sampled_from(["origin", "cell"]), integrator=st.sampled_from(["euler", "rk4"]),
                       label_at=st.sampled_from(["start", "mid", "end"]), velocities_per_pixel=st.floats(1.0, 1.5),
                       resolution=st.floats(0.5, 2))  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(image=images, sheet=sheets, camera=cameras, spec=flow_specs, seed=st.integers(0, 2**64 - 1))
def test_every_configuration_keeps_its_promises(image, sheet, camera, spec, seed):
    batch = Generator(image, sheet, camera, spec, seed=seed).batch(small_flow(), [0, 2**40])
    highest = 255 if camera.bit_depth is None else 2**camera.bit_depth - 1
    for images in (batch.images1, batch.images2):
        assert images.shape == (2, *image.shape)
        assert images.dtype == camera.dtype
        assert images.min() >= 0
        assert images.max() <= highest
        assert np.isfinite(images).all()
    rows, columns = (int(n * spec.velocities_per_pixel) for n in image.shape)
    assert batch.flow.shape == (2, rows, columns, 2)
    assert np.isnan(batch.flow).sum() == 2 * batch.meta["label_failed"].sum()
    low, high = image.density
    assert batch.meta["density"].is_between(low - 1e-9, high + 1e-9).all()
    assert batch.meta["loss_of_pair"].is_between(0, 1).all()
    assert (batch.meta["visible_1"] <= batch.meta["n_particles"]).all()
    assert batch.meta.filter(pl.col("grey_mean_1") > highest).is_empty()


def test_importing_is_light_and_the_one_liner_works(tmp_path):
    configuration(tmp_path)
    (tmp_path / "jassal.yaml").write_text(JASSAL.replace("FILES", f"[{tmp_path}]"))
    check = (
        "import sys, operators.synthpix\n"
        "heavy = {'ray', 'jax', 'openpiv', 'matplotlib', 'scipy', 'h5py', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from operators.synthpix import make; s = make('jassal.yaml'); b = next(s); print(b.images1.shape)"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(4, 64, 64)" in done.stdout


def test_a_source_in_memory_may_replace_the_files(tmp_path):
    given = configuration(tmp_path, file_list=[])
    assert next(make(given, source=MemorySource([small_flow()]))).images1.any()
