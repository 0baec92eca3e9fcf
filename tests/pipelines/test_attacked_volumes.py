"""The volume that attacks move under a pipeline: its bounds, its budget, and the voxels that nobody may move."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from draws import seeded
from engine.cases import case_of
from monai import transforms
from monai.data import MetaTensor
from pipelines import plans
from pipelines.plans import PLANS, Ours, Plan, seen
from torch import Tensor, nn

from freqbench.attacks import make
from freqbench.core.types import Beside, Case, CaseRef, NativeCase
from freqbench.data import cache
from freqbench.data.preprocess import attacked_native, prepare, resampling_error
from freqbench.engine.attacking import attack_case, native_budget
from freqbench.models import Inference, SegmentationModel, predict
from freqbench.pipelines.monai import MonaiPipeline, from_words
from freqbench.pipelines.pipeline import line_of

EPS = 0.03


class Pointwise(nn.Module):
    """Two classes from the sum of the channels at a voxel; it keeps what it was last given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.given: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.given.append(images.detach().clone())
        total = self.scale * images.sum(dim=1, keepdim=True)
        return torch.cat([-total, total], dim=1)


def native(image: Tensor, label: Tensor | None = None, sides: tuple[float, ...] = (1.0, 1.0, 1.0)) -> NativeCase:
    shape = image.shape[1:]
    ref = CaseRef(case_id="a", patient_id="a", fingerprint="0" * 16, shape=tuple(shape))  # type: ignore[arg-type]
    label = torch.zeros(1, *shape, dtype=torch.uint8) if label is None else label
    affine = np.diag([*sides, 1.0])
    return NativeCase(ref=ref, image=image, label=label, affine=affine, spacing=sides, source="a")  # type: ignore[arg-type]


def skull(shape: tuple[int, int, int] = (12, 10, 8), channels: int = 1) -> Tensor:
    """Positive intensities in a ball, 0 around it."""
    places = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape), indexing="ij"))
    inside = places.square().sum(dim=0) < 0.8
    return (200 + 50 * torch.randn(channels, *shape, generator=seeded(2))).clamp(min=1) * inside


NONZERO = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True}


def masked(image: Tensor, **pipeline: Any) -> Case:
    """Z-scores of the voxels that are not 0."""
    return prepare(native(image, (image[:1] > 200).byte()), from_words([NONZERO], "job", **pipeline))


def model_of(case: Case, roi: tuple[int, int, int] = (6, 10, 8)) -> tuple[SegmentationModel, Pointwise]:
    net = Pointwise().eval()
    return SegmentationModel(net, roi, inference=Inference()).for_case(case), net


def beside(image: Tensor, fixed: Tensor | None, rest: Tensor | None, *bounds: tuple[float, float]) -> Case:
    return case_of(image, image[:1] > 0.5, prepared=Beside(bounds=bounds, rest=rest, fixed=fixed, facts={}))


def test_input_is_low_plus_width_x_plus_rest() -> None:
    generator = seeded(0)
    image, rest = (torch.rand(2, 12, 10, 8, generator=generator) for _ in range(2))
    fixed = torch.rand(2, 12, 10, 8, generator=generator) < 0.3
    model, net = model_of(beside(image, fixed, rest, (-2.0, 3.0), (10.0, 14.0)))
    predict(model, image[None], 1)
    low = torch.tensor([-2.0, 10.0]).view(2, 1, 1, 1)
    width = torch.tensor([5.0, 4.0]).view(2, 1, 1, 1)
    wanted = torch.where(fixed, rest, low + width * image + rest)
    torch.testing.assert_close(torch.cat([window[0] for window in net.given[::2]], dim=1), wanted)


def test_no_gradient_passes_where_voxels_are_fixed() -> None:
    image = torch.full((1, 6, 10, 8), 0.5)
    fixed = torch.rand(image.shape, generator=seeded(1)) < 0.4
    model, _ = model_of(beside(image, fixed, None, (-5.0, 5.0)))
    given = image[None].clone().requires_grad_()
    model.cut([(slice(0, 6), slice(0, 10), slice(0, 8))])(given)[:, 1].sum().backward()
    assert given.grad is not None
    assert bool((given.grad[0][fixed] == 0).all())
    torch.testing.assert_close(given.grad[0][~fixed], torch.full_like(given.grad[0][~fixed], 10.0))


