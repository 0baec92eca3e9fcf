"""Names the strongest attacks known here in each threat model, which a claim of robustness is held against.

A model is robust in a threat model only as far as the strongest attack with the same bounds leaves something of it.
`strongest_forms` says for any attack which attacks these are, `limits_of` which attacks have the same bounds.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from freqbench.attacks import make
from freqbench.attacks.core.base import Attack
from freqbench.attacks.core.threat_models import SSIM_SUFFIX

FEWEST_STEPS, RESTARTS = 20, 3
LOSSES = ("dice", "ce")
"""The scores are Dice; where its gradient vanishes, the cross-entropy has one."""

NARROWING = ("targeted", "organs", "target", "filter", "channels")


@dataclass(frozen=True, kw_only=True)
class Strongest:
    """What bounds the attacks of a threat model, and the strongest of them.

    Attributes:
        bounds: the parameters that bound it, with what reads their value from an attack.
        forms: the strongest attacks, by name and parameters beside `bounds`, `steps` and `restarts`.
        has_slices: whether attacks on the transform of slices may do something else than those on blocks.
    """

    bounds: Mapping[str, Callable[[Any], Any]]
    forms: tuple[tuple[str, Mapping[str, Any]], ...]
    has_slices: bool = False


def _with_each_loss(name: str, **parameters: Any) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    return tuple((name, {**parameters, "loss": loss}) for loss in LOSSES)


_QUANTISATION: Mapping[str, Callable[[Any], Any]] = {
    "q_max": attrgetter("q_max"),
    "q_min": lambda attack: attack.bounds[0],  # where none is given, the variant's
    "block": attrgetter("block"),
}
_SCALING: Mapping[str, Callable[[Any], Any]] = {name: attrgetter(name) for name in ("rho", "block", "band")}

_WITHOUT_SSIM: Mapping[str, Strongest] = {
    "linf": Strongest(bounds={"eps": attrgetter("eps")}, forms=_with_each_loss("apgd")),
    "dct-quantization": Strongest(
        bounds=_QUANTISATION, forms=_with_each_loss("vafa_opt", renormalize=False), has_slices=True
    ),
    "dct-quantization-stretched": Strongest(
        bounds=_QUANTISATION, forms=_with_each_loss("vafa_opt", renormalize=True), has_slices=True
    ),
    "dct-scaling": Strongest(bounds=_SCALING, forms=_with_each_loss("sa2_opt"), has_slices=True),
    "dct-scaling-with-dc": Strongest(
        bounds=_SCALING, forms=_with_each_loss("sa2_opt", variant="paper"), has_slices=True
    ),
}

STRONGEST: Mapping[str, Strongest] = {
    **_WITHOUT_SSIM,
    **{
        f"{name}{SSIM_SUFFIX}": replace(strongest, bounds={**strongest.bounds, "ssim_min": attrgetter("ssim_min")})
        for name, strongest in _WITHOUT_SSIM.items()
        if strongest.has_slices
    },
}


def strongest_forms(attack: Attack) -> tuple[Attack, ...]:
    """The strongest attacks with an attack's threat model and bounds; none where none is known here.

    Each of three restarts has the attack's own number of steps, at least 20.
    """
    threat = STRONGEST.get(attack.threat_model)
    if threat is None:
        return ()
    bounds = {name: read(attack) for name, read in threat.bounds.items()}
    effort = {"steps": max(num_steps(attack), FEWEST_STEPS), "restarts": RESTARTS}
    end = "_2d" if threat.has_slices and _is_per_slice(attack) else ""
    return tuple(make(f"{name}{end}", **bounds, **effort, **parameters) for name, parameters in threat.forms)


def limits_of(attack: Attack) -> Hashable:
    """The same for attacks that may do the same: threat model and bounds, to rounding."""
    threat = STRONGEST.get(attack.threat_model)
    if threat is None:
        budget = attack.budget_name and getattr(attack, attack.budget_name)
        return attack.threat_model, _rounded(budget)
    values = [_rounded(read(attack)) for read in threat.bounds.values()]
    return attack.threat_model, threat.has_slices and _is_per_slice(attack), *values


def is_claimed(attack: Attack) -> bool:
    """Whether a claim of robustness may rest on an attack: it wants every voxel wrong, and asks the model how."""
    narrowed = any(getattr(attack, name, None) for name in NARROWING)
    return not narrowed and getattr(attack, "control", "none") == "none" and attack.passes != (0, 0)


def num_steps(attack: Attack) -> int:
    """Of one run; 1 where there is no such parameter."""
    return int(getattr(attack, "steps", 1))


def _is_per_slice(attack: Attack) -> bool:
    return bool(getattr(attack, "per_slice", False))


def _rounded(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else repr(value)
