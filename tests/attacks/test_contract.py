"""Every entry of ATTACKS through one contract."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freqbench.attacks import ATTACKS, Attack, AttackResult, make
from freqbench.attacks.base import LinfAttack
from freqbench.attacks.frequency import FrequencyAttack
from freqbench.errors import ParameterError, ThreatModelError, UserError
from freqbench.ops.losses import dice_ce

EXAMPLES: dict[str, dict[str, Any]] = {
    "gn": {"std": 8 / 255},
    "fgsm": {"eps": 8 / 255},
    "bim": {"eps": 8 / 255, "steps": 5},
    "pgd": {"eps": 8 / 255, "steps": 8},
    "apgd": {"eps": 8 / 255, "steps": 8},
    "padam": {"eps": 8 / 255, "steps": 12},
    "almaprox": {"share": 0.9, "steps": 20, "step_size": 0.02},
    "faa": {"portion": 0.34, "bands": 12, "steps": 2, "reconstruction_weight": 0.0},
    "vafa": {"q_max": 20, "steps": 5, "block": 4},
    "sa2": {"rho": 0.4, "steps": 5, "block": 4},
}
LINF = [name for name, attack in ATTACKS.items() if issubclass(attack, LinfAttack)]
FREQUENCY = [name for name, attack in ATTACKS.items() if issubclass(attack, FrequencyAttack)]
INTENSITY = [name for name, attack in ATTACKS.items() if attack.threat_model in ("linf", "gaussian")]
GRADIENT = [name for name in ATTACKS if make(name, **EXAMPLES[name]).passes[1] > 0]
every_attack = pytest.mark.parametrize("name", ATTACKS)


class Threshold(nn.Module):
    """Class 1 where a voxel is above 0.5: what can be flipped is known."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.5 - x, x - 0.5], dim=1)


class SmallNet(nn.Module):
    """Three classes, batch normalisation and dropout, so that a wrong mode shows."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.first = nn.Conv3d(1, 6, 3, padding=1)
            self.norm = nn.BatchNorm3d(6)
            self.drop = nn.Dropout(0.5)
            self.last = nn.Conv3d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.drop(torch.tanh(self.norm(self.first(x)) * 4)))
        return logits


def volumes(batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(batch, 1, 8, 6, 4, generator=generator)
    return images, torch.randint(0, 3, images.shape, generator=generator)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class Referred:
    """An attack that is called with the reference that it needs: each sample's own volume, squared."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attack, name)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> AttackResult:
        return self._attack(model, images, labels, reference=images.square(), **options)


def referred(attack: Attack) -> Any:
    return Referred(attack) if attack.needs_reference else attack


def example(name: str, **changes: Any) -> Any:
    return referred(make(name, **(EXAMPLES[name] | changes)))


def test_every_attack_has_an_example_and_its_own_name() -> None:
    assert set(EXAMPLES) == set(ATTACKS)
    assert {name: attack.name for name, attack in ATTACKS.items()} == {name: name for name in ATTACKS}


@pytest.mark.parametrize("name", LINF)
def test_flips_exactly_the_voxels_within_reach(name: str) -> None:
    """On a threshold model a voxel can be flipped iff |x - 0.5| < eps: any more is a bug, any less a weak attack."""
    images = torch.linspace(0.4, 0.6, 8 * 6 * 4).reshape(1, 1, 8, 6, 4)
    labels = (images > 0.5).long()
    eps = EXAMPLES[name]["eps"]
    adversarial = example(name)(Threshold(), images, labels).adversarial
    flipped = (adversarial > 0.5).long() != labels
    reach = (images - 0.5).abs()
    decided = (reach - eps).abs() > 1e-6
    assert torch.equal(flipped[decided], (reach < eps)[decided])


@pytest.mark.parametrize("name", LINF)
def test_stays_in_the_ball(name: str) -> None:
    images, labels = volumes()
    adversarial = example(name)(SmallNet(), images, labels).adversarial
    assert float((adversarial - images).abs().max()) <= EXAMPLES[name]["eps"] + 1e-6
    assert float(adversarial.min()) >= 0
    assert float(adversarial.max()) <= 1


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "vafa"])
def test_zero_budget_changes_nothing(name: str) -> None:
    images, labels = volumes()
    result = example(name, **{ATTACKS[name].budget_name: 0.0})(SmallNet(), images, labels)
    assert torch.equal(result.adversarial, images)


