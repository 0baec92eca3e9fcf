"""Names that `import freqbench as fb` offers, beside a job of the same."""

import json
import re
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from models import nifti_tool, nnunet_folder, test_bundle
from monai.data import MetaTensor
from tiny_job import JOB, ROI, SHAPE, class_rows, execute, job, rows
from torch import Tensor, nn

import freqbench as fb
from freqbench.attacks import PGD, Attack
from freqbench.core.errors import UserError
from freqbench.core.input_space import Preprocess
from freqbench.core.types import CaseRef, NativeCase
from freqbench.data.loaders.phantom import WINDOW_HU, Phantom
from freqbench.models import ModelEntry, resolve
from freqbench.results import CLASS_RECORDS, RECORDS

EPS = 8 / 255
WORDS = ["true", "{image}", "{labels}"]
METRICS = ("dsc", "hd95", "nsd", "assd", "volume", "components", "topology", "calibration", "ssim", "psnr")
COARSE = {"spacing": [8.0, 8.0, 12.0], "intensity": {"window": list(WINDOW_HU)}, "crop_foreground": False}
ENTRIES: list[dict[str, Any]] = [
    *JOB["models"],
    {**JOB["models"][0], "name": "coarse", "checkpoint": "random:1", "preprocess": COARSE},
]


def load(name: str = "a", **changes: Any) -> fb.Model:
    entry = {**next(entry for entry in ENTRIES if entry["name"] == name)}
    return fb.load_model(entry.pop("checkpoint"), num_classes=6, **entry, **changes)


@pytest.fixture(scope="module")
def model() -> fb.Model:
    return load()


@pytest.fixture(scope="module")
def cases() -> fb.Cases:
    return fb.load_dataset("phantom", shape=SHAPE, cases=3)


@pytest.fixture(scope="module")
def case(cases: fb.Cases) -> fb.Case:
    return cases[0]


@pytest.fixture(scope="module")
def result(model: fb.Model, case: fb.Case) -> fb.Result:
    return fb.attack(model, case, "pgd", eps=EPS, steps=2)


def stored(record: dict[str, Any], columns: Any) -> dict[str, str]:
    return {each.name: repr(record[each.name]) for each in columns if each.mark in ("identity", "result")}


def test_every_public_name_can_be_called() -> None:
    assert all(callable(getattr(fb, name)) for name in fb.__all__)
    assert set(fb.__all__) <= set(dir(fb))


@pytest.mark.integration
def test_numbers_and_identities_are_those_of_a_run(tmp_path: Path) -> None:
    """White-box and transferred, coupled windows, a seed, and a target that sees another grid."""
    attacks = {"pgd": {"eps": "8/255", "steps": 2}, "sa2": {"rho": 0.4, "steps": 1, "block": 8}}
    written = [{"name": name, "sources": ["a", "coarse"], **parameters} for name, parameters in attacks.items()]
    data = [{**JOB["datasets"][0], "cases": 1}]
    asked = {"metrics": list(METRICS), "seeds": [3], "targets": ["b", "coarse"]}
    assert execute(job(models=ENTRIES, attacks=written, datasets=data, **asked), tmp_path).num_failed == 0
    (case,), targets = fb.load_dataset("phantom", shape=SHAPE, cases=1), [load("b"), load("coarse")]
    scored = []
    for source in (load("a"), load("coarse")):
        for name, parameters in attacks.items():
            made = fb.attack(source, case, name, seed=3, **parameters)
            scored += [fb.evaluate(target, case, made, metrics=METRICS) for target in targets]
    expected = rows(tmp_path)
    classes = class_rows(tmp_path)
    for record in scored:
        key = record["cell_id"], record["case_key"], record["target_model_id"]
        assert stored(record, RECORDS) == expected[key]
        for number, row in enumerate(record.classes):
            assert stored(row, CLASS_RECORDS) == classes[*key, number]
    assert {record["resampling_error"] is None for record in scored} == {True, False}
    frame = fb.load_results(tmp_path)
    assert len(frame) == len(expected) == len(scored) == 8
    assert set(frame.columns) == {column.name for column in RECORDS}
    mine = frame.set_index(["cell_id", "case_key", "target_model_id"]).loc[key]
    assert mine["dsc"] == record["dsc"]
    assert isinstance(mine["attack"], str)


