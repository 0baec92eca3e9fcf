"""Classes of another package: what identifies them, the rule that guards them, and their checkpoints."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine.cases import grid_of
from third_party.own_classes import OWN, ROI, module, spec, units
from tiny_job import expanded, small
from toy.data import Balls
from toy.net import Tiny

from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.plugins import trusting
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.attacks import attack_identity
from freqbench.models import load, save_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def editable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the toy package under another name, as editing the real one would be seen by other tests."""
    folder = tmp_path / "edited"
    folder.mkdir()
    for path in (Path(__file__).parents[2] / "tests" / "toy_package" / "toy").glob("*.py"):
        (folder / path.name).write_text(path.read_text())
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "edited"]:
        del sys.modules[name]


def edit(path: Path) -> None:
    path.write_text(f"{path.read_text() if path.exists() else ''}\nEDITED = True\n")


def identities(name: str = "edited") -> dict[str, str]:
    (unit, *_) = units(**json.loads(json.dumps(OWN).replace("toy.", f"{name}.")))
    attack = str(attack_identity(unit.cell.attack)["code"])
    return {"net": unit.cell.source.model_id, "data": unit.cell.dataset.case_key(unit.ref), "attack": attack} | {
        "cell": unit.cell.cell_id
    }


@pytest.mark.parametrize(("named", "saves"), [([], True), (["toy.attack:Walk"], True), (["gn"], False)])
def test_volumes_are_saved_of_an_attack_that_its_path_names(named: list[str], saves: bool) -> None:
    (unit, *_) = units(attacks=[*OWN["attacks"], {"name": "gn", "std": 0.1}], save_adversarial="nifti", save_only=named)
    assert unit.cell.saves == saves


@pytest.mark.parametrize("name", ["net", "helper"])
def test_edited_file_changes_all_classes_of_its_package(editable: Path, name: str) -> None:
    before = identities()
    assert identities() == before
    edit(editable / f"{name}.py")
    after = identities()
    assert {key for key in before if after[key] != before[key]} == {"net", "data", "attack", "cell"}


def test_network_whose_code_changed_since_plan_is_not_loaded(editable: Path) -> None:
    planned = spec(arch="edited.net:Tiny")
    edit(editable / "net.py")
    line = r"tiny: edited.net:Tiny is not the code that was planned with: plan anew"
    with trusting(), pytest.raises(UserError, match=line):
        load(planned, CPU)


IMPORTS = "from typing import ClassVar\nfrom dataclasses import dataclass\nfrom freqbench.attacks import PGD, Attack\n"
MISTAKES: dict[str, tuple[str, str, str]] = {
    "no such module": (
        "toy.nets:Tiny",
        "",
        r"toy.nets:Tiny: expected a module that can be imported, got No module named 'toy.nets': install it, put",
    ),
    "no such class": ("toy.net:Tinny", "", r"toy.net:Tinny: expected a subclass of .*\.Module, got no such name"),
    "another class": ("toy.data:Balls", "", r"toy.data:Balls: expected a subclass of .*, got <class 'toy.data.Balls'>"),
    "syntax": ("written:Net", "class Net(:\n", r"written:Net: expected a module that can be imported, got SyntaxError"),
    "ends": ("written:Net", "raise SystemExit(0)\n", r"expected a module that can be imported, got SystemExit: 0"),
    "several outputs": (
        "written:Net",
        "import toy.net\nclass Net(toy.net.Tiny):\n    def forward(self, x): return [super().forward(x)]\n",
        r"written:Net: expected logits of shape \(1, 2, 16, 16, 16\), got a list",
    ),
    "its constructor raises": (
        "written:Net",
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, classes): raise ImportError('no lib')\n",
        r"Net refuses its args: no lib$",
    ),
}


