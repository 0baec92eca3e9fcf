"""Names the strongest attacks known here in each threat model, against which a claim of robustness is tested.

A model is robust in a threat model only as far as its accuracy survives the strongest attack with the same bounds.
`strongest_forms` makes these attacks for any attack; `limits_of` tells which attacks have the same bounds.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from freqbench.attacks import make
from freqbench.attacks.core.base import Attack
from freqbench.attacks.frequency_apgd import SSIM_SUFFIX

FEWEST_STEPS, RESTARTS = 20, 3
LOSSES = ("dice", "ce")  # the scores are Dice; where its gradient vanishes, the cross-entropy has one

NARROWING = ("targeted", "organs", "target", "filter", "channels")


@dataclass(frozen=True, kw_only=True)
class Strongest:
    """The parameters that bound the attacks of a threat model, and its strongest attack."""

    names: tuple[str, ...]  # names of the parameters
    form: tuple[str, Mapping[str, Any]]  # name and parameters, besides bounds, `steps`, `restarts` and each of `LOSSES`
    has_slices: bool = True  # true if attacks on slices have another set of volumes than those on blocks

    def bounds(self, attack: Attack) -> dict[str, Any]:
        """Values of these parameters for an attack; a missing q_min is that of the variant."""
        return {name: attack.bounds[0] if name == "q_min" else getattr(attack, name) for name in self.names}  # type: ignore[attr-defined]


_QUANTISATION, _SCALING = ("q_max", "q_min", "block"), ("rho", "block", "band")
STRONGEST: dict[str, Strongest] = {
    "dct-quantization": Strongest(names=_QUANTISATION, form=("vafa_opt", {"renormalize": False})),
    "dct-quantization-stretched": Strongest(names=_QUANTISATION, form=("vafa_opt", {"renormalize": True})),
    "dct-scaling": Strongest(names=_SCALING, form=("sa2_opt", {})),
    "dct-scaling-with-dc": Strongest(names=_SCALING, form=("sa2_opt", {"variant": "paper"})),
}
STRONGEST |= {
    f"{name}{SSIM_SUFFIX}": replace(threat, names=(*threat.names, "ssim_min")) for name, threat in STRONGEST.items()
}
STRONGEST |= {
    "kspace": Strongest(names=("eps_k", "region", "lines", "encoding"), form=("kspace", {}), has_slices=False),
    "bias-field": Strongest(names=("log_amplitude", "control_points"), form=("bias_field", {}), has_slices=False),
    "sinogram": Strongest(names=("eps_p", "angles"), form=("sinogram", {}), has_slices=False),
    "deformation": Strongest(
        names=("max_mm", "min_jacobian", "knot_mm", "spacing"), form=("deformation", {}), has_slices=False
    ),
    "intensity-curve": Strongest(names=("deviation", "pieces"), form=("intensity_curve", {}), has_slices=False),
}
STRONGEST["linf"] = Strongest(names=("eps",), form=("apgd", {}), has_slices=False)


def strongest_forms(attack: Attack) -> tuple[Attack, ...]:
    """Returns the strongest attacks with an attack's threat model and bounds; empty if none is known here.

    Each of the three restarts has the attack's own number of steps, at least 20.
    """
    threat = STRONGEST.get(attack.threat_model)
    if threat is None:
        return ()
    name, parameters = threat.form
    effort = {"steps": max(num_steps(attack), FEWEST_STEPS), "restarts": RESTARTS}
    end = "_2d" if threat.has_slices and _is_per_slice(attack) else ""
    return tuple(make(f"{name}{end}", **threat.bounds(attack), **effort, **parameters, loss=loss) for loss in LOSSES)


def limits_of(attack: Attack) -> Hashable:
    """Returns a key that attacks with the same limits share: threat model and bounds, to rounding."""
    threat = STRONGEST.get(attack.threat_model)
    if threat is None:
        budget = attack.budget_name and getattr(attack, attack.budget_name)
        return attack.threat_model, _rounded(budget)
    values = map(_rounded, threat.bounds(attack).values())
    return attack.threat_model, threat.has_slices and _is_per_slice(attack), *values


def is_claimed(attack: Attack) -> bool:
    """True if a claim of robustness may rest on an attack: it aims at every voxel and queries the model."""
    narrowed = any(getattr(attack, name, None) for name in NARROWING)
    return not narrowed and getattr(attack, "control", "none") == "none" and attack.passes != (0, 0)


def num_steps(attack: Attack) -> int:
    """Number of steps of one run; 1 if the attack has no such parameter."""
    return int(getattr(attack, "steps", 1))


def _is_per_slice(attack: Attack) -> bool:
    return bool(getattr(attack, "per_slice", False))


def _rounded(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else repr(value)
