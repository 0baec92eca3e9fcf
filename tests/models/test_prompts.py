"""Points of a promptable network: where they lie, and that the network sees them where the image has them."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from engine.cases import case_of
from tiny_job import execute, rows, small
from torch import Tensor, nn

from freqbench.attacks import LearnedAttack, make
from freqbench.audit import probes
from freqbench.core.errors import UserError
from freqbench.core.types import Case, Shape, Spacing, triple
from freqbench.engine import learning, memory
from freqbench.engine.attacking import Needs, attack_case
from freqbench.job.cells import Cell
from freqbench.job.rehearsal import SMALL_ARGS
from freqbench.models import ModelEntry, SegmentationModel, attack_windows, build, load, predict, resolve
from freqbench.models.entry import Inference, InputAdapter
from freqbench.models.networks.sam_med3d import SAMMed3D
from freqbench.models.networks.vista3d import VISTA3D
from freqbench.models.prompts import PointPrompts
from freqbench.models.wrapper import MeanOfProbabilities

from .conftest import prompts

ROI = (8, 12, 16)
POLICY = PointPrompts(count=3)


def dark(label: Tensor, spacing: Spacing = (1.0, 1.0, 1.0)) -> Case:
    """A volume of zeros with this label `[H, W, D]`."""
    return case_of(torch.zeros(1, *label.shape), label[None], spacing=spacing, original_spacing=spacing)


def blocks(*boxes: tuple[int, Shape, Shape], shape: Shape = (20, 20, 20)) -> Tensor:
    """A label of boxes, each a class, its first voxel and its size."""
    label = torch.zeros(shape, dtype=torch.uint8)
    for index, (h, w, d), (a, b, c) in boxes:
        label[h : h + a, w : w + b, d : d + c] = index
    return label


def clicked(label: Tensor, policy: PointPrompts = POLICY, spacing: Spacing = (1.0, 1.0, 1.0)) -> dict[int, Tensor]:
    """The voxels `[N, 3]` of each class that has any."""
    prompts = policy.draw_points(dark(label, spacing))
    assert prompts.shape == (1, *label.shape)
    assert prompts.dtype == torch.uint8
    return {int(index): (prompts[0] == index).nonzero() for index in prompts.unique() if index}


def test_points_lie_deep_in_the_largest_component() -> None:
    """The deepest voxels of a block of side 8 are 4 away from the outside, the outermost 1."""
    label = blocks((1, (2, 2, 2), (8, 8, 8)), (1, (14, 14, 14), (4, 4, 4)), (4, (14, 0, 0), (3, 3, 3)))
    clicks = clicked(label, PointPrompts(count=27))
    assert {index: len(points) for index, points in clicks.items()} == {1: 27, 4: 27}
    assert int(clicks[1].min()) >= 3
    assert int(clicks[1].max()) <= 8


def test_depth_is_in_millimetres() -> None:
    """The outermost of slices that are 8 mm apart are as deep as any voxel."""
    points = clicked(blocks((1, (2, 2, 2), (8, 8, 4))), PointPrompts(count=6 * 6 * 4), (1.0, 1.0, 8.0))[1]
    assert {*points[:, 2].tolist()} == {2, 3, 4, 5}
    assert (int(points[:, :2].min()), int(points[:, :2].max())) == (3, 8)


def test_edge_of_a_volume_is_a_surface() -> None:
    points = clicked(blocks((1, (0, 0, 0), (20, 8, 20))), PointPrompts(count=50))[1]
    assert (int(points[:, 1].min()), int(points[:, 1].max())) == (1, 6)


def test_points_are_the_deepest_voxels_if_few_are_deep() -> None:
    assert len(clicked(blocks((2, (3, 3, 3), (1, 1, 5))), PointPrompts(count=5))[2]) == 5


def test_points_depend_on_the_seed_and_on_no_other_draws() -> None:
    label = blocks((1, (2, 2, 2), (8, 8, 8)), (2, (12, 12, 12), (6, 6, 6)))
    first = clicked(label)
    np.random.seed(3)
    torch.manual_seed(3)
    again = clicked(label)
    other = clicked(label, replace(POLICY, seed=1))
    assert all(torch.equal(first[index], again[index]) for index in (1, 2))
    assert not any(torch.equal(first[index], other[index]) for index in (1, 2))


def test_points_of_a_class_do_not_depend_on_the_other_classes() -> None:
    alone = clicked(blocks((2, (12, 12, 12), (6, 6, 6))))
    assert torch.equal(alone[2], clicked(blocks((1, (2, 2, 2), (8, 8, 8)), (2, (12, 12, 12), (6, 6, 6))))[2])
    assert list(alone) == [2], "a class that the label lacks has none"


def test_too_few_voxels_are_one_line() -> None:
    with pytest.raises(UserError) as caught:
        clicked(blocks((1, (0, 0, 0), (1, 1, 2)), (1, (9, 9, 9), (1, 1, 1))))
    assert str(caught.value) == (
        "c: expected at least 3 voxels in the largest component of class 1, as a network is prompted by as many "
        "points, got 2: set args.points to at most 2"
    )


class Witness(nn.Module):
    """A network that checks that prompts are where the image is bright, and keeps how many classes it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt_policy = POLICY
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 1.0]))
        self.seen: list[int] = []

    def forward(self, images: Tensor, prompts: Tensor) -> Tensor:
        assert prompts.shape == images.shape
        assert torch.equal(images > 0.5, prompts > 0)
        self.seen += [int(each.count_nonzero()) for each in prompts]
        return images * self.weight.view(1, 3, 1, 1, 1)


