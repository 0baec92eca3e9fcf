"""The strongest tables and multipliers against optima known in closed form, and inside a bound on the SSIM."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, of_class
from attacks.small import Net, volumes
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import dctn, idctn
from torch import Tensor, nn

from freqbench.attacks import Attack, AttackResult, make
from freqbench.core.errors import ThreatModelError, UserError
from freqbench.ops.blocks import merge, merge_slices, split, split_slices
from freqbench.ops.dct import band_mask
from freqbench.ops.quantisation import reach
from freqbench.ops.ssim import body_ssim

SHAPE = (8, 6, 5)
BLOCK = (4, 3, 5)


class Linear(nn.Module):
    """The cross-entropy of class 0 rises with <w, x>: the best change of each coefficient is known."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.weights).sum(dim=(1, 2, 3, 4), keepdim=True).expand(len(x), 1, *x.shape[2:])
        return torch.cat([torch.zeros_like(score), score], dim=1)


def drawn(seed: int, *, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(1, 1, *shape, dtype=torch.float64, generator=generator)


def tiles(volume: Tensor) -> NDArray[np.float64]:
    """Blocks `[N, h, w, d]` of a volume that they tile."""
    blocks: NDArray[np.float64] = split(volume, BLOCK)[0, 0].numpy()
    return blocks


def transform(volume: Tensor) -> NDArray[np.float64]:
    spectrum: NDArray[np.float64] = dctn(tiles(volume), axes=(1, 2, 3), norm="ortho")
    return spectrum


def attacked(name: str, model: nn.Module, images: Tensor, **changes: Any) -> Any:
    attack = make(name, **({"block": BLOCK, "steps": 20} | changes))
    return attack(model, images, of_class(images))


def test_quantisation_reaches_the_end_of_every_coefficient() -> None:
    """A change e of the spectrum adds <DCT(w), e> / 255: the best e is the end of its range that the sign points to."""
    images = drawn(1, low=0.3, high=0.7)
    weights = drawn(2, low=-1)
    result = attacked("vafa_opt", Linear(weights), images, loss="ce", renormalize=False)
    low, high = reach(torch.from_numpy(transform(255 * images - 128)), 5, 20).bounds
    slope = transform(weights)
    best = np.where(slope > 0, slope * high.numpy(), slope * low.numpy()).sum() / 255
    assert ((result.adversarial - images) * weights).sum() == pytest.approx(best, rel=1e-4)
    assert 0 < result.adversarial.min() < result.adversarial.max() < 1  # no clamp was in the way


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_scaling_reaches_the_bound_of_every_multiplier(variant: str) -> None:
    images = drawn(1, low=0.45, high=0.6)
    weights = drawn(2, low=-1)
    result = attacked("sa2_opt", Linear(weights), images, loss="ce", rho=0.3, variant=variant)
    product = transform(images - 0.5) * transform(weights)
    if variant == "released":
        product[:, 0, 0, 0] = 0  # DC is exempt
    gained = float(((result.adversarial - images) * weights).sum())
    assert gained == pytest.approx(0.3 * np.abs(product).sum(), rel=1e-9)
    assert np.abs(np.abs(result.state[0, 0].numpy()[np.abs(product) > 1e-9] - 1) - 0.3).max() < 1e-9


def on_unit_scale(volume: Tensor, renormalize: bool) -> NDArray[np.float64]:
    """Volumes of VAFA from the 0..255 scale: each slice stretched, or divided by 255 and clamped."""
    whole = volume.numpy()
    low = whole.min(axis=(2, 3), keepdims=True)
    return (whole - low) / np.ptp(whole, axis=(2, 3), keepdims=True) if renormalize else np.clip(whole / 255, 0, 1)


def apart(volume: NDArray[np.float64], result: AttackResult) -> float:
    return float(np.abs(volume - result.adversarial.double().numpy()).max())


@pytest.mark.integration
@pytest.mark.parametrize("per_slice", [False, True])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *(
            ("vafa_opt", {"renormalize": renormalize, "control": control})
            for renormalize in (False, True)
            for control in ("none", "uniform", "random")
        ),
        ("sa2_opt", {"rho": 0.4}),
        ("sa2_opt", {"rho": 0.4, "band": "middle"}),
        ("sa2", {"rho": 0.4, "band": "middle", "ssim_weight": 0, "keep": "best"}),
    ],
    ids=str,
)
def test_scipy_in_float64_remakes_the_volume_of_a_float32_state(name: str, changes: Any, per_slice: bool) -> None:
    """Float32 rounds some of many coefficients the other way if they lie between two multiples."""
    name += "_2d" if per_slice else ""
    images = drawn(5, shape=(32, 24, 20)).float()
    block = (16, 12) if per_slice else (16, 12, 10)
    result = attacked(name, SmallNet(), images, block=block, steps=2, loss="dicece", **changes)
    state = result.state.double().numpy()
    axes = tuple(range(state.ndim - len(block), state.ndim))
    blocks = (split_slices(images, (*block, 1)) if per_slice else split(images, block)).double().numpy()
    scale, middle = (1, 0.5) if "rho" in changes else (255, 128)
    spectrum = dctn(scale * blocks - middle, axes=axes, norm="ortho")
    if "rho" in changes:
        free = band_mask(changes.get("band", "all"), (*block, 1) if per_slice else block).reshape(block).numpy()
        free.flat[0] = False  # DC is exempt
        spectrum = np.where(free, state, 1) * spectrum
    else:
        assert 5 <= state.min() <= state.max() <= 20
        spectrum = state * np.round(spectrum / state)
    made = torch.from_numpy(idctn(spectrum, axes=axes, norm="ortho") + middle)
    whole = (merge_slices if per_slice else merge)(made, images.shape[2:])
    volume = whole.clamp(0, 1).numpy() if "rho" in changes else on_unit_scale(whole, changes["renormalize"])
    assert apart(volume, result) < 1e-6


