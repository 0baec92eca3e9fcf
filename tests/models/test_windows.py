"""Padding and axes of windows: in the network's input, on its axes or each file's, and as the papers' jobs have it."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from engine.cases import case_of
from torch import Tensor, nn

import freqbench as fb
from freqbench.attacks import make
from freqbench.core.errors import UserError
from freqbench.core.types import Case, CaseRef, Shape
from freqbench.data import DATASETS
from freqbench.engine.attacking import attack_case
from freqbench.models import Inference, InputAdapter, ModelEntry, ModelSpec, SegmentationModel, predict, resolve
from freqbench.models.wrapper import MeanOfProbabilities

ROI: Shape = (6, 4, 4)
SHORT: Shape = (3, 4, 4)
CT = InputAdapter(scale=(-175, 250), mean=40, std=100)


class Seen(nn.Module):
    """Two classes by the input's sign; keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.inputs: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.inputs.append(images.detach().clone())
        return torch.cat([images, -images], 1) * self.weight


def case(axes: str, shape: Shape = SHORT) -> Case:
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(4))
    ref = CaseRef(case_id="a", patient_id="a", fingerprint="0" * 16, shape=shape, axes=axes)
    return case_of(image, image > 0.5, ref=ref)


@pytest.mark.parametrize(("padding", "expected"), [(0.0, 0.0), (-3.5, -3.5), ("volume", (-175 - 40) / 100)])
def test_a_short_axis_is_padded_in_the_networks_input(padding: Any, expected: float) -> None:
    """A number in its unit, or the volume's lowest intensity: the lower end of the CT window in that unit."""
    net = Seen()
    SegmentationModel(net, ROI, adapter=CT, inference=Inference(padding=padding))(torch.rand(1, 1, *SHORT))
    outside = torch.cat([net.inputs[0][:, :, :1], net.inputs[0][:, :, 4:]], 2)
    torch.testing.assert_close(outside, torch.full((1, 1, 3, 4, 4), expected))


@pytest.mark.parametrize(("axes", "padding", "before"), [("HWD", 0.0, 1), ("-HWD", 0.0, 2), ("-HWD", "volume", 1)])
def test_smaller_half_of_padding_comes_first_on_networks_axis(axes: str, padding: Any, before: int) -> None:
    net = Seen()
    model = SegmentationModel(net, ROI, adapter=InputAdapter(axes=axes), inference=Inference(padding=padding))
    logits = model(torch.ones(1, 1, *SHORT))
    along_volume = net.inputs[0].flip(2) if axes.startswith("-") else net.inputs[0]
    assert along_volume[0, 0, :, 0, 0].tolist() == [0.0] * before + [1.0] * 3 + [0.0] * (3 - before)
    assert (logits[:, 0] == 1).all()


@pytest.mark.parametrize("name", ["pgd", "vafa", "sa2", "square"])
def test_no_attack_changes_what_network_sees_outside_volume(name: str) -> None:
    net = Seen()
    budget = {"pgd": {"eps": 0.2}, "square": {"eps": 0.2}}.get(name, {"block": 4})
    steps = {"queries": 30} if name == "square" else {"steps": 3}
    attack_case(make(name, **budget, **steps), SegmentationModel(net, ROI, adapter=CT), case("RAS"), 0, 1)
    assert len(net.inputs) >= 3
    assert all((seen[:, :, :1] == 0).all() and (seen[:, :, 4:] == 0).all() for seen in net.inputs)
    assert any((seen[:, :, 1:4] != net.inputs[0][:, :, 1:4]).any() for seen in net.inputs)


def test_reflection_further_than_volume_is_refused_in_one_line() -> None:
    model = SegmentationModel(Seen(), (9, 4, 4), inference=Inference(padding="reflect"))
    with pytest.raises(UserError, match=r"padding: expected reflect to be shorter than the volume, got \(3, 4, 4\)"):
        model(torch.rand(1, 1, *SHORT))


def test_members_of_an_ensemble_pad_in_their_own_unit() -> None:
    nets = Seen(), Seen()
    pairs = zip(nets, (CT, InputAdapter()), strict=True)
    members = [SegmentationModel(net, ROI, adapter=adapter) for net, adapter in pairs]
    assert SegmentationModel(MeanOfProbabilities(members), ROI)(torch.rand(1, 1, *SHORT)).shape == (1, 2, *SHORT)
    assert all((net.inputs[0][:, :, 4:] == 0).all() and net.inputs[0].shape[2:] == ROI for net in nets)


def spec(**given: Any) -> ModelSpec:
    args = {"channels": [4, 8], "strides": [2]}
    return resolve(ModelEntry(name="m", arch="unet", checkpoint="random", args=args, roi=(8, 8, 8), **given), 3)


