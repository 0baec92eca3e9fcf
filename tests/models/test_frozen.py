"""Networks saved with their code: TorchScript and torch.export."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from models.conftest import facts, network
from torch import Tensor, nn

from freqbench.core.errors import CheckpointError, UserError
from freqbench.models.wrapper import SegmentationModel

# Later torch releases deprecate TorchScript.
pytestmark = [
    pytest.mark.usefixtures("trusted"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

ROI = (6, 8, 10)
READER = "torch_export"
"""Names of both forms, which a file shows."""


class Small(nn.Module):
    """Two convolutions, dropout, a buffer, and a tensor made on a device that the graph names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.norm = nn.InstanceNorm3d(4, affine=True)
        self.dropout = nn.Dropout3d(0.5)
        self.last = nn.Conv3d(4, 3, 1)
        self.register_buffer("shift", torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.arange(10, dtype=torch.float32, device=images.device) / 10
        features = self.dropout(torch.relu(self.norm(self.first(images + ramp))))
        logits: Tensor = self.last(features) + self.shift
        return logits


class Twice(Small):
    def forward(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]
        logits = super().forward(images)
        return [logits, logits]


def drawn() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Small().eval()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return drawn()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, *ROI, generator=torch.Generator().manual_seed(1))


def script(net: nn.Module, path: Path, change: Callable[[Any], Any] = lambda traced: traced) -> str:
    torch.jit.save(change(torch.jit.trace(net, torch.rand(1, 1, *ROI))), path)
    return str(path)


def export(net: nn.Module, path: Path, batch: int = 1, **options: Any) -> str:
    torch.export.save(torch.export.export(net, (torch.rand(batch, 1, *ROI),), **options), path)
    return str(path)


ANY = {"batch": 2, "dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=64)},)}
Save = Callable[[nn.Module, Path], str]
SAVES: Mapping[str, Save] = {"script": script, "one": export, "any": partial(export, **ANY)}


@pytest.fixture(scope="module")
def files(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    folder = tmp_path_factory.mktemp("frozen")
    return {name: save(net, folder / f"{name}.pt2") for name, save in SAVES.items()}


@pytest.mark.parametrize("form", SAVES)
def test_logits_and_gradients_are_exact(net: nn.Module, images: Tensor, files: Mapping[str, str], form: str) -> None:
    model = SegmentationModel(network(READER, files[form]).requires_grad_(False), ROI)
    weights = torch.rand(3, 3, *ROI, generator=torch.Generator().manual_seed(4))
    passes = []
    for each in (model.eval(), net):
        x = images.clone().requires_grad_()
        logits = each(x)
        (weights * logits).sum().backward()
        passes.append((logits.detach(), x.grad))
    (got, gradient), (wanted, wanted_gradient) = passes
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", SAVES)
def test_training_mode_switches_nothing_on(images: Tensor, files: Mapping[str, str], form: str) -> None:
    model = network(READER, files[form])
    torch.testing.assert_close(model.train()(images), model.eval()(images), rtol=0, atol=0)


def test_exported_network_moves_to_another_device_whole(files: Mapping[str, str]) -> None:
    """The meta device stands in for an accelerator: a tensor left on the CPU fails the addition."""
    assert network(READER, files["any"]).to("meta")(torch.empty(2, 1, *ROI, device="meta")).device.type == "meta"


def test_an_archive_of_torch_export_says_its_sizes(files: Mapping[str, str]) -> None:
    stated = facts(READER, files["one"])
    assert (stated.roi, stated.num_classes, stated.num_channels) == (ROI, 3, 1)
    assert stated.space is None


@pytest.mark.parametrize(
    ("form", "args", "message"),
    [
        ("one", {"num_classes": 4}, "num_classes is 4 here, but the file was exported for 3"),
        ("one", {"roi": [8, 8, 8]}, r"roi is \(8, 8, 8\) here"),
        ("one", {"classes": 3}, "unknown key 'classes'"),
        ("script", {"roi": ROI}, "num_classes: required"),
        ("script", {"num_classes": 3}, "roi: required"),
    ],
)
def test_refuses_contradictions(files: Mapping[str, str], form: str, args: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        facts(READER, files[form], args=args)


def test_refuses_other_files_in_one_line(net: nn.Module, files: Mapping[str, str], tmp_path: Path) -> None:
    weights, text, half = (tmp_path / name for name in ("weights.pt", "text.pt2", "half.pt2"))
    torch.save(net.state_dict(), weights)
    text.write_text("none")
    half.write_bytes(Path(files["script"]).read_bytes()[:2000])
    for path in (weights, text, half):
        with pytest.raises(CheckpointError, match=r"expected a file of torch.jit.save or torch.export.save"):
            network(READER, str(path))
    with pytest.raises(CheckpointError, match="found none"):
        network(READER, str(tmp_path / "gone.pt"))


class Closed(Small):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.detach())


@pytest.mark.parametrize(
    ("cls", "save", "message"),
    [
        (Small, partial(script, change=torch.jit.freeze), r"torch.jit.freeze"),
        (Small, partial(export, batch=2), "got 2: export it with a dynamic batch"),
        (Twice, export, "got 1 in and 2 out"),
        (Twice, script, "returns one tensor, got list"),
        (Closed, script, "gradients to its input"),
        (Closed, export, "gradients to its input"),
    ],
)
def test_refuses_unattackable(images: Tensor, tmp_path: Path, cls: type[nn.Module], save: Save, message: str) -> None:
    path = save(cls().eval(), tmp_path / "a.pt2")
    with pytest.raises(UserError, match=message):
        network(READER, path)(images.requires_grad_())