@pytest.mark.parametrize("renormalize", [False, True])
def test_scipy_in_float64_remakes_the_volume_of_a_table_of_vafa(renormalize: bool) -> None:
    """Rounding stays soft to the end; the null row has the softness of the last step, 0.1 / steps."""
    images = drawn(5, shape=(32, 24, 20)).float()
    block = (16, 12, 10)
    softness = 0.1 / 20
    result = attacked("vafa", SmallNet(), images, block=block, steps=20, control="random", renormalize=renormalize)
    table = result.state.double().numpy()
    u = dctn(255 * split(images, block).double().numpy() - 128, axes=(3, 4, 5), norm="ortho") / table
    below = np.floor(u) + 0.5
    rounded = below + 0.5 / (1 - softness) * np.tanh(math.log(2 / softness - 1) * (u - below))
    made = torch.from_numpy(idctn(table * rounded, axes=(3, 4, 5), norm="ortho") + 128)
    assert apart(on_unit_scale(merge(made, images.shape[2:]), renormalize), result) < 1e-6


def test_null_rows_are_the_largest_table_and_ends_of_the_range() -> None:
    images = drawn(4)
    model = SmallNet().double()
    uniform = attacked("vafa_opt", model, images, control="uniform")
    assert uniform.state.unique().tolist() == [20]
    random = attacked("vafa_opt", model, images, control="random", renormalize=False)
    spectrum = torch.from_numpy(transform(255 * images - 128))
    low, high = reach(spectrum, 5, 20).bounds
    table = random.state[0, 0]
    error = (spectrum / table).round() * table - spectrum
    assert torch.minimum((error - low).abs(), (error - high).abs()).max() < 1e-9
    assert 0.2 < ((error - low).abs() < 1e-9).double().mean() < 0.8
    assert set(attacked("sa2_opt", model, images, control="random", rho=0.25).state.unique().tolist()) == {0.75, 1.25}
    assert attacked("sa2_opt", model, images, control="uniform", rho=0.25).state.unique().tolist() == [0.75]
    assert uniform.num_backwards == random.num_backwards == uniform.num_forwards == 0


def test_volume_that_differs_from_that_of_its_state_is_an_excess() -> None:
    images = drawn(7)
    for attack in (make(name, block=4, steps=2) for name in ("vafa_opt", "sa2_opt")):
        result = attack(SmallNet().double(), images, of_class(images))
        assert attack.excess(images, result.adversarial, result.state) <= 1e-9
        moved = result.adversarial.clone()
        moved[0, 0, 2, 2, 2] = 1 - moved[0, 0, 2, 2, 2]
        assert attack.excess(images, moved, result.state) > 1e-3
        assert attack.excess(images, result.adversarial, 2 * result.state) > 1e-3


