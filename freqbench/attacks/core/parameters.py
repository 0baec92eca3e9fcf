"""Defines the meaning and the allowed values of each parameter, the same in Python, job files and columns."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, dataclass
from itertools import product
from typing import Any

from freqbench.attacks.core import values
from freqbench.attacks.core.targets import canonical
from freqbench.core import limits, names
from freqbench.core.errors import ParameterError

LOSSES, BANDS, KINDS, CHANGES = (names.KNOWN[table] for table in ("losses", "bands", "corruptions", "changes"))
REGIONS = ("all", "centre", "periphery")
ENCODINGS = ("2d", "3d")
CONTROLS = ("none", "uniform", "random")
KEEPS = ("last", "best")
SQUARE = "square"
SEGPGD = "segpgd"
SHRINKING = "-shrinking"
NORMS = ("linf", "l2")
STEP_RULES = ("halving", "cosine")
SEQUENCES = ("switch", "auto", "horizon")
MEMBERS = (
    *(f"apgd-{loss}{radii}" for loss, radii in product(LOSSES, ("", SHRINKING))),
    *map("apgd-{}".format, SEQUENCES),
    *map("pgd-{}".format, LOSSES),
    SQUARE,
)
SCOPES: tuple[str, ...] = ("window", "volume", "joint")
SCOPES_WITHOUT_JOINT = SCOPES[:2]


@dataclass(frozen=True)
class Parameter:
    """A meaning, a check that returns None or a complaint, and a canonical form, as values identify an attack."""

    meaning: str
    check: values.Check
    spelled: Callable[[Any], Any] = lambda value: value


def spelled(attack: Any, name: str, value: Any) -> Any:
    """Returns the canonical value of the parameter `name`, of an attack, class or outline; raises ParameterError if it
    is wrong."""
    field: Field[Any] = attack.__dataclass_fields__[name]
    if value is None and (field.default is None or any(word in str(field.type) for word in ("None", "Optional"))):
        return None
    parameter = variant_of(attack.variants) if name == "variant" else attack.parameters.get(name)
    too_large = () if isinstance(value, float) else limits.wrong_numbers(value)
    complaint = next((text for _, text in too_large), None) or (parameter.check(value) if parameter else None)
    if complaint:
        raise ParameterError(attack.name, name, complaint)
    return parameter.spelled(value) if parameter else value


def require_together(owner: str, settings: Mapping[str, Any]) -> None:
    """Refuses `settings`, canonical values by parameter, that break a rule in TOGETHER whose parameters are all there,
    by a ParameterError of `owner`."""
    for parameter, (involved, check) in TOGETHER.items():
        if settings.keys() >= set(involved) and (complaint := check(*(settings[name] for name in involved))):
            raise ParameterError(owner, parameter, complaint)


def variant_of(variants: Collection[str]) -> Parameter:
    """Returns the parameter `variant` for an attack with these variants."""
    expected = values.expecting(" or ".join(variants), lambda value: value in variants)
    return Parameter("form of the algorithm", expected)


_LOSS = values.one_known("loss", LOSSES)
SEARCH: dict[str, Parameter] = {
    "loss": Parameter("loss that the attack raises, or a sequence", values.one_known("loss", (*LOSSES, *SEQUENCES))),
    "step_rule": Parameter(
        "how steps shrink: halved when the loss stalls, or along a cosine", values.one_of(*STEP_RULES)
    ),
}
"""Parameters of attacks that search a space of points (`freqbench.attacks.apgd.search`)."""

NORM = Parameter("norm of the change: its largest size, or its root mean square", values.one_of(*NORMS))

PARAMETERS: dict[str, Parameter] = {
    "eps": Parameter("radius of the ball, on the [0, 1] intensity scale", values.intensity),
    "norm": NORM,
    "std": Parameter("standard deviation of the noise, on the [0, 1] intensity scale", values.intensity),
    "step_size": Parameter("length of a step, on the [0, 1] intensity scale, or eps/4", values.step_size),
    "steps": Parameter("gradient steps", values.count),
    "random_start": Parameter("begin at a uniform draw from the ball", values.flag),
    "warm_start": Parameter("members begin at the worst volume so far", values.flag),
    "eps_schedule": Parameter(
        "pairs of a factor of eps and a share of the steps; none: eps throughout",
        values.schedule,
        lambda pairs: tuple((float(factor), float(share)) for factor, share in pairs),
    ),
    "q_max": Parameter("largest quantisation step, on the DCT scale of 0..255 intensities", values.quantum),
    "q_min": Parameter("smallest quantisation step, on the same scale", values.quantum),
    "rho": Parameter("largest distance of a multiplier from 1", values.ratio),
    "num_spectra": Parameter("random spectra averaged at every step; none: the variant's", values.count),
    "block": Parameter("side of the DCT block in voxels, or three sides", *values.three_sides),
    "band": Parameter("the frequencies that may change", values.one_of("all", *BANDS)),
    "dice_weight": Parameter("weight of the task loss in the objective", values.weight),
    "ssim_weight": Parameter("weight of the SSIM loss in the objective; 0: off", values.weight),
    "ssim_min": Parameter("least SSIM inside the body; none: not bounded", values.part),
    "renormalize": Parameter("stretch every depth slice to [0, 1]; this changes the threat model", values.flag),
    "control": Parameter("null row instead of the attack", values.one_of(*CONTROLS)),
    "targeted": Parameter("labels are the target to reach, not the truth to leave", values.flag),
    "loss": Parameter("loss that the attack raises", _LOSS),
    "organs": Parameter("the only classes whose voxels are attacked; none: all", values.organs, values.each_once),
    "target": Parameter("rule for the labels to move towards; none: away from the truth", values.target, canonical),
    "restarts": Parameter("number of runs, each from another draw; the strongest is kept", values.count),
    "keep": Parameter("volumes of a run to keep: the last or the best", values.one_of(*KEEPS)),
    "decay": Parameter("weight of the gradients of earlier steps", values.weight),
    "probability": Parameter("probability that a step resizes its volume", values.share),
    "min_scale": Parameter("smallest ratio of resized sides to the window's", values.part),
    "max_scale": Parameter("largest ratio of resized sides to the window's", values.growing),
    "kernel_size": Parameter("weights per side of the kernel that smooths the gradient", values.odd),
    "sigma": Parameter("standard deviation of that kernel in voxels; none: a third of its radius", values.positive),
    "linf": Parameter("size of every voxel's change, on the [0, 1] intensity scale", values.intensity),
    "l2": Parameter("Euclidean norm of a window's change, on the [0, 1] intensity scale", values.weight),
    "queries": Parameter("forward passes of a search", values.count),
    "p_init": Parameter("share of the window that a cube covers at first", values.part),
    "aim": Parameter(
        "where cubes are put: anywhere, or on the predicted foreground", values.one_of("window", "foreground")
    ),
    "threshold": Parameter("mean Dice at or below which later members skip a sample", values.share),
    "members": Parameter(
        "attacks of an ensemble, in their order",
        values.some_of("member", MEMBERS, "apgd-dice-shrinking, pgd-ce, square"),
        tuple,
    ),
    "losses": Parameter(
        "losses of an ensemble's runs, in their order",
        values.some_of("loss", (*LOSSES, SEGPGD), "mask-ce, js, segpgd"),
        tuple,
    ),
    "share": Parameter("share of voxels that must turn wrong", values.share),
    "portion": Parameter("largest share of frequency bands that may be taken from the reference", values.share),
    "bands": Parameter("frequency bands of a spectrum", values.count),
    "reconstruction_weight": Parameter("weight of the change in the bands of shapes; 0: off", values.weight),
    "scope": Parameter(
        "unit of the attack: a window, the whole volume as predicted, or its windows, moved together",
        values.one_of(*SCOPES),
    ),
    "channels": Parameter("the only channels that are changed; none: all", values.channels, values.each_once),
}

# Each table serves one family of attacks, so that attacks of other packages may reuse these names.
LEARNED: dict[str, Parameter] = {
    "learn_split": Parameter(
        "split of the dataset to learn on", values.expecting("a split's name", lambda value: isinstance(value, str))
    ),
    "learn_cases": Parameter("number of cases to learn from, the first of the split; none: all", values.count),
    "tile": Parameter("side of the tile in voxels, or three sides; none: the model's window", *values.three_sides),
}
SURROGATES: dict[str, Parameter] = {
    "surrogates": Parameter("other models of the job, whose gradients are followed", values.models),
    "weight_step": Parameter(
        "step of a surrogate's weight", values.number("above 0 and below 1", lambda value: 0 < value < 1)
    ),
}
CORRUPTION: dict[str, Parameter] = {
    "kind": Parameter(f"kind of corruption: {', '.join(KINDS)}", values.one_known("kind", KINDS)),
    "severity": Parameter(
        "severity of the corruption, from 1 to 5", values.number("from 1 to 5 (0: nothing)", lambda x: 0 <= x <= 5)
    ),
}
BALL: dict[str, Parameter] = {
    "kind": Parameter(f"kind of change: {', '.join(CHANGES)}", values.one_known("kind", CHANGES)),
    "radius": Parameter("Euclidean norm of all parameters of the change", values.weight),
}
ACQUISITION: dict[str, Parameter] = {
    "eps_k": Parameter("largest relative change of a point of k-space", values.share),
    "region": Parameter("the part of k-space that may change", values.one_of(*REGIONS)),
    "lines": Parameter("one change for each phase-encoding line", values.flag),
    "encoding": Parameter("k-space of every slice, or of the volume", values.one_of(*ENCODINGS)),
    "eps_p": Parameter("largest relative change of a reading", values.share),
    "angles": Parameter("projections over half a turn", values.count),
    "log_amplitude": Parameter(
        "largest size of the field's natural logarithm", values.number("in [0, 3]", lambda value: 0 <= value <= 3)
    ),
    # 4 points make one cubic piece.
    "control_points": Parameter("control points of the spline on each axis", values.count_of(4)),
    "deviation": Parameter("largest change of an intensity, on the [0, 1] scale", values.intensity),
    "pieces": Parameter("linear pieces of the curve", values.count),
    "max_mm": Parameter("largest displacement in millimetres", values.weight),
    "min_jacobian": Parameter(
        "least Jacobian determinant of the displaced volume", values.number("in (0, 1)", lambda value: 0 < value < 1)
    ),
    "knot_mm": Parameter("least distance of the spline's knots in millimetres", values.positive),
    "spacing": Parameter(
        "millimetres per voxel; none: the case's", values.spacing, lambda sides: tuple(map(float, sides))
    ),
}

SCALED_NOISE = Parameter(
    "norm that is `std` after the clamp; none: not scaled", values.expecting("l2", lambda x: x == "l2")
)
INTENSITY_STEP = Parameter("length of a step, on the [0, 1] intensity scale", values.intensity)
RMS_STEP = Parameter("root mean square of the first step, on the [0, 1] intensity scale", values.intensity)
BOUNDARY_LOSS = Parameter("loss whose value at the boundary is known", values.one_of("dice_linear", "margin"))
LOGIT_STEP = Parameter("length of a step of the gates' scores", values.weight)
UNIFORM_CONTROL = Parameter("null row instead of the attack", values.one_of("none", "uniform"))
RANDOM_CONTROL = Parameter("null row instead of the attack", values.one_of("none", "random"))
RATIO_STEP = Parameter("length of a step of the multipliers", values.ratio)
SLICE_BLOCK = Parameter(
    "side of the DCT block of a depth slice in voxels, or two sides", values.block(2, "two"), values.as_block
)
SPREAD = Parameter("largest distance of a spectrum's random factors from 1", values.ratio)
LEARNED_LOSS = Parameter(
    "loss that the attack raises",
    values.one_known("loss", [loss for loss in LOSSES if not loss.startswith(("dlr", "mask"))]),
)
DECISION = Parameter("mean Dice at or below which a sample has fallen; none: half of the clean sample's", values.share)
DROPPED_BAND = Parameter("the frequencies that are dropped", values.one_of(*BANDS))


def _table(q_min: float | None, q_max: float) -> str | None:
    return f"expected at least q_min = {q_min:g}, got {q_max:g}" if q_min is not None and q_max < q_min else None


def _moved(organs: Sequence[int] | None, target: Any) -> str | None:
    if organs is None or not isinstance(target, tuple) or set(organs) & set(target[1:]):
        return None
    return f"expected classes to {target[0]}, {list(target[1:])}, got {list(organs)}: these would keep their labels"


def _untargeted(targeted: bool, organs: Sequence[int] | None, target: Any) -> str | None:
    if targeted and target is not None:
        return "expected false beside a target rule, got true: with a rule the labels are the truth"
    if targeted and organs is not None:
        return "expected false beside organs, got true: these are found by the truth: use a target rule"
    return None


def _one_norm(linf: float | None, l2: float | None) -> str | None:
    got = "none" if linf is None else "both"
    return f"expected exactly one of linf and l2, got {got}" if (linf is None) == (l2 is None) else None


def _one_loss(loss: str | None, step_rule: str) -> str | None:
    if loss not in SEQUENCES or step_rule == "cosine":
        return None
    return f"expected cosine beside the loss {loss}, got halving: it halves steps by the values of a single loss"


TOGETHER: Mapping[str, tuple[tuple[str, ...], Callable[..., str | None]]] = {
    "q_max": (("q_min", "q_max"), _table),
    "organs": (("organs", "target"), _moved),
    "targeted": (("targeted", "organs", "target"), _untargeted),
    "linf": (("linf", "l2"), _one_norm),
    "step_rule": (("loss", "step_rule"), _one_loss),
}
"""Rules for attacks with all these parameters, by the one that is refused: their names, a check of canonical values."""
