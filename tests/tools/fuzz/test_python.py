"""Any argument from Python: refused in a line or taken, within a minute."""

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from attacks.examples import CLASSES, SETTINGS
from hypothesis import given
from hypothesis import strategies as st
from tiny_job import ARGS, ROI
from tools.fuzz.hostile_values import TEXTS, limits, unhurried, values
from torch import Tensor, nn

import freqbench as fb
from freqbench.core.errors import UserError

pytestmark = pytest.mark.integration

Call = tuple[Callable[..., object], dict[str, Any]]
SHAPE = (16, 16, 16)
IMAGE, LABEL = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)), torch.zeros(SHAPE, dtype=torch.uint8)
LABEL[4:12, 4:12, 4:12] = 1


class Network(nn.Module):
    """A convolution, of whose input and output a network may make anything."""

    def __init__(
        self, after: Callable[[Tensor], Any] = lambda logits: logits, before: Callable[[Tensor], Any] = lambda x: x
    ) -> None:
        super().__init__()
        self.conv, self.after, self.before = nn.Conv3d(1, 2, 1), after, before
        self.conv.weight.data[0] *= -1  # a gradient of equal classes is zero

    def forward(self, images: Tensor) -> Any:
        return self.after(self.conv(self.before(images)))


class NoCopy(Network):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise TypeError("no\ncopy")


def filled(value: float) -> nn.Module:
    net = Network()
    nn.init.constant_(net.conv.weight, value)
    return net


NETWORKS: tuple[Callable[[], nn.Module], ...] = (
    Network,
    NoCopy,
    nn.Identity,
    nn.Module,
    lambda: nn.LazyConv3d(2, 1),
    lambda: nn.Conv3d(1, 2, 1, device="meta"),
    lambda: Network().double(),
    lambda: Network().half(),
    lambda: filled(float("nan")),
    lambda: filled(float("inf")),
    lambda: filled(3e38),
    lambda: filled(0.0),
    lambda: Network(Tensor.detach),
    lambda: Network(lambda logits: logits.argmax(dim=1, keepdim=True).expand(-1, 2, -1, -1, -1)),
    lambda: Network(lambda logits: logits > 0),
    lambda: Network(lambda logits: logits.to(torch.complex64)),
    lambda: Network(lambda logits: logits.to_sparse()),
    lambda: Network(lambda logits: logits / 0),
    lambda: Network(lambda logits: logits * float("inf")),
    lambda: Network(Tensor.numpy),
    lambda: Network(lambda logits: None),
    lambda: Network(lambda logits: logits[0]),
    lambda: Network(lambda logits: logits[:, :0]),
    lambda: Network(before=Tensor.relu_),
    lambda: Network(before=lambda x: x.mul_(2)),
    lambda: Network(before=lambda x: x.round()),
)
OBJECTS: tuple[Any, ...] = (
    object(),
    b"bytes",
    {1},
    1j,
    range(3),
    int,
    nn.Module,
    Path("nowhere"),
    np.float64("nan"),
    np.int64(3),
    np.array(0.5),
    np.array(["a"]),
    np.array([None]),
    np.zeros((0, 3, 3)),
    np.full(SHAPE, np.nan),
    np.full(SHAPE, 0.5, np.complex64),
    np.full(SHAPE, 300, ">i4"),
    np.datetime64("2020-01-01"),
    np.ma.masked_array(np.ones(SHAPE), True),
    torch.tensor(0.5),
    torch.full(SHAPE, torch.inf),
    torch.zeros(SHAPE, device="meta"),
    torch.zeros(SHAPE).to_sparse(),
    torch.zeros(SHAPE, dtype=torch.bool),
    torch.zeros(SHAPE, dtype=torch.bfloat16),
    torch.ones(1, 1, *SHAPE, requires_grad=True),
    torch.device("meta"),
    torch.float16,
    lambda: None,
)


@cache
def model() -> fb.Model:
    return fb.load_model(Network(), roi=ROI, name="sound")


@cache
def case() -> fb.Case:
    return fb.Case(IMAGE, LABEL)


@cache
def result() -> fb.Result:
    return fb.attack(model(), case(), "fgsm", eps=0.1)


OF_PYTHON: tuple[Callable[[], Any], ...] = (model, case, result, lambda: [model()], lambda: (IMAGE, LABEL), *NETWORKS)
hostile = st.one_of(values, st.sampled_from(OBJECTS), st.sampled_from(OF_PYTHON).map(lambda make: make()))

