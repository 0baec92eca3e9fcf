"""Describes every threat model as the set of volumes that an attacker may hand to the network."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """What an attacker may do to a volume.

    x is the clean volume, a the adversarial one, both in [0, 1]. A set is that of one sample, a window or with `scope:
    volume` the volume, in the channels that are attacked. A parameter `filter` acts on what is left in the end, after
    the bound.

    Attributes:
        volumes: the set of all a.
        free: what the attacker chooses.
        bounded: what holds of every volume.
        penalised: what attacks on this set hold against the loss as well: it makes them milder, and holds of nothing.
    """

    volumes: str
    free: str
    bounded: str
    penalised: str = "nothing"


SSIM_SUFFIX = "-ssim"
"""Of the name of a threat model that bounds the SSIM beside."""

_TABLE = "one quantisation step q for each DCT coefficient of each block"
_MULTIPLIER = "one multiplier m for each DCT coefficient of each block, in `band`"
_VAFA = "by `vafa`, the SSIM (`ssim_weight`)"
_SA2 = "by `sa2`, the SSIM (`ssim_weight`)"


def _and_ssim(threat_model: ThreatModel) -> ThreatModel:
    return replace(
        threat_model,
        volumes=f"those a of {threat_model.volumes} with SSIM(x, a) >= ssim_min in the body",
        bounded=f"{threat_model.bounded}; SSIM in the body of a sample",
        penalised="nothing",
    )


_WITHOUT_SSIM: Mapping[str, ThreatModel] = {
    "linf": ThreatModel(
        volumes="{a : |a - x| <= eps in every voxel}",
        free="the intensity of every voxel",
        bounded="the change of a voxel, by eps",
    ),
    "l2": ThreatModel(
        volumes="{a : sum of (a - x)^2 over all voxels <= l2^2}",
        free="the intensity of every voxel",
        bounded="the Euclidean norm of the change, by l2",
    ),
    "linf-minimal": ThreatModel(
        volumes="all volumes",
        free="the intensity of every voxel",
        bounded="nothing: a share of the voxels is to turn wrong, and may not",
        penalised="the largest change, which is the result",
    ),
    "gaussian": ThreatModel(
        volumes="{clamp(x + std n, 0, 1)}, n standard normal",
        free="nothing: n is drawn",
        bounded="the standard deviation, but no voxel's change",
    ),
    "dct-quantization": ThreatModel(
        volumes="{clamp(v(q) / 255, 0, 1) : q_min <= q <= q_max}, v(q) = IDCT(q round(c / q)) + 128, "
        "c = DCT(255 x - 128)",
        free=_TABLE,
        bounded="q, so every coefficient's change by q_max / 2",
        penalised=_VAFA,
    ),
    "dct-quantization-stretched": ThreatModel(
        volumes="{(v(q) - min v(q)) / (max v(q) - min v(q)) : q_min <= q <= q_max}, min and max of each depth slice",
        free=_TABLE,
        bounded="q, but no intensity: every slice is remapped to [0, 1]",
        penalised=_VAFA,
    ),
    "dct-scaling": ThreatModel(
        volumes="{clamp(IDCT(m c) + 0.5, 0, 1) : |m - 1| <= rho, m = 1 at DC}, c = DCT(x - 0.5)",
        free=f"{_MULTIPLIER}, but DC",
        bounded="m, so every coefficient's change by rho |c|",
        penalised=_SA2,
    ),
    "dct-scaling-with-dc": ThreatModel(
        volumes="{clamp(IDCT(m c) + 0.5, 0, 1) : |m - 1| <= rho}, c = DCT(x - 0.5)",
        free=f"{_MULTIPLIER}, with DC, the mean of a block",
        bounded="m, so every coefficient's change by rho |c|",
        penalised=_SA2,
    ),
    "fourier-bands": ThreatModel(
        volumes="{clamp(F^-1(sum over n of ((1 - g_n) A_n + g_n A'_n) exp(i phase)), 0, 1) : g_n is 0 or 1, "
        "sum of g_n <= portion N}, A of x, A' of another case",
        free="which of N bands of the amplitude are another case's",
        bounded="how many are",
        penalised="by `faa`, the change in the bands of shapes (`reconstruction_weight`)",
    ),
    "corruption": ThreatModel(
        volumes="{what a kind of corruption of one severity makes of x}",
        free="nothing: nobody attacks",
        bounded="the severity",
    ),
    "none": ThreatModel(
        volumes="all volumes",
        free="whatever makes them: a dropped band (`dfb`), a third-party tool",
        bounded="nothing",
    ),
}

THREAT_MODELS: Mapping[str, ThreatModel] = {
    **_WITHOUT_SSIM,
    **{
        f"{name}{SSIM_SUFFIX}": _and_ssim(threat_model)
        for name, threat_model in _WITHOUT_SSIM.items()
        if name.startswith("dct-")
    },
}
"""Every value of `threat_model` that attacks of ATTACKS have; those of other packages may have others.

Two names are two sets, and attacks are ranked within one. Within a name and a budget sets still differ by `block`,
`q_min`, `band` and `ssim_min`: a worst case there is one over their union, and rows say which is which.

Stretching is in VAFA's code, not in its paper's algorithm. Without it a table's volume is the clamped inverse
transform; with it intensities of a slice go wherever its minimum and maximum are put.

VAFA rounds softly to its last step (`freqbench.ops.quantisation`): each of its coefficients lies between the clean one
and the exactly quantised one. Its volumes are so near those of the set, and not exactly in it; `vafa_opt`, which rounds
exactly, searches the set as it stands here.
"""
