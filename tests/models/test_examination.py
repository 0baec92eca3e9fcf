"""The examination of networks that others made: what is mended, what is refused, what is noted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import freqbench as fb
from freqbench.core.errors import UserError
from freqbench.core.plugins import trusting
from freqbench.models import ModelEntry, examination, load, resolve
from freqbench.models.examination import Examination, LogitsOfProbabilities, examine, windows

ROI = (8, 6, 10)


class Net(nn.Module):
    """A convolution to three classes, and what comes after it."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.last = nn.Conv3d(channels, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.after(8 * self.last(images - 0.5))

    def after(self, logits: Tensor) -> Tensor:
        return logits


class Softmax(Net):
    def after(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)


class LogSoftmax(Net):
    def after(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=1)


class OneHot(Net):
    def after(self, logits: Tensor) -> Tensor:
        return F.one_hot(logits.argmax(dim=1), 3).movedim(-1, 1).float()


class Sigmoid(Net):
    def after(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class Drops(Net):
    def after(self, logits: Tensor) -> Tensor:
        return F.dropout(logits, 0.1)


class StaysInTraining(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(3)

    def train(self, mode: bool = True) -> "StaysInTraining":
        return super().train(True)

    def after(self, logits: Tensor) -> Tensor:
        return self.norm(logits)


class BatchStatistics(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(3, track_running_stats=False)

    def after(self, logits: Tensor) -> Tensor:
        return self.norm(logits)


class ForOne(Net):
    """Takes one window at a time, as a graph that was traced with a fixed size may."""

    def after(self, logits: Tensor) -> Tensor:
        return logits.reshape(1, 3, *ROI)


class NaN(Net):
    def after(self, logits: Tensor) -> Tensor:
        return logits / 0 * 0


class Constant(Net):
    def after(self, logits: Tensor) -> Tensor:
        return 0 * logits + torch.arange(3.0).reshape(1, 3, 1, 1, 1)


class Half(Net):
    def after(self, logits: Tensor) -> Tensor:
        return logits[:, :, ::2]


class Gentle(Net):
    """Logits that happen to lie in [0, 1] for volumes in [0, 1], and beyond for others."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([0.4 + 0.1 * images, 0.6 - 0.1 * images, 0.3 * images], dim=1) + 0 * self.last.bias.sum()


def findings(net: nn.Module, num_classes: int = 3, channels: int = 1) -> Examination:
    return examine(net.eval(), windows(channels, ROI), num_classes)


@pytest.mark.parametrize("net", [Net(), LogSoftmax(), Gentle()])
def test_logits_are_left_as_they_are(net: nn.Module) -> None:
    assert findings(net) == Examination()


def test_probabilities_become_logits_whose_softmax_they_are() -> None:
    result, images = findings(Softmax()), windows(1, ROI)
    assert result == Examination(yields="probabilities")
    mended = examination.mend(Softmax(), result.yields, result.singly)
    with torch.no_grad():
        assert torch.allclose(mended(images).softmax(1), Softmax()(images), atol=1e-6)
        assert torch.equal(mended(images).argmax(1), Net()(images).argmax(1))


def test_attacks_follow_the_gradient_of_the_mended_logits() -> None:
    gradients, labels = [], torch.ones(2, *ROI, dtype=torch.long)
    for net in (Net(), LogitsOfProbabilities(Softmax(), "softmax")):
        images = windows(1, ROI).requires_grad_()
        F.cross_entropy(net(images), labels).backward()
        gradients.append(images.grad)
    assert torch.allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_probabilities_of_zero_have_finite_logits_and_gradients(factor: float) -> None:
    logits = factor * torch.tensor([[0.0, 500.0, -800.0]]).reshape(1, 3, 1, 1, 1)
    logits.requires_grad_()
    made = LogitsOfProbabilities(nn.Softmax(dim=1), "softmax")(logits)
    F.cross_entropy(made, torch.zeros(1, 1, 1, 1, dtype=torch.long)).backward()
    assert made.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("net", "fault"),
    [(OneHot(), "expected logits, got 0 and 1 alone, as labels have no gradient"),
     (Sigmoid(), "expected logits, got numbers in [0, 1] that do not add up to 1"),
     (Drops(), "expected equal logits of one window in two passes"),
     (StaysInTraining(), "expected parameters and buffers as they were"), (NaN(), "expected finite logits, got NaN"),
     (Half(), "expected logits of shape (1, 3, 8, 6, 10), got (1, 3, 4, 6, 10)"),
     (Net(channels=2), "a window of 1x8x6x10 does not pass through it")],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_a_network_that_no_row_can_describe_is_refused(net: nn.Module, fault: str) -> None:
    assert str(findings(net).fault).startswith(fault)
    with pytest.raises(UserError):
        fb.load_model(net, roi=ROI)


@pytest.mark.parametrize("net", [BatchStatistics(), ForOne()])
def test_windows_of_a_network_that_mixes_a_batch_pass_one_by_one(net: nn.Module) -> None:
    result, images = findings(net), windows(1, ROI)
    assert result == Examination(singly=True)
    with torch.no_grad():
        alone = torch.cat([net(image) for image in images.split(1)])
        assert torch.equal(examination.mend(net, result.yields, result.singly)(images), alone)


def test_constant_output_is_a_caution_of_every_row() -> None:
    with pytest.warns(UserWarning, match="Constant: its output does not depend on the volume"):
        model = fb.load_model(Constant(), roi=ROI)
    case = fb.Case(torch.rand(1, *ROI), torch.ones(*ROI, dtype=torch.uint8))
    record = fb.evaluate(model, case, torch.rand(1, *ROI), metrics=["dsc"])
    assert "its output does not depend on the volume" in str(record["caution"])


def test_python_says_that_probabilities_were_mended() -> None:
    with pytest.warns(UserWarning, match="Softmax: it returns probabilities: their logarithm is taken"):
        soft = fb.load_model(Softmax(), roi=ROI)
    plain = fb.load_model(Net(), roi=ROI)
    case = fb.Case(torch.rand(1, *ROI), torch.randint(0, 3, ROI, dtype=torch.uint8))
    ece = [fb.evaluate(model, case, case.image, metrics=["calibration"])["ece"] for model in (soft, plain)]
    assert ece[0] == pytest.approx(ece[1], abs=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frozen_file_is_examined_once_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "1")
    torch.jit.save(torch.jit.trace(Softmax().eval(), torch.rand(1, 1, *ROI)), tmp_path / "net.pt")
    entry = ModelEntry(name="soft", arch="torchscript", checkpoint=str(tmp_path / "net.pt"), roi=ROI)
    with trusting(True):
        spec = resolve(entry, 3)
        monkeypatch.setattr("freqbench.models.resolving.examine", None)  # not called again
        assert resolve(entry, 3) == spec
        model = load(spec, torch.device("cpu"))
    assert spec.yields == "probabilities"
    assert spec.notes == (f"soft: {examination.MENDED['probabilities']}",)
    assert spec.model_id != replace(spec, yields="logits").model_id
    images = windows(1, ROI)
    with torch.no_grad():
        assert torch.allclose(model(images).softmax(1), Softmax()(images), atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_frozen_file_that_draws_is_refused_by_its_entry_s_name(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(Drops().eval(), torch.rand(1, 1, *ROI), check_trace=False), tmp_path / "net.pt")
    entry = ModelEntry(name="mine", arch="torchscript", checkpoint=str(tmp_path / "net.pt"), roi=ROI)
    with trusting(True), pytest.raises(UserError, match=r"^mine: expected equal logits of one window in two passes"):
        resolve(entry, 3)