SPACE = {"spacing": (2, 2, 2), "intensity": "percentile", "crop_foreground": True, "size": SHAPE, "pad_to": SHAPE}
SPACE |= {"resampling": "linear"}
SETTING = {"name": "m", "roi": ROI, "input": None, "preprocess": None, "inference": None, "defence": None}
SETTING |= {"adaptive": True, "num_classes": 2, "num_channels": 1, "device": "cpu", "precision": "fp32"}
SOUND: dict[str, Call] = {
    "Case": (
        fb.Case,
        {"image": IMAGE, "label": LABEL, "spacing": (1, 1, 1), "affine": None, "class_names": (), "name": "c"},
    ),
    "from_file": (fb.Case.from_file, {"image": "image.nii", "label": "label.nii", "labels": 2, **SPACE}),
    "load_dataset": (
        lambda **given: fb.load_dataset(**given)[0],
        {"loader": "phantom", "name": "d", "shape": SHAPE, "split": "test", "cases": 1, "intensity": "percentile"},
    ),
    "load_model": (
        fb.load_model,
        {**SETTING, "source": "random", "arch": "unet", "args": ARGS, "trust_code": False, "migration": None},
    ),
    "load_results": (fb.load_results, {"out": "nowhere"}),
    "show": (lambda: result().figure(), {}),
}


def network_used(source: Any, **settings: Any) -> object:
    """Load a network, and ask of it what is ever asked."""
    loaded = fb.load_model(source, **settings)
    made = fb.attack(loaded, case(), "fgsm", eps=0.1)
    return repr(loaded), repr(made), fb.evaluate(loaded, case(), made, metrics=("dsc",))


def case_used(**given: Any) -> object:
    """Make a case, and attack it."""
    made = fb.attack(model(), fb.Case(**given), "fgsm", eps=0.1)
    return repr(made.case), repr(made), made.save("case.nii.gz")


def attacked(**given: Any) -> object:
    made = fb.attack(**given)
    return repr(made), made.losses, made.cell.cell_id


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A call, sound but for an argument or two."""
    kind = draw(st.sampled_from(("attack", "attack", "network", "network", "case", "evaluate", "save", *SOUND)))
    if kind == "attack":
        name = draw(st.sampled_from(sorted(set(CLASSES) - {"walk"})))
        sound = {"model": model(), "case": case(), "name": name, "seed": 0, "window_batch": 1, "surrogates": ()}
        call: Call = attacked, {**sound, **SETTINGS[name]}
        names = [*sound, *(field.name for field in fields(CLASSES[name]))]
    else:
        if kind == "network":
            call = network_used, {**SETTING, "source": draw(st.sampled_from(NETWORKS))()}
        elif kind == "case":
            call = case_used, dict(SOUND["Case"][1])
        elif kind == "evaluate":
            sound = {"model": model(), "case": case(), "result": result(), "metrics": ("dsc", "ssim")}
            call = fb.evaluate, sound
        elif kind == "save":
            call = result().save, {"path": "saved.nii.gz"}
        else:
            call = SOUND[kind]
        names = list(call[1])
    function, arguments = call[0], copy.copy(call[1])
    for name in draw(st.lists(st.sampled_from(names), max_size=2)) if names else ():
        value = draw(hostile | st.sampled_from(TEXTS))
        # Who asks for billions of steps gets them: no mistake, but nothing to wait for.
        arguments[name] = 7 if kind == "attack" and isinstance(value, int) and 99 < value < 2**63 else value
    if kind in ("attack", "network", "from_file", "load_dataset", "load_model") and draw(st.integers(0, 19)) == 0:
        arguments[draw(st.text(min_size=1, max_size=6))] = draw(hostile)
    return function, arguments


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own with the two files of a case; the cache of fetched files is there, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    for name, volume in (("image", IMAGE), ("label", LABEL)):
        nibabel.save(nibabel.Nifti1Image(volume.numpy(), np.eye(4)), f"{name}.nii")
    yield
    torch.set_num_threads(min(2, os.cpu_count() or 1))


@unhurried
@given(call=calls())
def test_a_call_is_refused_in_a_line_or_gives_a_result(call: Call) -> None:
    function, arguments = call
    with limits():
        try:
            function(**arguments)
        except UserError as error:
            said = str(error)
            assert said.strip()
            assert len(said.splitlines()) == 1, said
            assert len(said) < 4000, "a line that nobody reads"
