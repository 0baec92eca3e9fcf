"""Says what each parameter means and which values it takes: the same in Python, job files and columns."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freqbench.attacks.core.targets import are_classes, canonical
from freqbench.core import names
from freqbench.core.errors import unknown
from freqbench.core.limits import is_number

LOSSES, BANDS, KINDS = (names.KNOWN[table] for table in ("losses", "bands", "corruptions"))
REGIONS = ("all", "centre", "periphery")
ENCODINGS = ("2d", "3d")
CONTROLS = ("none", "uniform", "random")
KEEPS = ("last", "best")
SQUARE, SEGPGD, SHRINKING = "square", "segpgd", "-shrinking"
MEMBERS = (
    *(f"apgd-{loss}{radii}" for loss in LOSSES for radii in ("", SHRINKING)),
    *(f"pgd-{loss}" for loss in LOSSES),
    SQUARE,
)
SCOPES = ("window", "volume")

Check = Callable[[Any], str | None]


@dataclass(frozen=True)
class Parameter:
    """A parameter's meaning, a check that returns None or what was expected instead, and the one spelling of a value.

    Attacks are told apart by their parameters: two spellings of one value would be two attacks. None stays.
    """

    meaning: str
    check: Check
    spelled: Callable[[Any], Any] = lambda value: value


def wrong_name(
    known: Mapping[str, Parameter | None], required: Collection[str], given: Collection[str]
) -> tuple[str, str] | None:
    """The first name of `given` that is not `known`, or that is required and lacks, and a complaint; None: neither.

    `known` says what each parameter of an attack is, None where nothing does.
    """
    for name in given:
        if name not in known:
            return name, unknown("parameter", name, known)
    for name in required:
        if name not in given:
            described = known[name]
            meaning = described.meaning if described else "see the attack's docstring"
            return name, f"required, but not given ({meaning})"
    return None


def step_length(step_size: float | str, eps: float) -> float:
    """A step on the [0, 1] intensity scale; `eps/4` is a quarter of the radius."""
    return eps / float(step_size.removeprefix("eps/")) if isinstance(step_size, str) else step_size


def expecting(expected: str, is_valid: Callable[[Any], bool]) -> Check:
    """A check that says what was expected, and what was given."""
    return lambda value: None if is_valid(value) else f"expected {expected}, got {value!r:.300}"


def one_known(kind: str, known: Collection[str]) -> Check:
    """A check for a name of a table, with a suggestion."""
    return lambda value: None if isinstance(value, str) and value in known else unknown(kind, str(value), known)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def count_of(least: int) -> Check:
    """A check for a whole number of at least `least`."""
    return expecting(f"a whole number of at least {least}", lambda value: _is_count(value) and value >= least)


def number(range_: str, is_valid: Callable[[float], bool]) -> Check:
    """A check for a finite number."""
    return expecting(f"a number {range_}", lambda value: is_number(value) and is_valid(value))


def intensity(value: Any) -> str | None:
    """The check for a number on the [0, 1] intensity scale."""
    if is_number(value) and 0 <= value <= 1:
        return None
    hint = f". Did you mean {value:g}/255?" if is_number(value) and 1 < value <= 255 else ""
    return f"expected a number in [0, 1] or a fraction like 8/255, got {value!r:.300}{hint}"


def _step_size(value: Any) -> str | None:
    is_part = isinstance(value, str) and re.fullmatch(r"eps/([0-9]+\.?[0-9]*|\.[0-9]+)", value)
    if is_part and is_number(part := float(value[4:])) and part > 0:
        return None
    complaint = intensity(value)
    return complaint and complaint.replace("8/255, got", "2/255, or eps/4 for a quarter of eps, got")


def _is_schedule(value: Any) -> bool:
    pairs = value if isinstance(value, tuple | list) else ()
    return value is None or bool(
        pairs
        and all(isinstance(pair, tuple | list) and len(pair) == 2 and all(map(is_number, pair)) for pair in pairs)
        and all(factor >= 1 and share > 0 for factor, share in pairs)
        and pairs[-1][0] == 1
        and math.isclose(sum(share for _, share in pairs), 1)
    )


def _some_of(kind: str, known: Sequence[str], example: str) -> Check:
    def check(value: Any) -> str | None:
        names = value if isinstance(value, tuple | list) else ()
        for name in names:
            if name not in known:
                return unknown(kind, str(name), known)
        if names and len(set(names)) == len(names):
            return None
        return (
            f"expected names such as {example}, each once (in a job file a list of lists, [[{example}]]), got "
            f"{value!r:.300}"
        )

    return check


def _are_channels(value: Any) -> bool:
    listed = value if isinstance(value, tuple | list) else (value,)
    valid = listed and all(type(channel) is int and channel >= 0 for channel in listed)
    return bool(valid) and len(set(listed)) == len(listed)


def _block(number: int, word: str) -> Check:
    def is_block(value: Any) -> bool:
        sides = value if isinstance(value, tuple | list) else [value]
        return len(sides) in (1, number) and all(map(_is_count, sides))

    return expecting(f"a whole number of at least 1, or {word} of them", is_block)


def one_of(*words: str) -> Check:
    """A check for one of some words."""
    return expecting(f"{', '.join(words[:-1])} or {words[-1]}", lambda value: value in words)


def variant_of(variants: Collection[str]) -> Parameter:
    """The parameter `variant` of an attack that has these."""
    expected = expecting(" or ".join(variants), lambda value: value in variants)
    return Parameter("which form of the algorithm", expected)


def _is_filter(value: Any) -> bool:
    match value:
        case ["low" | "high", limit]:
            return type(limit) is int and limit >= 1
        case ["band", low, high]:
            return type(low) is type(high) is int and 0 <= low < high
    return False


def _optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _sorted(value: int | Sequence[int]) -> tuple[int, ...]:
    """Classes or channels, each once."""
    return (value,) if isinstance(value, int) else tuple(sorted(set(value)))


def _as_block(value: int | Sequence[int]) -> int | tuple[int, ...]:
    """One side where all are equal."""
    sides = (value,) if isinstance(value, int) else tuple(value)
    return sides[0] if len(set(sides)) == 1 else sides


def _table(q_min: float | None, q_max: float) -> str | None:
    return f"expected at least q_min = {q_min:g}, got {q_max:g}" if q_min is not None and q_max < q_min else None


def _moved(organs: Sequence[int] | None, target: Any) -> str | None:
    if organs is None or not isinstance(target, tuple) or set(organs) & set(target[1:]):
        return None
    return (
        f"expected one of those to {target[0]}, {list(target[1:])}, got {list(organs)}: these would keep their labels"
    )


def _one_norm(linf: float | None, l2: float | None) -> str | None:
    got = "none" if linf is None else "both"
    return f"expected exactly one of linf and l2, got {got}" if (linf is None) == (l2 is None) else None


TOGETHER: Mapping[str, tuple[tuple[str, ...], Callable[..., str | None]]] = {
    "q_max": (("q_min", "q_max"), _table),
    "organs": (("organs", "target"), _moved),
    "linf": (("linf", "l2"), _one_norm),
}
"""Rules that join parameters, by the one that is refused: their names, and a check of their values as spelled."""


def _is_spacing(value: Any) -> bool:
    sides = value if isinstance(value, tuple | list) else ()
    return len(sides) == 3 and all(is_number(side) and side > 0 for side in sides)


_count = count_of(1)
_odd = expecting("an odd whole number of at least 1", lambda value: _is_count(value) and value % 2 == 1)
flag = expecting("true or false", lambda value: isinstance(value, bool))
_weight = number("of at least 0", lambda value: value >= 0)
_ratio = number("of at least 0 and below 1", lambda value: 0 <= value < 1)
_share = number("in [0, 1]", lambda value: 0 <= value <= 1)
_part = number("above 0 and at most 1", lambda value: 0 < value <= 1)
_growing = number("of at least 1", lambda value: value >= 1)
_positive = number("above 0", lambda value: value > 0)
_quantum = number("above 0 on the DCT scale of 0..255 intensities", lambda value: value > 0)
_loss = one_known("loss", LOSSES)
_schedule = expecting(
    "pairs of a factor of eps, at least 1 and at last 1, and a share of the steps, together 1, such as "
    "[[2, 0.3], [1.5, 0.3], [1, 0.4]] (in a job file inside one list more)",
    _is_schedule,
)
_channels = expecting(
    "a channel or some of them, each once, counted from 0 (in a job file a list of lists, [[0, 1]])", _are_channels
)
_filter = expecting(
    '("low", 8), ("high", 8) or ("band", 4, 8), in a job file {kind: low, limits: 8} or {kind: band, limits: [4, 8]}',
    _is_filter,
)
_spacing = expecting("three numbers above 0 (in a job file a list of lists, [[1, 1, 3]])", _is_spacing)
_organs = expecting("a list of classes (in a job file a list of lists, [[1, 2], [3]])", are_classes)
_target = expecting(
    "least-likely, next-class, {swap: {a: b}} with two different classes or {erase: a} with one beside background",
    lambda value: canonical(value) is not None,
)

PARAMETERS: Mapping[str, Parameter] = {
    "eps": Parameter("radius of the L-infinity ball, on the [0, 1] intensity scale", intensity),
    "std": Parameter("standard deviation of the noise, on the [0, 1] intensity scale", intensity),
    "step_size": Parameter("length of a step, on the [0, 1] intensity scale, or eps/4", _step_size),
    "steps": Parameter("gradient steps", _count),
    "random_start": Parameter("begin at a uniform draw from the ball", flag),
    "eps_schedule": Parameter(
        "pairs of a factor of eps and a share of the steps; none: eps throughout",
        _schedule,
        lambda pairs: tuple((float(factor), float(share)) for factor, share in pairs),
    ),
    "q_max": Parameter("largest quantisation step, on the DCT scale of 0..255 intensities", _quantum),
    "q_min": Parameter("smallest quantisation step, on the same scale; none: the variant's", _optional(_quantum)),
    "rho": Parameter("how far a multiplier may leave 1", _ratio),
    "num_spectra": Parameter("random spectra averaged at every step; none: the variant's", _optional(_count)),
    "block": Parameter("side of the DCT block in voxels, or three sides", _block(3, "three"), _as_block),
    "band": Parameter("the frequencies that may change", one_of("all", *BANDS)),
    "dice_weight": Parameter("weight of the task loss in the objective", _weight),
    "ssim_weight": Parameter("weight of the SSIM loss in the objective; 0: off", _weight),
    "ssim_min": Parameter("least SSIM inside the body; none: not bounded", _optional(_part)),
    "renormalize": Parameter("stretch every depth slice to [0, 1]; none: as the variant does", _optional(flag)),
    "control": Parameter("a null row in place of the attack", one_of(*CONTROLS)),
    "filter": Parameter("the part of the perturbation's DCT that is kept; none: all", _optional(_filter), tuple),
    "targeted": Parameter("labels are the target to reach instead of the truth to leave", flag),
    "loss": Parameter("what is raised", _loss),
    "organs": Parameter("the only classes whose voxels are attacked; none: all", _optional(_organs), _sorted),
    "target": Parameter(
        "rule for the labels to move towards; none: away from the truth", _optional(_target), canonical
    ),
    "restarts": Parameter("runs from as many draws, the strongest kept", _count),
    "keep": Parameter("the last volumes of a run, or the best of all", one_of(*KEEPS)),
    "decay": Parameter("weight of the former steps' gradients", _weight),
    "probability": Parameter("of a step's volume being resized", _share),
    "min_scale": Parameter("smallest ratio of resized sides to the window's", _part),
    "max_scale": Parameter("largest ratio of resized sides to the window's", _growing),
    "kernel_size": Parameter("weights a side of the kernel that smooths the gradient", _odd),
    "sigma": Parameter("its standard deviation in voxels; none: a third of its radius", _optional(_positive)),
    "linf": Parameter("size of every voxel's change, on the [0, 1] intensity scale", _optional(intensity)),
    "l2": Parameter("Euclidean norm of a window's change, on the [0, 1] intensity scale", _optional(_weight)),
    "queries": Parameter("forward passes of a search", _count),
    "p_init": Parameter("share of the window that a cube covers at first", _part),
    "threshold": Parameter("mean Dice at which, or below, later members leave a sample alone", _share),
    "members": Parameter(
        "attacks of an ensemble, in their order",
        _some_of("member", MEMBERS, "apgd-dice-shrinking, pgd-ce, square"),
        tuple,
    ),
    "losses": Parameter(
        "losses of an ensemble's runs, in their order",
        _some_of("loss", (*LOSSES, SEGPGD), "mask-ce, js, segpgd"),
        tuple,
    ),
    "share": Parameter("share of voxels that must turn wrong", _share),
    "portion": Parameter("largest share of frequency bands that may be taken from the reference", _share),
    "bands": Parameter("frequency bands of a spectrum", _count),
    "reconstruction_weight": Parameter("weight of the change in the bands of shapes; 0: off", _weight),
    "scope": Parameter("what is attacked as one: a window, or the volume as it is predicted", one_of(*SCOPES)),
    "channels": Parameter("the only channels that are changed; none: all", _optional(_channels), _sorted),
}

# Of a family of attacks alone, so that one of another package may call its own parameters so.
CORRUPTION: Mapping[str, Parameter] = {
    "kind": Parameter(f"what goes wrong: {', '.join(KINDS)}", one_known("kind", KINDS)),
    "severity": Parameter("how much of it, from 1 to 5", number("from 1 to 5 (0: nothing)", lambda x: 0 <= x <= 5)),
}
ACQUISITION: Mapping[str, Parameter] = {
    "eps_k": Parameter("largest relative change of a point of k-space", _share),
    "region": Parameter("the part of k-space that may change", one_of(*REGIONS)),
    "lines": Parameter("one change for each phase-encoding line", flag),
    "encoding": Parameter("k-space of every slice, or of the volume", one_of(*ENCODINGS)),
    "eps_p": Parameter("largest relative change of a reading", _share),
    "angles": Parameter("projections over half a turn", _count),
    "log_amplitude": Parameter(
        "largest size of the field's natural logarithm", number("in [0, 3]", lambda value: 0 <= value <= 3)
    ),
    "control_points": Parameter("of the spline on each axis", count_of(4)),  # one piece of a cubic one
    "deviation": Parameter("largest change of an intensity, on the [0, 1] scale", intensity),
    "pieces": Parameter("linear pieces of the curve", _count),
    "max_mm": Parameter("largest displacement in millimetres", _weight),
    "min_jacobian": Parameter(
        "least Jacobian determinant of the displaced volume", number("in (0, 1)", lambda value: 0 < value < 1)
    ),
    "knot_mm": Parameter("least distance of the spline's knots in millimetres", _positive),
    "spacing": Parameter(
        "millimetres a voxel; none: the case's", _optional(_spacing), lambda sides: tuple(map(float, sides))
    ),
}

INTENSITY_STEP = Parameter("length of a step, on the [0, 1] intensity scale", intensity)
LOGIT_STEP = Parameter("length of a step of the gates' scores", _weight)
RANDOM_CONTROL = Parameter("a null row in place of the attack", one_of("none", "random"))
RATIO_STEP = Parameter("length of a step, in multiplier", _ratio)
EVEN_STEP = Parameter(f"{PARAMETERS['step_size'].meaning}; none: eps / steps", _optional(_step_size))
VARIANT_LOSS = Parameter("what is raised; none: the variant's", _optional(_loss))
SMALLEST_STEP = Parameter("smallest quantisation step, on the DCT scale of 0..255 intensities", _quantum)
STRETCHING = Parameter("stretch every depth slice to [0, 1]; another threat model than without", flag)
SLICE_BLOCK = Parameter("side of the DCT block of a depth slice in voxels, or two sides", _block(2, "two"), _as_block)
SPREAD = Parameter("how far the random factors of a spectrum may leave 1", _ratio)
DROPPED_BAND = Parameter("the frequencies that are dropped", one_of(*BANDS))

EVERY: Mapping[str, Parameter] = {
    **{name: each for name, each in globals().items() if isinstance(each, Parameter)},
    **PARAMETERS,
    **CORRUPTION,
    **ACQUISITION,
}
"""All of these, by the name of the constant where another is more usual, as in `freqbench/job/parameters.json`."""