def test_a_command_is_attacked_as_by_a_job(tmp_path: Path) -> None:
    script = nifti_tool.script("sum(value > ordered[k * len(ordered) // 6] for k in range(1, 6))")
    (tmp_path / "tool.py").write_text(script)
    words = [sys.executable, str(tmp_path / "tool.py"), "{image}", "{labels}"]
    attack = {"eps": "8/255", "queries": 2}
    data = [{**JOB["datasets"][0], "cases": 1}]
    entry = {"name": "tool", "command": words}
    attacks = [{"name": "square", **attack}]
    content = job(models=[entry], datasets=data, attacks=attacks, metrics=["dsc"], trust_code=True)
    assert execute(content, tmp_path / "out").num_failed == 0
    (case,) = fb.load_dataset("phantom", shape=SHAPE, cases=1)
    model = fb.load_model(words, name="tool", num_classes=6, trust_code=True, expected_dice=0.01)
    record = fb.evaluate(model, case, fb.attack(model, case, "square", **attack), metrics=["dsc"])
    key = record["cell_id"], record["case_key"], record["target_model_id"]
    assert {key: stored(record, RECORDS)} == rows(tmp_path / "out")


def test_a_network_of_one_s_own_is_copied_and_computes_the_same(case: fb.Case, result: fb.Result) -> None:
    net = load().network.net.train().requires_grad_(True)
    own = fb.load_model(net, roi=ROI)
    assert own.spec.num_classes == 6
    assert net.training
    assert all(weight.requires_grad for weight in net.parameters())
    with torch.no_grad():
        next(net.parameters()).zero_()
    assert torch.equal(fb.attack(own, case, PGD, eps=EPS, steps=2).adversarial, result.adversarial)
    assert fb.load_model(net, roi=ROI).spec.model_id != own.spec.model_id


def scanned(volume: Tensor) -> Any:
    """Volume as nibabel gives it: of another byte order, unsigned, a view that runs backwards."""
    return volume.numpy()[..., ::-1].astype(">f4" if volume.is_floating_point() else ">u2")[..., ::-1]


@pytest.mark.parametrize("convert", [Tensor.numpy, scanned, lambda volume: volume[None], MetaTensor])
def test_arrays_are_attacked_like_cases(model: fb.Model, case: fb.Case, convert: Callable[[Tensor], Any]) -> None:
    given = convert(case.image), convert(case.label), np.array(case.spacing)
    made = fb.attack(model, given, "fgsm", eps=EPS)
    same = fb.attack(model, case, "fgsm", eps=EPS)
    assert torch.equal(made.adversarial, same.adversarial)
    assert type(made.adversarial) is Tensor
    scores = fb.evaluate(model, given, made, metrics=("dsc",))
    brought = fb.evaluate(model, case, convert(made.adversarial), metrics=("dsc",))
    expected = fb.evaluate(model, case, same, metrics=("dsc",))
    for column in ("dsc", "dsc_clean", "l2", "voxel_success"):
        assert scores[column] == brought[column] == expected[column] != 0


def test_another_seed_gives_another_volume(model: fb.Model, cases: fb.Cases, result: fb.Result) -> None:
    other = fb.attack(model, cases[0], "pgd", eps=EPS, steps=2, seed=1)
    again = fb.attack(model, fb.load_dataset("phantom", shape=SHAPE)[0], "pgd", eps=EPS, steps=2)
    assert torch.equal(again.adversarial, result.adversarial)
    assert not torch.equal(other.adversarial, result.adversarial)