@cache
def bright_where_clicked() -> Case:
    return bright(blocks((1, (1, 2, 3), (6, 6, 6)), (2, (10, 10, 10), (8, 8, 8)), shape=(22, 21, 19)))


def bright(label: Tensor) -> Case:
    """A volume that is 1 at the points of its label and 0 elsewhere."""
    return replace(dark(label), image=(POLICY.draw_points(dark(label)) > 0).float())


def witness(roi: Shape = ROI, mirror: str = "", axes: str = "HWD") -> tuple[Witness, SegmentationModel]:
    net = Witness()
    inference = Inference(mirror=mirror)
    return net, SegmentationModel(net, roi, adapter=InputAdapter(axes=axes), inference=inference).eval()


@pytest.mark.parametrize("axes", ["HWD", "D-WH", "-WD-H"])
@pytest.mark.parametrize("roi", [ROI, (32, 8, 24), (24, 24, 24)])
def test_prompts_are_cut_padded_and_turned_as_windows(axes: str, roi: Shape) -> None:
    case = bright_where_clicked()
    net, model = witness(roi, "HD", axes)
    predict(model.for_case(case), case.image, window_batch=3)
    assert sum(net.seen) >= 4 * 6, "each point in one window at least, four times mirrored"


@pytest.mark.parametrize("scope", ["window", "volume"])
@pytest.mark.parametrize("window_batch", [1, 4])
def test_every_step_of_an_attack_sees_the_prompts_of_its_window(scope: str, window_batch: int) -> None:
    case = bright_where_clicked()
    net, model = witness()
    result = attack_case(make("pgd", eps=0.1, steps=2, scope=scope), model, case, 0, window_batch)
    assert not torch.equal(result.adversarial, case.image)
    steps = 2 if scope == "window" else 4
    tiles = attack_windows(triple(case.label.shape[1:]), ROI)
    prompts = POLICY.draw_points(case)
    in_tiles = sum(int(prompts[:, h, w, d].count_nonzero()) for h, w, d in tiles)
    assert sum(net.seen) >= steps * (in_tiles if scope == "window" else 6)


def test_each_sample_is_shown_its_own_prompts() -> None:
    """Members of `autoattack` go on with the windows that none has broken yet: class 1 is found."""
    case = bright(blocks((2, (1, 1, 1), (5, 5, 5)), (1, (9, 1, 1), (5, 5, 5)), shape=(16, 12, 16)))
    net, model = witness()
    attack = make("autoattack", eps=0.1, steps=2, scope="window", members=("apgd-dice", "pgd-dicece"))
    result = attack_case(attack, model, case, 0, window_batch=2)
    assert net.seen
    first, second = (losses.isnan().sum() for losses in torch.cat(result.losses, dim=1).unbind(dim=1))
    assert first > second, "the window of class 2 has lost all to the first member"


@pytest.mark.integration
def test_surrogates_are_shown_prompts_too() -> None:
    case = bright_where_clicked()
    (net, model), (other, surrogate) = witness(), witness()
    attack = make("bases", eps=0.1, queries=2, surrogates=("a", "b"))
    attack_case(attack, model, case, 0, 4, Needs(surrogates=[surrogate, surrogate]))
    assert net.seen
    assert other.seen


def test_learning_from_several_cases_sees_the_prompts_of_each() -> None:
    net, model = witness()
    cases = [bright_where_clicked(), bright(blocks((1, (5, 5, 5), (9, 9, 9)), shape=(22, 21, 19)))]
    attack = cast(LearnedAttack, make("universal", eps=0.1, steps=2))
    assert learning.learn(attack, model, [partial(cases.__getitem__, i) for i in range(2)], 0, 3).any()
    assert {*net.seen} > {0}


def test_memory_and_gradients_are_measured_with_prompts() -> None:
    small = [(1, (h, w, d), (2, 2, 2)) for h in (10, 13, 16, 19) for w in range(1, 20, 3) for d in range(1, 17, 3)]
    case = bright(blocks((1, (1, 1, 1), (4, 4, 4)), *small, shape=(22, 21, 19)))
    net, model = witness()
    memory.first_step(make("pgd", eps=0.1, steps=2), model, case)
    assert len(net.seen) == 1
    cell = SimpleNamespace(
        dataset=SimpleNamespace(name="d", reference="label", load=lambda ref, space: case, case_key=lambda ref: "k"),
        dataset_shown="d",
        source=SimpleNamespace(name="m", model_id="i", space=None),
    )
    assert [*probes.facts_of_case(model, cast(Cell, cell), case.ref, 0.01, print)]
    assert all(net.seen[1:]), "windows with a prompt"


