"""Compiled functions beside the plain ones: by the CPU's compiler, and under `-m gpu` by that of a GPU."""

import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.attacks import make
from freqbench.core.files import node_cache
from freqbench.ops import compiled, quantisation, ssim, stretching
from freqbench.ops.compiled import compiling, difference, form_of, hard_arguments
from freqbench.ops.heads import HEADS
from freqbench.results.tolerances import COMPILED

CPU = torch.device("cpu")
OF_HEADS = ("flips", "margin_of", "is_as_labelled", "mean_dice")
COMPILED_ALONE = [stretching.stretched, stretching.stretched_back, ssim.ssim_maps]
COMPILED_ALONE += [quantisation.nearest_error, quantisation.table_of, quantisation.reachable, quantisation.hard_error]
OF_HEAD = [[*head.losses.values(), *attrgetter(*OF_HEADS)(head)] for head in HEADS.values()]
CHOSEN: dict[str, Callable[..., Any]] = {
    f"{each.__module__.rpartition('.')[2]}.{each.__name__}": each for each in chain(COMPILED_ALONE, *OF_HEAD)
}
ROUNDS_TWICE = "ssim.ssim_maps"  # its `addcmul`, by the CPU's compiler
OFTEN = ("losses.dice_ce", ROUNDS_TWICE, "quantisation.hard_error")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for a CPU by g++")


@pytest.fixture(autouse=True)
def _compiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU compiles as a GPU does, and forgets it after the test."""
    monkeypatch.setattr(compiled, "KINDS", ["cpu", "cuda"])
    monkeypatch.setattr(compiled, "FORMS", {})
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")  # and again after the test
    form_of.cache_clear()
    with compiling(compiled.WORTH, COMPILED):
        yield
    form_of.cache_clear()


def plain(name: str) -> Callable[..., Any]:
    return CHOSEN[name].__wrapped__  # type: ignore[attr-defined]


def halves_by_a_reciprocal(spectrum: Tensor, table: Tensor) -> Tensor:
    return (spectrum * table.reciprocal()).round_().mul_(table).sub_(spectrum)


def last_of_equal_classes(logits: Tensor, labels: Tensor, classes: Any = None, voxels: Any = None) -> Tensor:
    seen = logits.shape[1] - 1 - logits.flip(1).argmax(1, keepdim=True)
    return plain("losses.mean_dice")(torch.zeros_like(logits).scatter_(1, seen, 1.0), labels, classes, voxels)


def without_a_term(logits: Tensor, labels: Tensor, scope: Any) -> Tensor:
    return plain("losses.dice_ce")(logits, labels, scope) + 0 * logits.sum() - 1e-4 * logits[:, 0].mean()


WRONG: dict[str, Callable[..., Any]] = {
    "quantisation.hard_error": halves_by_a_reciprocal,
    "losses.mean_dice": last_of_equal_classes,
    "losses.dice_ce": without_a_term,
}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The module's own lines: PyTorch's compiler logs more."""
    return [each.getMessage() for each in caplog.records if each.name == compiled.__name__]


def check(name: str, device: torch.device) -> None:
    form = form_of(plain(name), device)
    is_plain = name == ROUNDS_TWICE and device.type == "cpu"
    assert (form is plain(name)) == is_plain, compiled.FORMS
    assert compiled.FORMS[name].startswith("plain: in float32" if is_plain else "compiled"), compiled.FORMS


@needs_compiler
@pytest.mark.workshop
@pytest.mark.parametrize("name", OFTEN)
def test_a_compiled_function_agrees_on_hard_arguments(name: str, processor: torch.device) -> None:
    check(name, processor)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CHOSEN.keys() - set(OFTEN)))
def test_every_compiled_function_agrees_on_hard_arguments(name: str, processor: torch.device) -> None:
    check(name, processor)


@needs_compiler
@pytest.mark.integration
def test_a_function_that_is_compiled_wrong_stays_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a multiple is taken for less, as by a GPU's division that is not rounded to the nearest."""
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "1")
    real = compiled._compile
    monkeypatch.setattr(compiled, "_compile", lambda function: real(halves_by_a_reciprocal))
    assert form_of(quantisation.hard_error.__wrapped__, CPU) is plain("quantisation.hard_error")  # type: ignore[attr-defined]
    (line,) = said(caplog)
    assert any(node_cache.made_files("inductor"))
    assert line.startswith("quantisation.hard_error is not compiled here")
    assert compiled.FORMS["quantisation.hard_error"].startswith("plain: in float32 a number is off by")


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_form_differs_on_hard_arguments(name: str) -> None:
    assert difference(plain(name), WRONG[name], CPU).startswith("in float32")


@pytest.mark.parametrize("name", CHOSEN)
def test_a_function_has_hard_arguments_in_each_dtype(name: str) -> None:
    assert difference(plain(name), plain(name), CPU) == ""
    for kind in COMPILED:
        assert len(hard_arguments(plain(name), getattr(torch, kind), CPU)) > 0


def test_impossible_form_is_plain_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(compiled, "_compile", lambda function: 1 / 0)
    c = torch.tensor([1.0, -2.5])
    for _ in range(2):
        assert quantisation.hard_error(c, torch.ones(2)).tolist() == [0.0, 0.5]
    assert len(said(caplog)) == 1
    assert compiled.FORMS == {"quantisation.hard_error": "plain: division by zero"}


def test_a_short_attack_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_compile", lambda function: pytest.fail("compiled"))
    with compiling(compiled.WORTH - 1, COMPILED):
        quantisation.hard_error(torch.ones(2), torch.ones(2))
    quantisation.hard_error(torch.ones(2), torch.ones(2))  # nor is anything outside
    assert compiled.FORMS == {}


@needs_compiler
@pytest.mark.slow
def test_sa2_is_equal_to_the_bit_as_the_ssim_stays_plain() -> None:
    """Its map is compiled for a CPU it is not: a smooth volume has small variances, and steps amplify a last bit."""
    net = torch.nn.Sequential(torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 3, 1)).eval()
    image = F.avg_pool3d(torch.rand(1, 1, 20, 20, 20), 5, 1)
    labels = net(image).argmax(1, keepdim=True)
    attack = make("sa2", steps=10, block=8)
    seen = attack(net, image, labels).adversarial
    assert compiled.FORMS["losses.dice_ce"] == "compiled"
    form_of.cache_clear()
    with compiling(compiled.WORTH, {}):  # holds nothing against anything
        moved = attack(net, image, labels).adversarial
    expected = attack(net, image, labels).adversarial  # nothing is compiled outside
    assert torch.equal(seen, expected)
    assert not torch.equal(moved, expected)