@pytest.mark.parametrize("name", ["pgd", "vafa_opt", "gn"])
def test_fixed_voxels_stay_and_the_others_keep_the_budget_of_x(name: str) -> None:
    case = masked(skull())
    assert case.prepared is not None
    assert case.prepared.fixed is not None
    assert torch.equal(case.prepared.fixed, skull() == 0)
    settings: dict[str, Any] = {
        "pgd": {"eps": EPS, "steps": 3},
        "vafa_opt": {"q_max": 20, "steps": 2, "block": 2},
        "gn": {"std": EPS},
    }[name]
    model, _ = model_of(case)
    made = attack_case(make(name, **settings), model, case, 0, 2).adversarial
    moved = made - case.image
    assert bool((moved[case.prepared.fixed] == 0).all())
    assert bool((moved != 0).any())
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    if name == "pgd":
        assert float(moved.abs().max()) <= EPS + 1e-6


def test_budget_in_files_unit_is_exact_where_way_is_line() -> None:
    """Z-scores of voxels inside a mask span 10 of their deviations."""
    image = skull()
    wanted = EPS * 10 * float(image[image != 0].double().std(correction=0))
    assert native_budget(make("pgd", eps=EPS), masked(image)) == pytest.approx(wanted, rel=1e-4)
    stated = masked(image, bounds=((-1.0, 3.0),))
    assert native_budget(make("pgd", eps=EPS), stated) == pytest.approx(wanted * 4 / 10, rel=1e-4)


def test_budget_in_files_unit_is_none_where_way_is_no_line() -> None:
    case = prepare(native(skull()), from_words([{"_target_": "HistogramNormalized", "keys": "image"}], "job"))
    assert np.isnan(case.native_ranges).all()
    assert native_budget(make("pgd", eps=EPS), case) is None