def test_the_least_budget_of_vafa_changes_next_to_nothing() -> None:
    """A quantisation step cannot be 0, and stretching slices is no matter of the budget."""
    images, labels = volumes()
    result = example("vafa", q_max=1e-3, q_min=1e-3, renormalize=False)(SmallNet(), images, labels)
    assert torch.allclose(result.adversarial, images, rtol=0, atol=1e-5)


@every_attack
def test_same_generator_same_result_and_global_state_untouched(name: str) -> None:
    images, labels = volumes()
    before = torch.random.get_rng_state()
    first = example(name)(SmallNet(), images, labels, generator=generators(1, 2))
    second = example(name)(SmallNet(), images, labels, generator=generators(1, 2))
    assert torch.equal(first.adversarial, second.adversarial)
    assert torch.equal(before, torch.random.get_rng_state())


@every_attack
def test_draws_iff_it_says_so(name: str) -> None:
    images, labels = volumes()
    attack = example(name)
    first, second = (attack(SmallNet(), images, labels, generator=generators(s, s + 1)) for s in (1, 7))
    assert torch.equal(first.adversarial, second.adversarial) == (not attack.is_stochastic)


@every_attack
def test_no_generator_is_seed_zero(name: str) -> None:
    images, labels = volumes()
    default = example(name)(SmallNet(), images, labels)
    seeded = example(name)(SmallNet(), images, labels, generator=torch.Generator().manual_seed(0))
    assert torch.equal(default.adversarial, seeded.adversarial)


@every_attack
def test_batch_equals_singles(name: str) -> None:
    images, labels = volumes(3)
    attack, model = example(name), SmallNet()
    batch = attack(model, images, labels, generator=generators(1, 2, 3))
    singles = [attack(model, images[i : i + 1], labels[i : i + 1], generator=generators(i + 1)) for i in range(3)]
    moved = (batch.adversarial - torch.cat([single.adversarial for single in singles])).abs() > 1e-6
    assert float(moved.double().mean()) <= 2e-3
    assert torch.allclose(batch.losses, torch.cat([single.losses for single in singles], dim=1), atol=1e-4)


@every_attack
def test_model_and_inputs_are_left_as_found(name: str) -> None:
    images, labels = volumes()
    model = SmallNet()
    model.train()
    model.drop.eval()
    model.first.weight.grad = torch.ones_like(model.first.weight)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    inputs = images.clone(), labels.clone()
    example(name)(model, images, labels)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    assert [model.training, model.norm.training, model.drop.training] == [True, True, False]
    assert torch.equal(model.first.weight.grad, torch.ones_like(model.first.weight))
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(images, inputs[0])
    assert torch.equal(labels, inputs[1])


@every_attack
def test_works_under_no_grad_and_inference_mode_alike(name: str) -> None:
    images, labels = volumes()
    plain = example(name)(SmallNet(), images, labels).adversarial
    with torch.no_grad():
        assert torch.equal(example(name)(SmallNet(), images, labels).adversarial, plain)
    model = SmallNet()
    with torch.inference_mode():
        inside = example(name)(model, images.clone(), labels.clone()).adversarial
    assert torch.equal(inside, plain)


@every_attack
def test_passes_are_those_promised(name: str) -> None:
    images, labels = volumes()
    attack, calls = example(name), []
    model = SmallNet()
    model.register_forward_hook(lambda *_: calls.append(1))
    result = attack(model, images, labels)
    assert (result.num_forwards, result.num_backwards) == attack.passes
    assert len(calls) == result.num_forwards
    assert result.losses.shape == (result.num_backwards, 2)


@pytest.mark.parametrize("name", GRADIENT)
def test_untargeted_raises_the_loss_and_targeted_lowers_it(name: str) -> None:
    """From the clean volume; where the start alone changes much, from that of the null row."""
    images, labels = volumes()
    model = SmallNet().eval()
    begin = images
    if name in FREQUENCY:
        begin = example(name, control="uniform" if name == "vafa" else "random")(model, images, labels).adversarial
    before = dice_ce(model(begin), labels)
    for targeted, sign in ((False, 1), (True, -1)):
        adversarial = example(name, targeted=targeted)(model, images, labels).adversarial
        assert bool((sign * (dice_ce(model(adversarial), labels) - before) > 0).all())