@pytest.mark.parametrize(
    ("given", "is_former"),
    [
        ({}, True),
        ({"scale": (0, 3), "axes": "DHW"}, True),
        ({"scale": (-1, 1)}, False),
        ({"mean": 0.3}, False),
        ({"axes": "-HWD"}, False),
    ],
)
def test_other_padding_is_another_model_where_it_matters(given: Any, is_former: bool) -> None:
    """`volume` is what was computed before there was the key, so that its rows keep their identity."""
    former = spec(input=given, inference={"padding": "volume"}).model_id
    assert (spec(input=given).model_id == former) is is_former
    assert spec(input=given, inference={"padding": "replicate"}).model_id != former
    value = -1.0 if given.get("scale") == (-1, 1) else 0.25
    assert (spec(input=given, inference={"padding": value}).model_id == former) is (value == -1.0)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PSR", "IRA"])
def test_a_network_of_files_is_given_each_file_as_it_lies(codes: str, tmp_path: Path) -> None:
    """The case is turned to RAS; the network is given what was written, whatever the header says."""
    written = np.random.default_rng(1).random((7, 6, 5), np.float32)
    write_volume(tmp_path / "a.nii.gz", written, codes, (1, 1, 1))
    loaded = fb.Case.from_file(tmp_path / "a.nii.gz", intensity="minmax", crop_foreground=False).volume
    net = Seen()
    model = SegmentationModel(net, (7, 6, 5), adapter=InputAdapter(axes="KJI"), inference=Inference(mirror="I"))
    turned = model.for_case(loaded)
    predict(turned, loaded.image)
    wanted = torch.from_numpy((written - written.min()) / np.ptp(written)).permute(2, 1, 0)
    torch.testing.assert_close(net.inputs[0][0, 0], wanted)
    torch.testing.assert_close(net.inputs[1][0, 0], wanted.flip(2))
    assert turned.for_case(case("RAS")).adapter.axes == "DWH"


def test_two_orientations_are_one_attack_and_prediction(tmp_path: Path) -> None:
    """The same array under two headers is one volume to a network of files: equal labels, equal perturbations."""
    rng = np.random.default_rng(2)
    written = rng.random((9, 8, 6), np.float32)
    drawn = (rng.random((9, 8, 6)) < 0.4).astype(np.uint8)
    for name, codes in (("a", "RAS"), ("b", "LPS")):
        write_volume(tmp_path / f"imagesTr/{name}.nii.gz", written, codes, (1, 1, 1))
        write_volume(tmp_path / f"labelsTr/{name}.nii.gz", drawn, codes, (1, 1, 1))
    lines = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in "ab"]
    content = f'{{"labels": {{"0": "b", "1": "x"}}, "training": {lines}}}'
    (tmp_path / "dataset.json").write_text(content.replace("'", '"'))
    plain = {"intensity": "minmax", "crop_foreground": False}
    dataset = DATASETS["decathlon"](name="d", root=str(tmp_path), split="training", **plain)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(4, 2, 3, padding=1)).double()
    model = SegmentationModel(net, (9, 8, 4), adapter=InputAdapter(axes="KJI"))
    attack = make("fgsm", eps=0.1)
    pairs = []
    for ref in dataset.refs():
        read = dataset.load(ref)
        doubles = Case(**{**vars(read), "image": read.image.double()})
        attacked = attack_case(attack, model, doubles, None, 1).adversarial
        flips = [1, 2] if ref.axes == "LPS" else []
        labels = predict(model.for_case(read), doubles.image)
        pairs.append((labels.flip([axis - 1 for axis in flips]), attacked.flip(flips)))
    assert [ref.axes for ref in dataset.refs()] == ["RAS", "LPS"]
    assert len(pairs[0][0].unique()) == 2
    assert torch.equal(pairs[0][0], pairs[1][0])
    torch.testing.assert_close(pairs[0][1], pairs[1][1])


def test_members_of_an_ensemble_are_given_each_file_as_it_lies() -> None:
    """The first axis of the file runs towards the back, the second upwards, the third to the right."""
    nets = (Seen(), Seen())
    image = case("PSR", (2, 5, 3))
    members = [SegmentationModel(net, (5, 3, 2), adapter=InputAdapter(axes="KJI")) for net in nets]
    turned = SegmentationModel(MeanOfProbabilities(members), (5, 3, 2)).for_case(image)
    predict(turned, image.image)
    assert turned.roi == (2, 5, 3)
    as_in_file = image.image[0].permute(1, 2, 0).flip(0)
    for net in nets:
        torch.testing.assert_close(net.inputs[0][0, 0], as_in_file.permute(2, 1, 0))


def write_volume(path: Path, voxels: npt.NDArray[Any], codes: str, spacing: tuple[float, ...]) -> None:
    """Writes voxels as they are, with a header by which the file's axes increase towards `codes`."""
    affine = np.eye(4)
    for axis, (code, step) in enumerate(zip(codes, spacing, strict=True)):
        affine[:3, axis] = 0
        row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[row, axis] = step if code in "RAS" else -step
    affine[:3, 3] = (11, -7, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
