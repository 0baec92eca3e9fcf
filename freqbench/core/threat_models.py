"""Names the threat models in words; docs/background/threat-models.md defines their sets."""

from collections.abc import Mapping

MINIMAL = "-minimal"
"""Ends threat models without a bound, whose attacks make the change small: their result is its size, not a score."""
_SSIM = "-ssim"
WORDS: Mapping[str, str] = {
    "linf": "L-infinity ball: each voxel by at most eps",
    "l2": "L2 ball: the root mean square of the change by at most eps, or its Euclidean norm by l2 or radius",
    "linf-minimal": "smallest L-infinity change: no bound, the largest change of a voxel is made small",
    "l2-minimal": "smallest L2 change: no bound, the root mean square of the change is made small",
    "gaussian": "Gaussian noise: drawn, of a standard deviation",
    "dct-quantization": "DCT quantisation: each coefficient rounded to steps of at most q_max",
    "dct-quantization-stretched": "DCT quantisation, each slice then stretched to [0, 1]",
    "dct-scaling": "DCT scaling: each coefficient but the mean by a factor within 1 +- rho",
    "dct-scaling-with-dc": "DCT scaling: each coefficient and the mean by a factor within 1 +- rho",
    "fourier-bands": "Fourier bands: a portion of the amplitudes of another case",
    "kspace": "k-space: each point by at most eps_k of its magnitude",
    "bias-field": "bias field: smooth, by at most a factor of exp(log_amplitude)",
    "sinogram": "sinogram: each reading by at most eps_p of it",
    "intensity-curve": "intensity curve: one rising curve for all voxels, at most deviation away",
    "deformation": "deformation: the anatomy moved by at most max_mm, without folds",
    "bias-field-l2": "bias field whose coefficients have a norm of at most radius",
    "gain-offset-l2": "gains and offsets of a norm of at most radius",
    "dct-bands-l2": "gains of DCT bands of a norm of at most radius",
    "fourier-shift-l2": "shift by parts of voxels, at most radius",
    "voxel-shift-l2": "shift by whole voxels, at most radius",
    "corruption": "corruption of a severity: nobody attacks",
    "none": "no bound",
}


def words_of(threat_model: str) -> str:
    """Returns the name in words of a threat model; empty for one of another package."""
    base = threat_model.removesuffix(_SSIM)
    words = WORDS.get(base, "")
    return f"{words}; SSIM at least ssim_min" if words and base != threat_model else words
