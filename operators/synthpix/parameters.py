"""Which parameters three tools have: the list behind the claim that SynthPix takes those of existing tools.

Names were read from the packages' own classes (synthpix 0.1.1 ImageGenerationSpecification and make(); synpivimage
1.0.0a9 Camera, Laser, Particles); a test compares them with the packages where those are installed. Empty: there is no
counterpart.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """One physical quantity and its name in each tool."""

    what: str
    ours: str
    synthpix: str
    synpivimage: str


PARAMETERS = (
    Parameter("image size", "ImageSpec.shape", "image_shape", "Camera.nx, Camera.ny"),
    Parameter("particle density", "ImageSpec.density", "seeding_density_range", "ppp"),
    Parameter("particle image diameter", "ImageSpec.diameter", "diameter_ranges", "Camera.particle_image_diameter"),
    Parameter("particle intensity", "ImageSpec.intensity", "intensity_ranges", "particle_peak_count"),
    Parameter("correlation of the spot's axes", "ImageSpec.rho", "rho_ranges", ""),
    Parameter("change of a particle's look", "ImageSpec.diameter_var", "diameter_var", ""),
    Parameter("hidden particles", "ImageSpec.p_hide", "p_hide_img1", ""),
    Parameter("uniform noise", "Camera.noise_uniform", "noise_uniform", ""),
    Parameter("Gaussian noise", "Camera.noise_sigma", "noise_gaussian_std", "Camera.dark_noise"),
    Parameter("noise offset", "Camera.noise_mean", "noise_gaussian_mean", "Camera.baseline_noise"),
    Parameter("mask", "ImageSpec.mask", "mask", ""),
    Parameter("histogram", "ImageSpec.histogram", "histogram", ""),
    Parameter("fill factor of a pixel", "ImageSpec.fill", "", "Camera.fill_ratio_x, Camera.fill_ratio_y"),
    Parameter("light sheet width", "Sheet.width_px", "", "Laser.width"),
    Parameter("light sheet shape", "Sheet.shape", "", "Laser.shape_factor"),
    Parameter("out-of-plane motion", "Sheet.out_of_plane", "", "dz_max"),
    Parameter("quantum efficiency", "Camera.qe", "", "Camera.qe"),
    Parameter("sensitivity", "Camera.gain", "", "Camera.sensitivity"),
    Parameter("bit depth", "Camera.bit_depth", "", "Camera.bit_depth"),
    Parameter("shot noise", "Camera.shot_noise", "", "Camera.shot_noise"),
)


def shared() -> float:
    """Share of synpivimage's parameters that SynthPix has a counterpart for."""
    theirs = [p for p in PARAMETERS if p.synpivimage]
    return sum(1 for p in theirs if p.synthpix) / len(theirs)


def without_counterpart() -> tuple[list[str], list[str]]:
    """What SynthPix lacks of synpivimage's parameters, and the reverse."""
    lacking = [p.what for p in PARAMETERS if p.synpivimage and not p.synthpix]
    extra = [p.what for p in PARAMETERS if p.synthpix and not p.synpivimage]
    return lacking, extra