TYPED = """
from dataclasses import dataclass
from toy.attack import Walk

@dataclass(frozen=True, kw_only=True)
class Typed(Walk):
    name = "typed"
    def run(self, task):
        return (task.clean + {part} * self.eps).clamp(0, 1)
"""


def typed(part: str, monkeypatch: pytest.MonkeyPatch) -> type[Attack]:
    """A class as a notebook has it: its module is no file."""
    monkeypatch.setitem(sys.modules, "typed", ModuleType("typed"))
    space: dict[str, Any] = {"__name__": "typed"}
    exec(TYPED.format(part=part), space)
    return space["Typed"]


def test_attack_may_be_typed_into_notebook(model: fb.Model, case: fb.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [fb.attack(model, case, typed(part, monkeypatch), eps=EPS) for part in ("0.5", "0.25", "0.5")]
    assert [float(each.adversarial.mean() > case.image.mean()) for each in results] == [1, 1, 1]
    first, second, again = (each.cell.cell_id for each in results)
    assert first == again != second


def test_a_result_tells_its_losses_passes_and_predictions(model: fb.Model, case: fb.Case, result: fb.Result) -> None:
    assert (result.adversarial - result.clean).abs().max() == pytest.approx(EPS, abs=1e-6)
    assert result.losses.shape == (2, 4)
    assert (result.num_forwards, result.num_backwards, result.spacing) == (8, 8, case.spacing)
    assert torch.equal(result.label, case.label)
    assert (result.prediction != result.prediction_clean).any()
    assert fb.attack(model, case, "pgd", eps=EPS, steps=2, scope="volume").losses.shape == (2, 1)
    assert fb.attack(model, case, "gn", std=0.1).losses.shape == (0, 4)


def test_notebooks_show_pictures_and_tables(result: fb.Result, model: fb.Model, case: fb.Case) -> None:
    page = result._repr_html_()
    assert "pgd eps=8/255 on a, case phantom_2000" in page
    assert 'src="data:image/png;base64,' in page
    scores = fb.evaluate(model, case, result, metrics=("dsc",))
    assert "<td>dsc_foreground_clean</td>" in scores._repr_html_()
    assert "hd95" not in repr(scores)


def test_show_draws_the_figure(result: fb.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    shown: list[str] = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(axis.get_title() for axis in plt.gcf().axes))
    result.show()
    plt.close("all")
    assert {"clean", "adversarial", "label", "prediction, clean", "prediction, adversarial"} <= set(shown)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, cases: fb.Cases) -> tuple[Path, Path]:
    """The case as a scanner may store it: left, anterior, superior, in Hounsfield units."""
    folder = tmp_path_factory.mktemp("nifti")
    native = cases.dataset.native(cases[0].volume.ref)
    turned = native.affine @ np.diag([-1, 1, 1, 1])
    paths = folder / "scan.nii.gz", folder / "label.nii.gz"
    for path, volume in zip(paths, (native.image, native.label), strict=True):
        nibabel.save(nibabel.Nifti1Image(volume[0].numpy()[::-1], turned), path)
    return paths


def test_files_are_prepared_like_those_of_a_job(files: tuple[Path, Path], case: fb.Case) -> None:
    case_of_files = fb.Case.from_file(*files, labels=6, intensity={"window": WINDOW_HU}, crop_foreground=False)
    assert (case_of_files.name, case_of_files.spacing) == ("scan", pytest.approx(case.spacing))
    assert torch.equal(case_of_files.label, case.label)
    assert torch.allclose(case_of_files.image, case.image, atol=1e-6)