@pytest.mark.parametrize("name", ["vafa_opt", "sa2_opt"])
def test_a_start_takes_the_place_of_the_draw(name: str) -> None:
    images = drawn(8)
    labels = torch.zeros(1, 1, *SHAPE, dtype=torch.long)
    attack = make(name, block=BLOCK, steps=1, keep="last", loss="ce")
    low, high = attack.bounds
    layout = (1, 1, 4, *BLOCK)
    volumes = [
        attack(SmallNet().double(), images, labels, start=torch.full(layout, value, dtype=torch.float64)).losses
        for value in (low, high)
    ]
    assert not torch.equal(*volumes)
    with pytest.raises(Exception, match=f"{name}: expected a start in"):
        attack(SmallNet().double(), images, labels, start=torch.full(layout, 2 * high, dtype=torch.float64))


@pytest.mark.parametrize("short", [0.0, 1e-4, -1e-4])
def test_uniform_null_row_equals_the_volume_of_its_table(short: float) -> None:
    """Next to a tie: the first coefficient of constant blocks is 30, one and a half times 20, a little less or more."""
    value = 30 - short
    root = math.sqrt(8)
    images = torch.full((1, 1, 8, 6, 4), (value / root + 128) / 255, dtype=torch.float64)
    attack = make("vafa_opt", q_max=20.0, block=2, renormalize=False, control="uniform")
    result = attack(SmallNet().double(), images, of_class(images))
    step = float(result.state.flatten()[0])
    made = (step * round(value / step) / root + 128) / 255
    assert float(result.adversarial.flatten()[0]) == pytest.approx(made, abs=1e-9)


STRONG = {"vafa_opt": {"q_max": 120, "renormalize": False}, "sa2_opt": {"rho": 0.9}}


def strong(name: str, **parameters: object) -> Attack:
    return make(name, **({"steps": 6, "block": 4, "loss": "ce"} | STRONG[name.removesuffix("_2d")] | parameters))


def bodies() -> tuple[Tensor, Tensor]:
    """Two samples in air, smooth inside, one of them with a hole of air."""
    images, labels = volumes(2, (12, 12, 8))
    images = torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 0, 1, 1, 1))).clamp(0.05, 1)
    images[:, :, :2] = 0
    images[0, :, 6:8, 6:8, 3:5] = 0
    return images, labels


def ssim_in_body(clean: Tensor, adversarial: Tensor) -> list[float]:
    """`tests/ops` holds it against scipy."""
    values: list[float] = body_ssim(clean)(adversarial).tolist()
    return values


@pytest.mark.parametrize("name", ["vafa_opt", "sa2_opt_2d"])
@pytest.mark.parametrize("control", ["none", "uniform", "random"])
def test_ssim_of_results_is_next_to_ssim_min(name: str, control: str) -> None:
    """Without it the SSIM is lower; with it it is next to the bound, in null rows too."""
    images, labels = bodies()
    free, bounded = (
        strong(name, control=control, ssim_min=ssim_min)(Net(), images, labels).adversarial for ssim_min in (None, 0.97)
    )
    assert max(ssim_in_body(images, free)) < 0.96
    assert all(0.97 - 1e-5 <= value < 0.975 for value in ssim_in_body(images, bounded))


def test_an_ssim_of_one_leaves_multipliers_at_one() -> None:
    images, labels = bodies()
    assert torch.equal(strong("sa2_opt", ssim_min=1)(Net(), images, labels).adversarial, images)


def test_an_unreachable_ssim_min_is_refused_in_one_line() -> None:
    """A second call with the number that it names goes through."""
    attacked = strong("vafa_opt", q_min=100, ssim_min=0.999)
    message = (
        r"^vafa_opt: ssim_min: expected at most (0\.\d{4}), which the mildest volume of the threat model has in this "
        r"window, got 0\.999: lower it$"
    )
    images, labels = bodies()
    with pytest.raises(UserError, match=message) as refused:
        attacked(Net(), images, labels)
    (most,) = re.findall(message, str(refused.value))
    adversarial = replace(attacked, ssim_min=float(most))(Net(), images, labels).adversarial
    assert min(ssim_in_body(images, adversarial)) >= float(most) - 1e-5


def test_a_volume_below_ssim_min_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqbench.attacks.core.searched.within_ssim", lambda *_: lambda x: x)
    with pytest.raises(ThreatModelError, match=r"^sa2_opt: dct-scaling-ssim bound exceeded by 0\."):
        strong("sa2_opt", ssim_min=0.97)(Net(), *bodies())