@pytest.mark.parametrize(("path", "text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_class_that_cannot_be_had_is_one_line(
    path: str, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module(tmp_path, text)
    with pytest.raises(UserError, match=message):
        spec(arch=path)


def test_a_dataset_that_lacks_what_is_asked_for_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module(tmp_path, "from freqbench.data import Dataset\nclass Half(Dataset):\n    def refs(self, split=None): ...\n")
    expected = r"datasets\[0\].loader: written:Half: .* Dataset asks for, it lacks class_names, native, recipe"
    with pytest.raises(UserError, match=expected):
        units(datasets=[{"name": "half", "loader": "written:Half"}])


ATTACKS = {
    "without a name": (
        "class A(Attack):\n    def perturb(self, task): ...\n"
        "    passes, threat_model, budget_name = (1, 1), 'l2', None\n",
        "attribute name, got",
    ),
    "with the name of another": ("class A(PGD): ...\n", "expected a name of its own, got 'pgd', which is freqbench's"),
    "half written": (
        "class A(Attack):\n    name = 'a'\n",
        "all that Attack asks for, it lacks budget_name, passes, perturb, threat_model",
    ),
    "that refuses its parameters": (
        "@dataclass(frozen=True, kw_only=True)\nclass A(PGD):\n    name: ClassVar[str] = 'a'\n"
        "    def __post_init__(self):\n        raise TypeError('not today')\n",
        r"job.yaml: attacks\[0\]: a refuses its parameters: not today",
    ),
}


@pytest.mark.parametrize(("text", "message"), ATTACKS.values(), ids=ATTACKS)
def test_attack_none_is_refused(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module(tmp_path, IMPORTS + text)
    with pytest.raises(UserError, match=message):
        units(attacks=[{"name": "written:A", "eps": 0.1}])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "Tiny refuses its args: .*missing 1 required positional argument: 'classes'"),
        ({"classes": 2, "depth": 3}, "Tiny refuses its args: .*unexpected keyword argument 'depth'"),
        ({"classes": 5}, r"toy.net:Tiny: expected logits of shape \(1, 2, 16, 16, 16\), got \(1, 5, 16, 16, 16\)"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(args: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        spec(args=args)


def test_a_class_of_freqbench_s_own_may_be_named_by_its_path() -> None:
    """The class has no source to be told apart by: its revision is freqbench's."""
    args = {"in_channels": 1, "out_channels": 2, "img_size": [32, 32, 32], "stem": [2, 2, 2], "feature_size": 4}
    args |= {"dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
    assert spec(arch="freqbench.models.networks.unetr_pp:UNETRPP", args=args, roi=[32, 32, 32]).code is None


def trained() -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return Tiny(2)


def test_a_checkpoint_is_loaded_into_the_network(tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in trained().state_dict().items()}}, tmp_path / "a.pt")
    with trusting():
        model = load(spec(checkpoint=str(tmp_path / "a.pt")), CPU)
    images = torch.rand(1, 1, *ROI)
    with torch.no_grad():
        # Small windows go to oneDNN: on some processors its last digits are not those of PyTorch's own convolutions.
        torch.testing.assert_close(model(images), trained()(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Tiny(3), "tiny: checkpoint has 3 output classes, dataset wants 2: set classes: 3 and class_map"),
        (torch.nn.Conv3d(1, 2, 1), r"does not fit: 4 keys missing \(first: first.weight\), 2 unexpected \(first: w"),
        (Tiny(2, width=6), r"0 keys missing, 0 unexpected, 3 of another shape \(first: first.weight: \(6, 1"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(net: torch.nn.Module, message: str, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        spec(checkpoint=str(tmp_path / "a.pt"))


def test_a_checkpoint_may_bring_arguments_but_not_code(tmp_path: Path) -> None:
    path = str(tmp_path / "a.safetensors")
    metadata = {"arch": "toy.net:Tiny", "args": {"classes": 2}, "roi": ROI}
    save_checkpoint(path, trained().state_dict(), metadata, half=False)
    assert spec(checkpoint=path, args={}).args == {"classes": 2}
    with pytest.raises(UserError, match=r"trained as toy.net:Tiny, code of another package, .*arch: toy.net:Tiny"):
        spec(checkpoint=path, arch=None)


ENTRIES = {"dataset": "datasets", "model": "models", "attack": "attacks"}
# What else a job must say where one of the three alone is the toy's: the phantom has six classes, its own two.
BESIDE = {"dataset": {}, "attack": {}, "model": {"models": [{**OWN["models"][0], "args": {"classes": 6}}]}}


@pytest.mark.parametrize("foreign", ENTRIES)
def test_each_is_refused_without_trust_in_one_line_that_says_why(foreign: str) -> None:
    key = ENTRIES[foreign]
    with pytest.raises(UserError) as caught:
        expanded(small(**{key: OWN[key]}))
    path = OWN[key][0].get("loader") or OWN[key][0].get("arch") or OWN[key][0]["name"]
    text = str(caught.value)
    assert text.startswith(f"job.yaml: {key}[0]")
    assert f"{path}: needs --trust-code (or trust_code: true in the job), as its code can do all that you can" in text
    assert "\n" not in text


def test_nothing_is_imported_without_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "booby.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for key, name in (("datasets", "loader"), ("models", "arch"), ("attacks", "name")):
        with pytest.raises(UserError, match="booby:Trap: needs --trust-code"):
            expanded(small(**{key: [{**OWN[key][0], name: "booby:Trap"}]}))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("foreign", "reason"),
    [
        ("dataset", "balls: needs --trust-code"),
        ("attack", "walk: needs --trust-code"),
        ("model", "tiny: toy.net:Tiny: needs --trust-code"),
    ],
)
def test_a_worker_that_is_not_told_to_trust_makes_failed_rows(foreign: str, reason: str) -> None:
    (unit, *_) = units(**{key: small()[key] for what, key in ENTRIES.items() if what != foreign} | BESIDE[foreign])
    outcome, masks = Worker(WorkerSpec(run_id="r", metrics=("dsc",), threads=1)).run(unit)
    (row,) = outcome.records
    assert (row["status"], masks) == ("failed", None)
    assert row["error"].startswith(reason)


def test_a_worker_that_is_not_told_to_trust_reads_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Balls, ref: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Balls, "native", read)
    (own,) = grid_of(small()).units()
    foreign = units()[0]
    worker = Worker(WorkerSpec(run_id="r", metrics=("dsc",), threads=1))
    outcome, _ = worker.run(own, prefetch=foreign)
    assert not outcome.failed
    assert worker._cases._coming == {}