def test_a_result_of_files_is_saved_on_their_grid(files: tuple[Path, Path], model: fb.Model, tmp_path: Path) -> None:
    space = Preprocess(intensity={"window": WINDOW_HU}, crop_foreground=False)
    made = fb.attack(model, fb.Case.from_file(*files, **space.model_dump()), "fgsm", eps=EPS)
    made.save(tmp_path / "adv.nii.gz")
    saved = nibabel.load(tmp_path / "adv.nii.gz")
    scan = nibabel.load(files[0])
    assert np.array_equal(saved.affine, scan.affine)
    before = scan.get_fdata()
    (low, high) = WINDOW_HU
    changed = np.abs(saved.get_fdata() - before)[(before > low) & (before < high)]
    assert changed.max() == pytest.approx(EPS * (high - low), rel=1e-3)
    again = fb.Case.from_file(tmp_path / "adv.nii.gz", files[1], **space.model_dump())
    assert float((again.image - made.adversarial).abs().max()) < 1e-3


def test_a_result_of_arrays_is_saved_as_it_is(model: fb.Model, case: fb.Case, tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    own = fb.Case(case.image, case.label, affine=affine)
    assert own.spacing == (2.0, 3.0, 4.0)
    made = fb.attack(model, own, "fgsm", eps=EPS)
    made.save(str(tmp_path / "adv.nii.gz"))
    saved = nibabel.load(tmp_path / "adv.nii.gz")
    assert np.array_equal(saved.affine, affine)
    assert np.array_equal(saved.get_fdata(dtype=np.float32), made.adversarial[0].numpy())


class Read(Phantom):
    """Tells which cases were read."""

    read: ClassVar[list[str]] = []

    def native(self, ref: CaseRef) -> NativeCase:
        self.read.append(ref.case_id)
        return super().native(ref)


def test_cases_are_read_on_access() -> None:
    cases = fb.load_dataset(Read, shape=SHAPE, split="validation")
    assert (len(cases), len(cases[2:5]), cases.dataset.read) == (8, 3, [])
    assert (cases[2:5][-1].name, cases[-1].name) == ("phantom_1004", "phantom_1007")
    assert cases.dataset.read == ["phantom_1004", "phantom_1007"]
    assert [case.name for case in cases[:2]] == ["phantom_1000", "phantom_1001"]


class Wide(Phantom):
    """Phantoms of another space than the zoo was trained in."""

    @property
    def space(self) -> Preprocess:
        return Preprocess(intensity={"window": (-200.0, 300.0)}, crop_foreground=False)


@pytest.mark.parametrize("loader", [Phantom, Wide])
def test_a_checkpoint_sees_the_space_that_a_job_gives_it(loader: type[Phantom]) -> None:
    cases = fb.load_dataset(loader, shape=SHAPE)
    made = fb.attack(fb.load_model("zoo://phantom/unet-vaft"), cases[0], "gn", std=0.1)
    entry = ModelEntry(name="unet-vaft", checkpoint="zoo://phantom/unet-vaft")
    assert made.cell.source == resolve(entry, 6, 1, cases.dataset.space, cases.dataset.class_names)
    assert (made.cell.source.space is None) == (loader is Phantom)


@pytest.mark.parametrize(("write", "arch"), [(nnunet_folder.write, "nnunet"), (test_bundle.written, "bundle")])
def test_the_files_of_a_folder_tell_its_framework(write: Callable[[Path], str], arch: str, tmp_path: Path) -> None:
    write(tmp_path)
    spec = fb.load_model(tmp_path, name="found").spec
    assert spec.arch == arch
    assert spec.space is not None


class Returns(nn.Module):
    """Returns what a test wants of its logits."""

    def __init__(self, change: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 1)
        self.change = change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.conv(images))


def diverged() -> nn.Module:
    net = Returns()
    nn.init.constant_(net.conv.weight, float("nan"))
    return net


class Single(Returns):
    """Cannot be copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise TypeError("there is\none of me")


class InPlace(Returns):
    """Writes into the volume that it is shown."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images.relu_())


VOLUME = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0))
LABEL = torch.zeros(16, 16, 16, dtype=torch.int64)