@pytest.mark.parametrize(("slope", "offset"), [(0.02, 1.0), (5.0, 100.0)])
def test_a_line_is_found_in_spite_of_clipped_voxels_and_a_mask(slope: float, offset: float) -> None:
    raw = np.random.default_rng(0).normal(0, 100, (1, 20, 20, 20)).astype(np.float32)
    made = np.clip(slope * raw + offset, slope * -150 + offset, slope * 120 + offset)
    made[:, :5] = 0
    line = line_of(raw[0], made[0].astype(np.float32))
    assert line is not None
    assert (line.slope, line.offset) == pytest.approx((slope, offset), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("bent", [np.square, np.sin, lambda x: -x, lambda x: x * 0 + 1])
def test_no_line_is_made_of_what_is_none(bent: Any) -> None:
    raw = np.random.default_rng(0).normal(0, 1, (20, 20, 20)).astype(np.float32)
    assert line_of(raw, bent(raw).astype(np.float32)) is None


def loaded(plan: Plan, folder: Path, **entry: Any) -> tuple[Ours, NativeCase]:
    """The case of a plan as freqbench prepares it, and its file."""
    ours = plans.by_freqbench(*plans.written(plan, folder), **entry)
    (image, label) = plans.drawn(plan)
    file = NativeCase(
        ref=ours.case.ref,
        image=torch.from_numpy(image),
        label=torch.from_numpy(label)[None],
        affine=plans.affine_of(plan),
        spacing=plan.sides,
        source="a",
    )
    return ours, file


PREPARED_AGAIN = [
    Plan(name="CT", channels=("CT",), schemes=("CTNormalization",), sides=(1.5, 1.5, 2.0)),
    Plan(name="z-scores", sides=(1.5, 1.5, 2.0)),
    *(plan for plan in PLANS if plan.has_skull),
]


@pytest.mark.parametrize("plan", PREPARED_AGAIN, ids=lambda plan: plan.name)
def test_attacked_file_prepared_again_is_the_volume(plan: Plan, tmp_path: Path) -> None:
    """On the file's own grid but for rounding and for statistics that follow the volume."""
    ours, file = loaded(plan, tmp_path)
    noise = torch.randn(ours.case.image.shape, generator=seeded(3)) * 0.002
    made = (ours.case.image + noise).clamp(0, 1)
    fixed = ours.case.prepared.fixed if ours.case.prepared else None
    made = made if fixed is None else torch.where(fixed, ours.case.image, made)
    error = resampling_error(file, attacked_native(file, ours.case, made, ours.pipeline), made, ours.pipeline)
    assert error < (1e-4 if not plan.has_skull else 0.002)  # the latter is resampled, which halves white noise


RESAMPLED = [
    *(plan for plan in PLANS if plan.has_skull or plan.has_margin),
    Plan(name="skull-stripped, no mask", sides=(1.3, 1.7, 2.4), has_skull=True),
]


@pytest.mark.parametrize("plan", RESAMPLED, ids=lambda plan: plan.name)
def test_resampled_attack_keeps_budget_box_and_mask_of_file(plan: Plan, tmp_path: Path) -> None:
    """Box and mask are those that nnunetv2 finds."""
    ours, file = loaded(plan, tmp_path)
    case = ours.case
    pipeline = ours.pipeline
    noise = torch.randn(case.image.shape, generator=seeded(3)).sign() * EPS
    made = (case.image + noise).clamp(0, 1)
    fixed = case.prepared and case.prepared.fixed
    made = made if fixed is None else torch.where(fixed, case.image, made)
    attacked = attacked_native(file, case, made, pipeline)
    change = (attacked.image - file.image).abs()
    for channel, (low, high) in enumerate(case.native_ranges):
        assert 0 < float(change[channel].max()) <= EPS * (high - low) * (1 + 1e-4)
    (_, mask, box), (_, moved, its) = map(cropped, (file, attacked))
    assert box == its
    assert np.array_equal(mask, moved) or not plan.masks[0]
    np.testing.assert_array_equal(pipeline.again(attacked, pipeline.prepare(file)), pipeline.prepare(attacked).data)


def test_ct_keeps_its_budget_between_stated_bounds_and_its_clip(tmp_path: Path) -> None:
    """The network is given what lies beyond its bounds, to which the perturbation is added."""
    ours, file = loaded(PREPARED_AGAIN[0], tmp_path, bounds=((-1.0, 1.0),))
    ((low, high),) = ours.case.native_ranges
    made = (ours.case.image + 0.01).clamp(0, 1)
    change = (attacked_native(file, ours.case, made, ours.pipeline).image - file.image).abs()
    assert 0 < float(change.max()) <= 0.01 * (high - low) * (1 + 1e-4)


def cropped(file: NativeCase) -> Any:
    """Volume, mask and box that nnunetv2 cuts out of a file."""
    return import_module("nnunetv2.preprocessing.cropping.cropping").crop_to_nonzero(file.image.numpy().copy())


def test_a_file_with_another_box_is_laid_on_the_clean_grid(tmp_path: Path) -> None:
    """Its statistics are those of the box that nnunetv2 finds in the file."""
    plan = next(plan for plan in PLANS if plan.has_margin)
    ours, file = loaded(plan, tmp_path)
    grown = file.image.clone()
    grown[0, 0, 0, 0] = 4000
    other = replace(file, image=grown)
    clean = ours.pipeline.prepare(file)
    body = file.image[file.image != 0].double()
    again = ours.pipeline.again(other, clean)
    assert again.shape == clean.data.shape != ours.pipeline.prepare(other).data.shape
    box = cropped(other)[0]
    wanted = (float(clean.data.median() * body.std() + body.mean()) - box.mean()) / box.std()
    assert float(again.median()) == pytest.approx(wanted, abs=0.05)  # of another grid
    assert resampling_error(file, other, ours.case.image, ours.pipeline) > 0.01


def test_array_that_its_own_compose_prepares_is_attacked_volume() -> None:
    """`transforms=Compose([...])` of Python, of arrays and of dictionaries: x spans the Compose's own output."""
    image = skull(channels=2)
    for compose in (
        transforms.Compose([transforms.NormalizeIntensity(nonzero=True, channel_wise=True)]),
        transforms.Compose([transforms.NormalizeIntensityd("image", nonzero=True, channel_wise=True)]),
    ):
        case = prepare(native(image), MonaiPipeline(release="0", compose=compose))
        given: Any = MetaTensor(image.clone())
        takes_keys = isinstance(compose.transforms[0], transforms.MapTransform)
        wanted = compose({"image": given})["image"] if takes_keys else compose(given)
        torch.testing.assert_close(seen(case, case.image), wanted.as_tensor(), atol=1e-5, rtol=0)


def test_tensors_made_beside_a_volume_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("FREQBENCH_CACHE_GB", raising=False)
    words = from_words([NONZERO, {"_target_": "SpatialPadd", "keys": "image", "spatial_size": [16, 16, 16]}], "job")
    made = prepare(native(skull(channels=2)), words)
    cache.cached_case(made.ref, lambda: made, case="key", space=None)
    back = cache.cached_case(made.ref, lambda: pytest.fail("it was made anew"), case="key", space=None)
    assert made.prepared is not None
    assert back.prepared is not None
    for name in ("fixed", "rest"):
        ours = getattr(made.prepared, name)
        theirs = getattr(back.prepared, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
    assert back.prepared.bounds == made.prepared.bounds
    logits = torch.randn(3, *made.image.shape[1:], generator=seeded(0))
    one, other = (words.restore(each.prepared.facts, logits, "softmax", False, True) for each in (made, back))  # type: ignore[union-attr]
    assert torch.equal(one[0], other[0])
    assert one[0].shape == (12, 10, 8)