@every_attack
def test_float64_stays_float64(name: str) -> None:
    images, labels = volumes()
    result = example(name)(SmallNet().double(), images.double(), labels)
    assert result.adversarial.dtype == torch.float64


@every_attack
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x, y: (x * 255, y), "expected images in [0, 1]"),
        (lambda x, y: (x - 0.5, y), "rescale intensities in the dataset, not in the attack."),
        (lambda x, y: (x * float("nan"), y), "expected images in [0, 1]"),
        (lambda x, y: (x[0], y[0]), "expected images [B, 1, H, W, D], got 1x8x6x4"),
        (lambda x, y: (x.expand(-1, 2, -1, -1, -1), y), "expected images [B, 1, H, W, D]"),
        (lambda x, y: (x.half(), y), "expected float32 or float64 images"),
        (lambda x, y: (x, y[:1]), "expected labels of the images' shape 2x1x8x6x4, got 1x1x8x6x4"),
        (lambda x, y: (x, y.float()), "expected integer labels"),
    ],
)
def test_bad_input_is_one_clear_line(name: str, change: Any, expected: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        example(name)(SmallNet(), *change(*volumes()))
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"{name}: ")


@pytest.mark.parametrize("name", GRADIENT)
def test_labels_beyond_the_models_classes_are_refused(name: str) -> None:
    images, labels = volumes()
    with pytest.raises(UserError, match=r"expected labels in 0\.\.2 for 3 classes of the model, got 0\.\.7"):
        example(name)(SmallNet(), images, torch.where(labels == 2, 7, labels))


@pytest.mark.parametrize("name", LINF)
def test_leaving_the_ball_raises_instead_of_clipping(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = volumes()
    monkeypatch.setattr(ATTACKS[name], "perturb", lambda self, task: (task.clean + 0.2).clamp(0, 1))
    with pytest.raises(ThreatModelError, match=f"{name}: linf bound exceeded by 0.16"):
        example(name)(SmallNet(), images, labels)


@pytest.mark.parametrize("name", INTENSITY)
def test_budget_in_grey_levels_is_refused_with_a_hint(name: str) -> None:
    budget = ATTACKS[name].budget_name
    with pytest.raises(ParameterError, match=f"{name}: {budget}: .*got 8. Did you mean 8/255?"):
        example(name, **{budget: 8})


def test_unknown_names_come_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="Did you mean 'pgd'"):
        make("pdg", eps=0.1)
    with pytest.raises(ParameterError, match="Did you mean 'steps'"):
        make("pgd", eps=0.1, step=3)
    with pytest.raises(ParameterError, match="pgd: eps: required"):
        make("pgd")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"eps": True}, "eps: expected a number"),
        ({"eps": "8/255"}, "eps: expected a number"),
        ({"eps": float("nan")}, "eps: expected a number"),
        ({"eps": -0.1}, "eps: expected a number"),
        ({"eps": 0.1, "steps": 0}, "steps: expected a whole number of at least 1"),
        ({"eps": 0.1, "steps": 2.5}, "steps: expected a whole number"),
        ({"eps": 0.1, "random_start": 1}, "random_start: expected true or false"),
        ({"eps": 0.1, "variant": "mine"}, "variant: expected released or paper, got 'mine'"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], expected: str) -> None:
    with pytest.raises(ParameterError) as caught:
        make("pgd", **parameters)
    assert expected in str(caught.value)


def test_start_of_another_shape_is_refused() -> None:
    images, labels = volumes()
    with pytest.raises(UserError, match="pgd: expected a start of shape"):
        example("pgd")(SmallNet(), images, labels, start=torch.zeros(1, 1, 8, 6, 4))


def test_one_generator_a_sample_or_one_for_all() -> None:
    images, labels = volumes()
    with pytest.raises(UserError, match="expected one generator or 2, one a sample, got 3"):
        example("pgd")(SmallNet(), images, labels, generator=generators(1, 2, 3))