@pytest.fixture
def idle_model(model: fb.Model, monkeypatch: pytest.MonkeyPatch) -> fb.Model:
    """The model, which is to compute nothing."""
    monkeypatch.setattr(type(model.network), "forward", lambda *_: pytest.fail("computed before it refused"))
    return model


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model, case: fb.attack(model, (torch.cat([case.image] * 2), case.label), "fgsm", eps=EPS),
            r"a: expected images \[1, H, W, D\], got \[2, 24, 20, 16\] of case",
        ),
        (
            lambda model, case: fb.attack(model, fb.Case(VOLUME, LABEL, class_names=("air", "liver")), "fgsm", eps=EPS),
            r"a: expected cases of 6 classes \(background included\), got 2 of case",
        ),
        (
            lambda model, case: fb.attack(model, (VOLUME, LABEL + 6), "fgsm", eps=EPS),
            "a: expected labels 0 to 5 in case, got 6: map them",
        ),
        (
            lambda model, case: fb.evaluate(model, (VOLUME, LABEL + 6), VOLUME),
            "a: expected labels 0 to 5 in case, got 6: map them",
        ),
        (lambda model, _: fb.attack(model, VOLUME, "fgsm", eps=EPS), "expected a Case or .* got Tensor: give"),
        (
            lambda model, case: fb.attack(model, case, "bases", eps=EPS, surrogates=model),
            r"surrogates: expected a list of models, got Model: give \[model\]",
        ),
        (lambda *_: fb.Case.from_file(None, None), "image: expected a path or URI, got NoneType: give it"),
        (
            lambda *_: fb.Case.from_file("a.nii.gz", "b.nii.gz", ignore=pd.DataFrame({"a": [1, 2]})),
            "^from_file: ignore: expected numbers, text or lists of them, as in a job file, got DataFrame: convert it",
        ),
        (
            lambda model, case: fb.evaluate(model, case, case.image, metrics=()),
            "evaluate: metrics: expected a list of at least 1",
        ),
        (
            lambda model, case: fb.evaluate(model, case, case.image, metrics=pd.DataFrame({"a": [1, 2]})),
            "^evaluate: metrics: expected numbers, text .*got DataFrame",
        ),
        (lambda model, case: fb.evaluate(model, case, case.image, metrics=3), "evaluate: metrics: .*got 3"),
        (lambda *_: fb.load_results(None), "load_results: expected a path or URI, got NoneType"),
        (lambda *_: fb.load_results(__file__), "expected results to report, found none"),
        (lambda model, case: fb.evaluate(model, case, case.image, metrics=["dcs"]), "Did you mean 'dsc'?"),
        (
            lambda model, case: fb.evaluate(model, case, case.image, metrics="dsc"),
            r"evaluate: metrics: .*got 'dsc': put the values between brackets, \[a, b\]",
        ),
        (lambda model, case: fb.evaluate(model, case, None), "expected an array or tensor of numbers, got No"),
        (lambda model, case: fb.evaluate(model, case, case.image + 1), r"phantom_2000: expected a volume in"),
        (lambda *_: fb.load_dataset("phantm"), "unknown loader 'phantm'. Did you mean 'phantom'?"),
        (lambda *_: fb.load_dataset("phantom", spilt="test"), "'spilt'. Did you mean 'split'?"),
        (lambda *_: fb.load_dataset(PGD), "expected a name or a class of Dataset, got the class PGD"),
        (lambda _, case: fb.attack(Returns(), case, "gn"), "expected a model of load_model, got Returns"),
    ],
)
def test_wrong_call_is_refused(
    call: Callable[[fb.Model, fb.Case], Any], message: str, idle_model: fb.Model, case: fb.Case
) -> None:
    with pytest.raises(UserError, match=message):
        call(idle_model, case)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (("pdg",), {"eps": EPS}, "unknown attack 'pdg'. Did you mean 'pgd'?"),
        ((nn.Module,), {}, "expected a name or a class of Attack, got the class Module"),
        ((type("Mine", (PGD,), {}),), {"eps": EPS}, "Mine: expected a name of its own, got 'pgd'"),
        (("toy.attack:Walk",), {}, "expected a name or a class, got the path"),
        (("sa2",), {"rhoo": 1}, "unknown parameter 'rhoo'. Did you mean 'rho'?"),
        (("fgsm",), {"eps": EPS, "window_batch": -1}, "window_batch: .* than 0"),
        *(
            (("fgsm",), {"eps": EPS, "window_batch": value}, r"attack: window_batch: .*got (1\.5|'x'|True)")
            for value in ("x", 1.5, True)
        ),
        *(
            (("pgd",), {"eps": EPS, "seed": value}, "attack: seed: .*, got ")
            for value in ("x", float("nan"), None, 1.5, True, -1, 10**30, "9" * 30)
        ),
        (
            ("fgsm",),
            {"eps": torch.ones(3)},
            "fgsm.eps: expected numbers, text or lists of them, as in a job file, got Tensor",
        ),
        (("fgsm",), {"eps": 8}, "fgsm.eps: .* Did you mean 8/255"),
    ],
)
def test_wrong_attack_is_refused(
    given: tuple[Any, ...], options: dict[str, Any], message: str, idle_model: fb.Model, case: fb.Case
) -> None:
    with pytest.raises(UserError, match=message):
        fb.attack(idle_model, case, *given, **options)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((VOLUME, LABEL - 1), {}, "expected classes 0 to 255, got -1 to -1"),
        ((VOLUME, LABEL.float()), {}, "expected an integer label map"),
        ((VOLUME - 0.5, LABEL), {}, r"case: expected an image in \[0, 1\], got \[-0.\d+, 0.\d+\]"),
        ((VOLUME, LABEL[1:]), {}, "expected two volumes of one shape"),
        ((VOLUME, LABEL), {"affine": np.eye(3)}, r"case: expected .* affine \(4, 4\) of such vox"),
        ((VOLUME, LABEL, (1, 0, 1)), {}, r"case: expected a spacing of three positive lengths"),
        (("a.nii.gz", "b.nii.gz"), {}, "got the path a.nii.gz: read files by Case.from_file"),
        ((None, LABEL), {}, "expected an array or tensor of numbers, got NoneType: "),
        ((np.full((4, 4, 4), "a"), LABEL), {}, "expected an array or tensor of numbers, got <U1: "),
        (
            (VOLUME, LABEL + 2),
            {"class_names": ("air", "liver")},
            "expected classes 0 to 1, got 2 to 2: map the labels, or name all classes",
        ),
        ((VOLUME.to(torch.complex64), LABEL), {}, "dense volume of real numbers, got torch.co"),
        ((VOLUME, LABEL, "1,1,1"), {}, "expected a spacing .*, got could not convert"),
        ((VOLUME, LABEL), {"name": None}, "name: expected text, got NoneType: give"),
        ((VOLUME, LABEL), {"class_names": 3}, "Case: class_names: .*got 3: put the values"),
        (
            (VOLUME, LABEL),
            {"class_names": ["air", "liver", "air"]},
            r"Case: class_names: expected different names, got \('air', 'liver', 'air'\)",
        ),
        *(
            ((VOLUME, LABEL), {"ignore": value}, f"^Case: ignore.*{text}")
            for value, text in {
                (1.5,): "got 1.5",
                "255": "got '255': put the values between brackets",
                255: "got 255: put the values between brackets",
                None: "got None: put the values between brackets",
            }.items()
        ),
        (
            (VOLUME, LABEL, (1, 1, 2)),
            {"affine": np.eye(4)},
            r"case: expected a spacing .*, got \[1.0, 1.0, 2.0\] and an affine of \[1.0, 1.0, 1.0\]: give one of both",
        ),
        ((VOLUME, LABEL, (1, 1, 1)), {"affine": np.zeros((4, 4))}, "an invertible affine"),
        ((VOLUME, LABEL), {"affine": np.ones((4, 4))}, "an invertible affine"),
        (
            (np.ma.masked_greater(VOLUME.numpy(), 0.5), LABEL),
            {},
            "expected all voxels, got an array of which some are masked",
        ),
    ],
)
def test_wrong_case_is_refused(given: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fb.Case(*given, **options)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (("a\0b",), {}, "load_model: expected a path of names up to 255 bytes"),
        (("random",), {"arch": "unet", "num_classes": "many"}, "load_model: num_classes: .*got 'many'"),
        *(
            ((Returns(),), {"roi": ROI, "device": name}, f"device: expected cpu, cuda or cuda:N, got {name!r}")
            for name in ("mps", "meta", 1.5, 2**63)
        ),
        (
            (diverged(),),
            {"roi": ROI},
            "Returns: conv.weight: expected a dense tensor of finite numbers, got 2 of 2 values that are NaN",
        ),
        ((Single(),), {"roi": ROI}, "Single: expected a network that can be copied: there is one of me"),
        (
            (Returns(Tensor.int),),
            {"roi": ROI},
            "Returns: expected dense logits of floating-point numbers, got torch.int32",
        ),
        (
            (InPlace(),),
            {"roi": ROI},
            "InPlace: expected a network that leaves its input as it is, got one that writes into it: copy it",
        ),
        ((Returns,), {}, "expected a path, .* got the class Returns"),
        ((WORDS,), {"num_classes": 2}, "true '{image}' '{labels}': needs --trust"),
        ((WORDS,), {"trust_code": True}, "{labels}': expected num_classes"),
        ((["true", 1],), {}, r"load_model: command\[1\]: "),
        (([],), {}, "load_model: command: "),
        (("random",), {"arch": "unet"}, "random: expected num_classes"),
        (("random",), {"arch": "unet", "rio": ROI}, "'rio'. Did you mean 'roi'?"),
        (("random",), {"device": "cuda:99"}, "device: expected one of this machine, got cuda:99"),
        ((Returns(),), {"name": Returns(), "rio": 1}, "^name: expected text, got Returns"),
        ((Returns(),), {"rio": ROI}, "Returns: unknown key 'rio'. Did you mean 'roi'?"),
        ((Returns(),), {"roi": ROI, "num_channels": 2}, "Returns: a window of 2x16x16x16 does not pass through it: "),
        ((Returns(),), {"roi": ROI, "num_classes": 3}, "Returns: expected 3 output classes, got 2"),
        ((Returns(lambda it: [it]),), {"roi": ROI}, "expected logits .*, got list: wrap"),
        ((Returns(lambda it: it[:, :1]),), {"roi": ROI}, r"got \(1, 1, 16, 16, 16\): wrap"),
    ],
)
def test_wrong_model_is_refused(given: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fb.load_model(*given, **options)


def test_a_result_of_another_case_is_refused(model: fb.Model, cases: fb.Cases, result: fb.Result) -> None:
    with pytest.raises(UserError, match="expected the attacked case phantom_2000, got phantom_2001"):
        fb.evaluate(model, cases[1], result)


@pytest.mark.parametrize(("seed", "stored_as"), [(2.0, 2), (np.int64(3), 3), ("4", 4)])
def test_a_seed_is_what_a_job_file_makes_of_it(model: fb.Model, case: fb.Case, seed: Any, stored_as: int) -> None:
    assert repr(fb.attack(model, case, "gn", std=0.1, seed=seed).cell.seed) == repr(stored_as)


def test_a_detached_network_is_scored_but_gives_no_gradient(case: fb.Case) -> None:
    given = VOLUME, LABEL
    own = fb.load_model(Returns(Tensor.detach), roi=ROI)
    assert fb.evaluate(own, given, VOLUME, metrics=("dsc",))["status"] == "ok"
    with pytest.raises(UserError, match="fgsm: expected logits that a gradient goes through, got detached ones"):
        fb.attack(own, given, "fgsm", eps=EPS)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        *((None, "save: expected a path or"), ("no/adv.nii.gz", "an existing folder")),
        ("adv.nrrd", r"expected a name that ends in .nii.gz"),
    ],
)
def test_a_place_that_holds_no_volume_is_refused(
    result: fb.Result, path: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        result.save(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_a_certificate_is_made_of_the_draws_of_a_run(model: fb.Model, case: fb.Case, tmp_path: Path) -> None:
    """Without a label it is held to the prediction without a draw."""
    smoothing = {"name": "smoothing", "kind": "gain_offset", "sigma": 0.3, "samples": 10}
    ball = {"name": "ball", "kind": "gain_offset", "radius": 0, "control": "random"}
    entry = next(entry for entry in ENTRIES if entry["name"] == "a") | {"defence": smoothing | {"eot": 1}}
    data = [{**JOB["datasets"][0], "cases": 1}]
    execute(job(models=[entry], attacks=[ball], datasets=data, metrics=["dsc", "nsd"], seeds=[0, 1, 2, 3]), tmp_path)
    sets = [json.loads(draws) for draws in fb.load_results(tmp_path)["draws"]]
    certificate = fb.certify(model, case, "gain_offset", sigma=0.3, draws=40, metrics=("dsc", "nsd"))
    assert {"nsd", "nsd_1"} < certificate.scores.keys()
    assert certificate.scores.keys() == sets[0].keys()
    for name, values in certificate.scores.items():
        pooled = sorted(chain.from_iterable(drawn[name] for drawn in sets))
        assert [round(value, 6) for value in values] == pooled
    assert "40 draws, median dsc_foreground" in repr(certificate)
    assert fb.certify(model, fb.Case(case.image, None), "gain_offset", sigma=0.01, draws=40).scores["dsc_0"][-1] > 0.9


def test_certificate_bounds_from_the_worse_side() -> None:
    draws = [number / 1000 for number in range(1000)]
    scores = dict.fromkeys(("dsc_foreground", "volume_error_relative"), draws)
    certificate = fb.Certificate(kind="voxels", sigma=0.1, scores=scores)
    lower = certificate.curve([0.05, 0.1])["at_least"]
    assert 0.1587 > lower[1] > 0.1
    assert lower[0] > lower[1]
    assert certificate.curve([0.1], "volume_error_relative")["at_most"][0] > 0.84
    with pytest.raises(UserError, match=r"needs at least [0-9,]+ draws"):
        certificate.curve([0.3])
    with pytest.raises(UserError, match="unknown score"):
        certificate.curve([0.1], "hd95")
    for radii in (0.1, [], [-1], ["a"]):
        with pytest.raises(UserError, match=r"^curve: radii"):
            certificate.curve(radii)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0}, "certify: sigma: .*greater than 0"),
        ({"kind": "rotation"}, "certify: kind: "),
        ({"draws": 0}, "certify: samples: "),
        ({"metrics": ("dsc", "hd95")}, "metrics: expected dsc, or dsc and nsd, got dsc, hd95"),
        ({"metrics": ()}, "certify: metrics: expected a list of at least 1"),
        ({"metrics": 3}, "certify: metrics: .*got 3"),
    ],
)
def test_wrong_certificate_is_refused(model: fb.Model, case: fb.Case, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fb.certify(model, case, **{"kind": "voxels", "sigma": 0.1, "draws": 5, **changes})


@pytest.mark.integration
def test_the_first_certificate_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[1] / "docs" / "background" / "certificates.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    made: dict[str, Any] = {}
    exec(block, made)
    bounds = made["bound"].curve([0.1, 0.25, 0.5])["at_least"].tolist()
    assert 1 > bounds[0] >= bounds[1] >= bounds[2] > 0.5
    assert "100 draws" in capsys.readouterr().out
