"""Names the strongest attacks known here in each threat model, against which a claim of robustness is tested.

A model is robust in a threat model only as far as its accuracy survives the strongest attack with the same bounds.
`strongest_forms` makes these attacks for any attack; `limits_of` tells which attacks have the same set.
"""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from freqbench.attacks import ATTACKS, make
from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.searched import SSIM_SUFFIX

FEWEST_STEPS = 20
LOSSES = ("horizon", "dice")  # the lowest pair at equal passes on networks that hold (reports/strongest)

NARROWING = ("targeted", "organs", "target", "channels")


class Strongest(NamedTuple):
    """The parameters that bound the attacks of a threat model, and its strongest attack."""

    names: tuple[str, ...]  # names of the parameters
    form: str  # name of the attack
    parameters: Mapping[str, Any] = {}  # of the attack, besides bounds, `steps`, scope and each of `LOSSES`
    is_by_voxel: bool = False  # bounds each voxel by itself, so that windows and volume have the same set
    is_of_sample: bool = False  # bounds a sample as a whole: of a window, or of the volume, in scope joint too

    @property
    def has_slices(self) -> bool:
        """True if attacks on slices have another set of volumes than those on blocks."""
        return f"{self.form}_2d" in ATTACKS

    def bounds(self, attack: Attack) -> dict[str, Any]:
        """Values of these parameters for an attack; a missing q_min is that of the variant."""
        return {name: attack.bounds[0] if name == "q_min" else getattr(attack, name) for name in self.names}  # type: ignore[attr-defined]


_QUANTISATION = ("q_max", "q_min", "block")
_SCALING = ("rho", "block", "band")
STRONGEST: dict[str, Strongest] = {
    "dct-quantization": Strongest(_QUANTISATION, "vafa_opt", {"renormalize": False}),
    "dct-quantization-stretched": Strongest(_QUANTISATION, "vafa_opt", {"renormalize": True}),
    "dct-scaling": Strongest(_SCALING, "sa2_opt"),
    "dct-scaling-with-dc": Strongest(_SCALING, "sa2_opt", {"variant": "paper"}),
}
STRONGEST |= {
    f"{name}{SSIM_SUFFIX}": threat._replace(names=(*threat.names, "ssim_min")) for name, threat in STRONGEST.items()
}
STRONGEST |= {
    "kspace": Strongest(("eps_k", "region", "lines", "encoding"), "kspace"),
    "bias-field": Strongest(("log_amplitude", "control_points"), "bias_field"),
    "sinogram": Strongest(("eps_p", "angles"), "sinogram"),
    "deformation": Strongest(("max_mm", "min_jacobian", "knot_mm", "spacing"), "deformation"),
    "intensity-curve": Strongest(("deviation", "pieces"), "intensity_curve"),
}
STRONGEST |= {
    "linf": Strongest(("eps",), "apgd", is_by_voxel=True),
    "l2": Strongest(("eps",), "apgd", {"norm": "l2"}, is_of_sample=True),
}


def threat_of(attack: Attack) -> Strongest | None:
    """Returns the entry of an attack's threat model; None if there is none, or if its budget is stated another way.

    `l2` of `random_noise` and `ball` bounds the Euclidean norm, and that of attacks with `eps` the root mean square.
    """
    threat = STRONGEST.get(attack.threat_model)
    return threat if threat and all(hasattr(attack, name) for name in threat.names) else None


def strongest_forms(attack: Attack) -> tuple[Attack, ...]:
    """Returns the strongest attacks with an attack's threat model and bounds; empty if none is known here.

    Each has the attack's own number of steps, at least 20. Windows act jointly, unless the attack's set is that of the
    whole volume; under a bound on a sample as a whole they do so if the sample is the volume.
    """
    threat = threat_of(attack)
    if threat is None:
        return ()
    end = "_2d" if threat.has_slices and _is_per_slice(attack) else ""
    name = f"{threat.form}{end}"
    effort = {"steps": max(num_steps(attack), FEWEST_STEPS), "scope": "joint"}
    is_of_volume = _is_of_volume(attack, threat)
    if threat.is_of_sample:
        effort["scope"] = "joint" if is_of_volume else "window"
    elif is_of_volume or "joint" not in ATTACKS[name].scopes:
        effort["scope"] = "volume"
    own = {**threat.bounds(attack), **effort, **threat.parameters}
    return tuple(make(name, **own, step_rule="cosine", loss=loss) for loss in LOSSES)


def limits_of(attack: Attack) -> Hashable:
    """Returns a key that each `attack` with the same set of volumes shares: threat model, windows or volume, bounds."""
    threat = threat_of(attack)
    if threat is None:
        budget = attack.budget_name and getattr(attack, attack.budget_name)
        return attack.threat_model, _rounded(budget)
    values = map(_rounded, threat.bounds(attack).values())
    kind = _is_of_volume(attack, threat), threat.has_slices and _is_per_slice(attack)
    return attack.threat_model, *kind, *values


def is_claimed(attack: Attack) -> bool:
    """True if a claim of robustness may rest on an attack: it aims at every voxel and queries the model."""
    narrowed = any(getattr(attack, name, None) for name in NARROWING)
    return not narrowed and getattr(attack, "control", "none") == "none" and attack.passes != (0, 0)


def num_steps(attack: Attack) -> int:
    """Number of steps of one run; 1 if the attack has no such parameter."""
    return int(getattr(attack, "steps", 1))


def _is_per_slice(attack: Attack) -> bool:
    return bool(getattr(attack, "per_slice", False))


def _is_of_volume(attack: Attack, threat: Strongest) -> bool:
    """True if the set is made of whole volumes: blocks, fields and curves that do not end where windows do."""
    is_of_volume = attack.follows_prediction if threat.is_of_sample else attack.attacks_volume
    return is_of_volume and not threat.is_by_voxel


def _rounded(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else repr(value)