def test_a_model_that_is_asked_without_its_prompts_says_so() -> None:
    _, model = witness()
    with pytest.raises(UserError, match=r"use model\.for_case\(case\)$"):
        model(torch.zeros(1, 1, *ROI))


def test_a_model_without_prompts_is_itself_for_every_case() -> None:
    model = SegmentationModel(nn.Conv3d(1, 2, 1), ROI)
    assert model.for_case(bright_where_clicked()) is model
    assert model.cut(attack_windows((22, 21, 19), ROI)) is model
    assert not SegmentationModel(MeanOfProbabilities([model]), ROI).takes_prompts


SIDES = (16, 16, 16)
NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "vista3d": (VISTA3D, {"feature_size": 8, "blocks_down": [1, 1]}),
    "sam_med3d": (SAMMed3D, dict(SMALL_ARGS["sam_med3d"])),
}


def images(batch: int = 1, channels: int = 1) -> Tensor:
    return torch.rand(batch, channels, *SIDES, generator=torch.Generator().manual_seed(2))


def prompted(arch: str) -> nn.Module:
    return build(arch, 3, SIDES, NETWORKS[arch][1] | {"points": 1}).eval().requires_grad_(False)


@pytest.mark.parametrize("arch", NETWORKS)
def test_samples_and_classes_are_answered_by_their_own_points(arch: str) -> None:
    net = prompted(arch)
    one = prompts((1, 3, 3, 3))
    two = prompts((1, 3, 3, 3), (2, 9, 9, 9))
    both = net(images(2), torch.cat([one, two]))
    torch.testing.assert_close(both[:1], net(images(2)[:1], one), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(both[1:, 2], net(images(2)[1:], prompts((2, 9, 9, 9)))[:, 2], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(both[0, 1], both[1, 1])
    assert not torch.allclose(both[1, 1], both[1, 2])


@pytest.mark.parametrize("arch", NETWORKS)
def test_a_class_without_a_point_is_background_by_a_thousandth(arch: str) -> None:
    net = prompted(arch)
    x = images().requires_grad_()
    logits = net(images(), prompts((2, 5, 5, 5)))
    assert torch.equal(logits[:, 1], torch.full((1, *SIDES), -1e-3))
    assert logits[:, 2].std() > 0
    nobody = net(x, prompts())
    assert not nobody.argmax(dim=1).any()
    assert not torch.autograd.grad(nobody.sum(), x)[0].any()


@pytest.mark.parametrize(
    ("arch", "points", "precision"), [("vista3d", 0, "bf16"), ("vista3d", 1, "fp32"), ("sam_med3d", 1, "fp32")]
)
def test_gradient_reaches_every_voxel_of_every_channel(arch: str, points: int, precision: str) -> None:
    entry = ModelEntry(name="m", arch=arch, checkpoint="random", args=NETWORKS[arch][1] | {"points": points}, roi=SIDES)
    model = load(resolve(entry, 3, num_channels=2), torch.device("cpu"), precision)
    model.prompts = prompts((1, 5, 5, 5)) if points else None
    x = images(channels=2).requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(logits[:, 1].square().sum(), x)
    assert logits.shape == (1, 3, *SIDES)
    assert (gradient != 0).float().mean() > 0.99


@pytest.mark.integration
def test_both_volumes_are_asked_by_the_same_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGD by a network that sees points and by one that does not, each scored on both; twice, by two workers."""
    cls, args = NETWORKS["sam_med3d"]
    model = {"name": "p", "arch": "sam_med3d", "checkpoint": "random", "args": args | {"points": 2}, "roi": [*SIDES]}
    attacks = [{"name": "pgd", "eps": "8/255", "steps": 1, "scope": "volume"}]
    dataset = {"name": "phantom", "shape": [20, 16, 16], "cases": 1}
    content = small(models=[model, small()["models"][0]], attacks=attacks, datasets=[dataset], metrics=["dsc", "linf"])
    shown: list[Tensor] = []
    forward = cls.forward

    def kept(self: nn.Module, images: Tensor, prompts: Tensor | None = None) -> Tensor:
        if prompts is not None:
            shown.extend(prompts.clone().unbind())
        return forward(self, images, prompts)

    monkeypatch.setattr(cls, "forward", kept)
    for place in ("a", "b"):
        execute(content, tmp_path / place)
        records = rows(tmp_path / place).values()
        assert [row["status"] for row in records] == ["'ok'"] * 4
        assert [float(row["linf"]) for row in records] == pytest.approx([8 / 255] * 4, rel=1e-3)
    # Two windows each, in both runs: a step, then the clean volume and those of both sources.
    assert len(shown) == 2 * 2 * (1 + 3)
    assert any(each.any() for each in shown[:2])
    assert all(torch.equal(each, shown[i % 2]) for i, each in enumerate(shown))
