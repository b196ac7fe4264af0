"""SynthPix's YAML of release 0.1.1, accepted unchanged, and our own keys beside it.

`parse` turns a mapping into the four specs and the options of source and sampler. Keys of revisions before 0.1 are
refused with the present name. With SynthPix's keys alone the images are SynthPix's (`psf: point`, `bit_depth: none`,
start label, Euler step), but for its defects: no clipped centres, no misregistered label, all work by need. Our keys
(OURS) are optional.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from operators.synthpix import geometry
from operators.synthpix.errors import ConfigError
from operators.synthpix.specs import Camera, FlowSpec, ImageSpec, Sheet, demand, is_number, pair_of_numbers

REQUIRED = ("scheduler_class", "batch_size", "flow_fields_per_batch")
REQUIRED_TO_RENDER = (
    *("batches_per_flow_batch", "image_shape", "dt", "seeding_density_range", "p_hide_img1", "p_hide_img2"),
    *("diameter_ranges", "diameter_var", "intensity_ranges", "intensity_var", "rho_ranges", "rho_var"),
    *("noise_uniform", "noise_gaussian_mean", "noise_gaussian_std", "velocities_per_pixel", "resolution"),
    *("flow_field_size", "img_offset", "min_speed_x", "min_speed_y", "max_speed_x", "max_speed_y", "output_units"),
)
OPTIONAL = {
    "seed": 0, "file_list": (), "loop": True, "randomize": False, "include_images": False, "buffer_size": 0,
    "episode_length": 0, "device_ids": None, "mask": None, "histogram": None,
}  # fmt: skip
OURS = {
    "epoch": 0, "psf": "point", "fill": (1.0, 1.0), "cut": 4.0, "margin": "auto", "diameter_convention": "2sigma",
    "integrator": "euler", "substeps": 4, "label_at": "start", "grid": "origin", "sheet": None, "camera": None,
    "on_bad_file": "raise", "startup_timeout_s": 30.0, "steady_timeout_s": 2.0, "on_timeout": "raise", "threads": 1,
    "backend": None,
}  # fmt: skip
RENAMED = {
    "diameter_range": "diameter_ranges", "intensity_range": "intensity_ranges", "rho_range": "rho_ranges",
    "scheduler_files": "file_list", "files": "file_list", "noise_level": "noise_uniform",
    "seeding_density": "seeding_density_range", "images_per_field": "batches_per_flow_batch",
    "num_images": "batch_size", "position_bounds": "flow_field_size", "flow_fields_per_episode": "episode_length",
}  # fmt: skip
KINDS = (".h5", ".mat", ".npy", ".flo", ".parquet")


@dataclass(frozen=True)
class Parsed:
    """A configuration in our terms; `source` and `sampler` are keyword options."""

    image: ImageSpec
    sheet: Sheet
    camera: Camera
    flow: FlowSpec
    seed: int
    epoch: int
    source: dict[str, Any]
    sampler: dict[str, Any]
    given: dict[str, Any] = field(repr=False)


def load(config: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The mapping of a YAML file or a mapping. Raises ConfigError where there is none."""
    if isinstance(config, Mapping):
        return dict(config)
    if not isinstance(config, (str, Path)):
        raise ConfigError("config", "expected the path of a YAML file or a mapping", config)
    path = Path(config)
    if not path.is_file():
        raise ConfigError("config", "no such file", str(path))
    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError("config", f"{path}: not YAML: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError("config", f"{path}: holds {type(found).__name__}; expected a mapping")
    return found


def parse(config: Mapping[str, Any]) -> Parsed:
    """Check every key and value. Raises ConfigError naming key and value."""
    given = dict(config)
    _check_keys(given)
    real = _flag(given, "include_images", False)
    lacking = [k for k in (REQUIRED if real else REQUIRED + REQUIRED_TO_RENDER) if k not in given]
    if lacking:
        raise ConfigError(lacking[0], "missing; a configuration needs " + ", ".join(REQUIRED + REQUIRED_TO_RENDER))
    value = {**OPTIONAL, **OURS, **given}
    for key in ("batch_size", "flow_fields_per_batch"):
        demand(_whole(value[key]) and value[key] > 0, key, value[key], "a positive integer")
    for key in ("seed", "epoch", "buffer_size", "episode_length"):
        demand(_whole(value[key]) and value[key] >= 0, key, value[key], "an integer >= 0")
    demand(value["scheduler_class"] in KINDS, "scheduler_class", value["scheduler_class"], f"one of {', '.join(KINDS)}")
    if real and value["scheduler_class"] != ".mat":
        raise ConfigError("include_images", "stored images are read from .mat only", value["scheduler_class"])
    few = value["flow_fields_per_batch"] <= value["batch_size"]
    demand(few, "flow_fields_per_batch", value["flow_fields_per_batch"], f"<= batch_size ({value['batch_size']})")
    per_flow = value.get("batches_per_flow_batch", 1)
    demand(_whole(per_flow) and per_flow > 0, "batches_per_flow_batch", per_flow, "a positive integer")
    image, flow, camera = (ImageSpec(), FlowSpec(), Camera(bit_depth=None)) if real else _specs(value)
    return Parsed(image, _made(Sheet, "sheet", value["sheet"]), camera, flow, value["seed"], value["epoch"],
                  _source(value, real), _sampler(value, real, per_flow), given)  # fmt: skip


def _check_keys(given: dict[str, Any]) -> None:
    known = [*REQUIRED, *REQUIRED_TO_RENDER, *OPTIONAL, *OURS]
    for key, value in given.items():
        if key in RENAMED:
            raise ConfigError(key, f"a key of revisions before 0.1; the present key is {RENAMED[key]!r}", value)
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise ConfigError(str(key), f"unknown key; did you mean {close[0]!r}?" if close else "unknown key", value)


def _flag(given: Mapping[str, Any], key: str, default: bool) -> bool:
    value = given.get(key, default)
    demand(isinstance(value, bool), key, value, "true or false")
    return value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _made(kind: type, key: str, value: Any) -> Any:
    """A spec of our own keys from a mapping."""
    if value is None:
        return kind()
    demand(isinstance(value, Mapping), key, value, "a mapping")
    unknown = set(value) - set(kind.__dataclass_fields__)
    if unknown:
        raise ConfigError(f"{key}.{sorted(unknown)[0]}", f"unknown key; known: {', '.join(kind.__dataclass_fields__)}")
    return kind(**value)


@dataclass
class _Renamed:
    """Error messages name SynthPix's keys, not ours."""

    names: dict[str, str]

    def call(self, kind: Callable[..., Any], **values: Any) -> Any:
        try:
            return kind(**values)
        except ConfigError as error:
            key, bracket, rest = error.key.partition("[")
            raise ConfigError(self.names.get(error.key, self.names.get(key, key) + bracket + rest), error.reason,
                              error.value) from None  # fmt: skip


def _specs(value: dict[str, Any]) -> tuple[ImageSpec, FlowSpec, Camera]:
    for key in ("dt", "resolution", "velocities_per_pixel"):
        demand(is_number(value[key]) and value[key] > 0, key, value[key], "> 0")
    for axis in "xy":
        low, high = value[f"min_speed_{axis}"], value[f"max_speed_{axis}"]
        demand(is_number(low), f"min_speed_{axis}", low, "a number")
        demand(is_number(high) and high >= low, f"max_speed_{axis}", high, f">= min_speed_{axis} ({low})")
    mask, histogram = (_array(key, value[key]) for key in ("mask", "histogram"))
    names = {"density": "seeding_density_range", "diameter": "diameter_ranges", "intensity": "intensity_ranges",
             "rho": "rho_ranges", "shape": "image_shape", "p_hide[0]": "p_hide_img1", "p_hide[1]": "p_hide_img2",
             "p_hide": "p_hide_img1", "offset": "img_offset", "size": "flow_field_size",
             "camera.noise_uniform": "noise_uniform", "noise_mean": "noise_gaussian_mean",
             "noise_sigma": "noise_gaussian_std"}  # fmt: skip
    rename = _Renamed(names)
    shape = value["image_shape"]
    image = rename.call(
        ImageSpec, shape=tuple(shape) if isinstance(shape, list) else shape, density=value["seeding_density_range"],
        diameter=value["diameter_ranges"], intensity=value["intensity_ranges"], rho=value["rho_ranges"],
        diameter_var=value["diameter_var"], intensity_var=value["intensity_var"], rho_var=value["rho_var"],
        p_hide=(value["p_hide_img1"], value["p_hide_img2"]), psf=value["psf"], fill=tuple(value["fill"]),
        cut=value["cut"], margin=value["margin"], diameter_convention=value["diameter_convention"], mask=mask,
        histogram=histogram,
    )  # fmt: skip
    flow = rename.call(
        FlowSpec, units="measure units per second", output_units=value["output_units"],
        resolution=value["resolution"], dt=value["dt"], offset=pair_of_numbers("img_offset", value["img_offset"]),
        size=pair_of_numbers("flow_field_size", value["flow_field_size"]), grid=value["grid"],
        integrator=value["integrator"], substeps=value["substeps"], label_at=value["label_at"],
        velocities_per_pixel=value["velocities_per_pixel"],
        max_speed=(value["max_speed_y"], value["max_speed_x"]), min_speed=(value["min_speed_y"], value["min_speed_x"]),
    )  # fmt: skip
    if image.margin == "config":
        rename.call(geometry.configured, spec=flow, image=image)
    noise = {"noise_uniform": value["noise_uniform"], "noise_mean": value["noise_gaussian_mean"],
             "noise_sigma": value["noise_gaussian_std"], "bit_depth": None}  # fmt: skip
    demand(value["camera"] is None or isinstance(value["camera"], Mapping), "camera", value["camera"], "a mapping")
    camera = (
        rename.call(Camera, **noise)
        if value["camera"] is None
        else _made(Camera, "camera", {**noise, **value["camera"]})
    )
    return image, flow, camera


def _array(key: str, path: Any) -> np.ndarray | None:
    if path is None:
        return None
    demand(isinstance(path, (str, Path)) and Path(path).is_file(), key, path, "the path of a .npy file")
    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ConfigError(key, f"not a .npy file of numbers ({error})", str(path)) from None


def _source(value: dict[str, Any], real: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"files": list(value["file_list"]), "kind": value["scheduler_class"]}
    if value["scheduler_class"] == ".mat":
        size = pair_of_numbers("image_shape", value.get("image_shape", (256, 256)))
        options |= {"include_images": real, "output_shape": (int(size[0]), int(size[1])) if real else (256, 256)}
    return options


def _sampler(value: dict[str, Any], real: bool, per_flow: int) -> dict[str, Any]:
    episodes = value["episode_length"] > 0
    return {
        "batch_size": value["batch_size"],
        "flows": value["batch_size"] if real or episodes else value["flow_fields_per_batch"],
        "batches_per_flow": 1 if real or episodes else per_flow,
        "loop": _flag(value, "loop", True), "randomize": _flag(value, "randomize", False),
        "episode_length": value["episode_length"], "buffer_size": value["buffer_size"], "real": real,
        "on_bad_file": value["on_bad_file"], "startup_s": value["startup_timeout_s"],
        "steady_s": value["steady_timeout_s"], "on_timeout": value["on_timeout"], "threads": value["threads"],
        "backend": value["backend"],
    }  # fmt: skip
