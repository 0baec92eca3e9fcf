"""A volume attacked as one: the same where it is one window, stronger on what is deployed where it is several."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from attacks.examples import EXAMPLES, entry, twin
from engine.cases import case_of, grid_of, volume
from tiny_job import job

from freqbench.attacks import ATTACKS, make
from freqbench.attacks.core.ensemble import Ensemble
from freqbench.core.errors import UserError
from freqbench.core.types import Case, Shape
from freqbench.engine.attacking import AttackedVolume, Needs, attack_case
from freqbench.job.cells import Unit
from freqbench.models import SegmentationModel, SlidingWindowModel, assemble, attack_windows, build, sliding_windows
from freqbench.ops.losses import dice_ce, mean_dice

ROI: Shape = (8, 8, 4)
SHAPE: Shape = (12, 12, 4)  # 2 x 2 windows to attack, and to predict
LONG: Shape = (20, 8, 4)  # 3 and 4
WHOLE = [name for name, attack in ATTACKS.items() if {"window", "volume"} <= {*attack.scopes}]
PARAMETERS = {name: EXAMPLES[name] | ({"eps": 0.05} if "eps" in EXAMPLES[name] else {}) for name in WHOLE}
a_few = pytest.mark.parametrize("name", ["pgd", "vafa_opt", "difgsm", "square", "autoattack"])  # one function for all


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    net = build("unet", 3, ROI, {"channels": [4, 8], "strides": [2], "num_res_units": 0}, seed=0)
    return SegmentationModel(net.requires_grad_(False), ROI).eval()


@pytest.fixture
def counted(model: SegmentationModel) -> Iterator[list[int]]:
    batches: list[int] = []
    hook = model.net.register_forward_hook(lambda module, inputs, output: batches.append(len(output)))
    yield batches
    hook.remove()


def make_case(model: SegmentationModel, shape: Shape) -> Case:
    """Labelled as the model predicts it: what is raised begins at its lowest."""
    image = volume(shape)
    with torch.no_grad():
        return case_of(image, SlidingWindowModel(model)(image[None]).argmax(1))


def attacked(
    name: str, model: SegmentationModel, case: Case, scope: str, window_batch: int = 2, graphs: int = 0, **more: Any
) -> AttackedVolume:
    attack = make(name, scope=scope, **PARAMETERS[name] | more)
    surrogates = [twin(model)] if attack.needs_surrogates else []
    return attack_case(attack, model, case, 0, window_batch, Needs(surrogates=surrogates), graphs)


def deployed_loss(model: SegmentationModel, case: Case, adversarial: torch.Tensor) -> float:
    with torch.no_grad():
        return float(dice_ce(SlidingWindowModel(model)(adversarial[None]), case.label[None].long()))


@a_few
@pytest.mark.parametrize("shape", [ROI, (6, 8, 3)])
def test_both_scopes_agree_to_the_bit_on_one_window(name: str, model: SegmentationModel, shape: Shape) -> None:
    case = make_case(model, shape)
    window, volume = (attacked(name, model, case, scope) for scope in ("window", "volume"))
    assert torch.equal(window.adversarial, volume.adversarial)
    assert window.facts == volume.facts


@pytest.mark.integration
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_volumes_own_attack_hurts_the_prediction_more(name: str, model: SegmentationModel) -> None:
    case = make_case(model, SHAPE)
    window, volume, joint = (attacked(name, model, case, s).adversarial for s in ("window", "volume", "joint"))
    clean, by_window, by_volume, jointly = (deployed_loss(model, case, x) for x in (case.image, window, volume, joint))
    assert min(by_volume, jointly) > by_window > clean
    assert max(float((made - case.image).abs().max()) for made in (volume, joint)) <= 0.05 + 1e-6


def test_windows_that_act_jointly_stay_in_the_set_of_each_window(model: SegmentationModel) -> None:
    case = make_case(model, LONG)
    row = {"control": "uniform", "block": 8}
    window, joint, volume = (
        attacked("vafa_opt", model, case, scope, **row).adversarial for scope in ("window", "joint", "volume")
    )
    assert torch.equal(window, joint)  # a null row has no gradient, which is all that the two differ in
    assert not torch.equal(window, volume)


def test_joined_windows_are_the_volume() -> None:
    windows = attack_windows(LONG, ROI)
    parts = torch.rand(len(windows), 1, *ROI, requires_grad=True)
    expected = torch.zeros(1, 1, *LONG)
    for (h, w, d), part in zip(windows, parts, strict=True):
        expected[0, :, h, w, d] = part.detach()
    made = assemble(parts, windows)
    assert torch.equal(made, expected)
    made.sum().backward()
    assert [float(gradient.sum()) for gradient in parts.grad] == [256.0, 128.0, 256.0]  # the third overwrites half


@pytest.mark.parametrize("scope", ["volume", "joint"])
@pytest.mark.parametrize("graphs", [1, 2, 9])
def test_kept_graphs_change_passes_alone(scope: str, graphs: int, model: SegmentationModel, counted: list[int]) -> None:
    case = make_case(model, LONG)
    steps = {"steps": 3}
    repeated = attacked("pgd", model, case, scope, 1, **steps)
    counted.clear()
    kept = attacked("pgd", model, case, scope, 1, graphs, **steps)
    assert torch.equal(kept.adversarial, repeated.adversarial)
    repeats = repeated.facts.num_forwards - 3 * min(graphs, repeated.facts.num_windows)
    assert sum(counted) == kept.facts.num_forwards == repeats
    assert kept.facts.num_backwards == repeated.facts.num_backwards


@pytest.mark.parametrize("name", ["vafa", "sa2", "rays"])
def test_attacks_without_joint_windows_name_those_that_have_them(name: str) -> None:
    with pytest.raises(UserError, match=r"scope: expected window.*got 'joint'.*vafa_opt"):
        make(name, scope="joint", **EXAMPLES[name])


@pytest.mark.parametrize("loss", ["dice", "mask-ce"])
def test_the_best_joint_volume_is_that_of_the_lowest_dice(loss: str, model: SegmentationModel) -> None:
    """The highest `mask-ce` belongs to another volume."""
    case = make_case(model, SHAPE)
    sliding = SlidingWindowModel(model)
    run = partial(attacked, "apgd", model, case, "joint", loss=loss)
    each = [run(keep="last", steps=n).adversarial for n in range(1, 5)]
    with torch.no_grad():
        best, *dice = (float(mean_dice(sliding(x[None]), case.label[None])) for x in (run(steps=4).adversarial, *each))
    assert best <= min(dice)


@pytest.mark.parametrize(("name", "scope"), [("pgd", "window"), ("pgd", "volume"), ("autoattack", "volume")])
def test_windows_at_once_change_nothing_but_a_few_signs(name: str, scope: str, model: SegmentationModel) -> None:
    case = make_case(model, SHAPE)
    one, three = (attacked(name, model, case, scope, batch).adversarial for batch in (1, 3))
    assert ((one - three).abs() > 1e-5).double().mean() < 5e-3


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        *((name, "volume") for name in ("pgd", "vafa_opt", "square", "autoattack")),
        *((name, "joint") for name in ("pgd", "apgd")),
        *((name, "window") for name in ("square", "autoattack")),
    ],
)
def test_passes_are_made_as_planned(name: str, scope: str, model: SegmentationModel, counted: list[int]) -> None:
    case = make_case(model, LONG)
    counted.clear()
    volume = attacked(name, model, case, scope, 3, graphs=1000)
    (cell,) = grid_of(job(attacks=[entry(name, scope=scope, **PARAMETERS[name])])).cells
    unit = Unit(cell=replace(cell, source=replace(cell.source, roi=ROI)), ref=case.ref, targets=())
    assert (sum(counted), max(counted)) == (volume.facts.num_forwards, 3)
    assert unit.passes_on(unit.cell.source) == volume.facts.num_forwards + volume.facts.num_backwards
    windows = attack_windows if scope == "window" else sliding_windows
    assert unit.num_windows == volume.facts.num_windows == len(windows(LONG, ROI))


def test_a_case_s_own_dice_is_at_most_that_of_any_member(model: SegmentationModel) -> None:
    """The bound holds for each volume that a member alone would keep."""
    case = make_case(model, SHAPE)
    sliding = SlidingWindowModel(model)

    def dice_of(volume: AttackedVolume) -> float:
        with torch.no_grad():
            return float(mean_dice(sliding(volume.adversarial[None]), case.label[None]))

    dice = dice_of(attacked("autoattack", model, case, "volume"))
    ensemble = make("autoattack", scope="volume", **PARAMETERS["autoattack"])
    assert isinstance(ensemble, Ensemble)
    for member in ensemble.attacks:
        assert dice <= dice_of(attack_case(replace(member, scope="volume"), model, case, 0, 2))
    assert dice < 1
