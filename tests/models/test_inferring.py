"""Arguments that the keys and shapes of a checkpoint show, and what a network is found to be when it runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.networks import nets
from torch import Tensor, nn

import freqbench as fb
from freqbench.core.errors import UserError
from freqbench.core.plugins import trusting
from freqbench.models import MODELS, ModelEntry, examination, resolve
from freqbench.models.examination import Examination, LogitsOfProbabilities, examine, windows
from freqbench.models.networks.architectures import complete_args
from freqbench.models.networks.construction import build, skeleton
from freqbench.models.networks.inferring import find_arch, infer_args

SIZE = (32, 32, 32)


def shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in net.state_dict().items()}


@pytest.mark.parametrize(
    ("arch", "args"),
    [
        pytest.param("unet", {"channels": (4, 8, 12), "strides": (2, 2), "num_res_units": 3}, id="unet"),
        pytest.param(
            "unet", {"channels": (6, 3), "strides": (2,), "num_res_units": 0}, id="unet of two levels without units"
        ),
        pytest.param(
            "unet", {"channels": (4, 8, 16), "strides": (1, 2), "num_res_units": 1}, id="unet that keeps its size once"
        ),
        pytest.param(
            "unet",
            {"channels": (4, 8), "strides": (2,), "num_res_units": 1, "norm": "batch"},
            id="unet with batch norm",
        ),
        pytest.param(
            "unet",
            {"channels": (4, 8), "strides": (2,), "num_res_units": 2, "kernel_size": (3, 3, 1), "up_kernel_size": 5},
            id="unet of other kernels",
        ),
        pytest.param(
            "unet", {"channels": (4, 8), "strides": (2,), "num_res_units": 1, "bias": False}, id="unet without biases"
        ),
        pytest.param("unetr", {"feature_size": 4, "mlp_dim": 40, "qkv_bias": True}, id="unetr"),
        pytest.param(
            "unetr",
            {"feature_size": 4, "mlp_dim": 8, "conv_block": False, "res_block": False},
            id="unetr with plain blocks",
        ),
        pytest.param("unetr", {"feature_size": 4, "mlp_dim": 8, "proj_type": "conv"}, id="unetr with a convolution"),
        pytest.param(
            "swin_unetr",
            {"feature_size": 12, "depths": (1, 2, 1, 3), "num_heads": (2, 3, 4, 6), "window_size": 4, "mlp_ratio": 2.0},
            id="swin_unetr",
        ),
        pytest.param(
            "swin_unetr",
            {"feature_size": 12, "use_v2": True, "qkv_bias": False, "patch_norm": True},
            id="swin_unetr v2",
        ),
        pytest.param("segresnet", {"init_filters": 16, "blocks_down": (1, 3, 2), "blocks_up": (2, 1)}, id="segresnet"),
        pytest.param(
            "segresnet", {"init_filters": 16, "upsample_mode": "deconv", "norm": "batch"}, id="segresnet deconv"
        ),
        pytest.param(
            "unetr_pp",
            {"feature_size": 8, "dims": (16, 32, 32, 64), "depths": (1, 2, 1, 1), "decoder_depth": 2, "num_heads": 2}
            | {"proj_sizes": (8, 8, 16, 8), "decoder_proj_size": 24, "stem": (1, 2, 4), "conv_blocks": 2},
            id="unetr_pp",
        ),
        pytest.param("rog", {"channels": 16}, id="rog"),
        pytest.param(
            "slices",
            {"slices": 5, "network": "unet", "channels": (4, 8), "strides": (2,), "num_res_units": 1},
            id="slices",
        ),
    ],
)
def test_weights_show_the_arguments_that_shape_them(arch: str, args: dict[str, Any]) -> None:
    roi = (64, 64, 64) if arch in ("rog", "unetr_pp", "swin_unetr") else SIZE
    net = skeleton(arch, 3, roi, args)
    prefix, arch_shown, bare = find_arch({f"net.{key}": value for key, value in net.state_dict().items()})
    assert (prefix, arch_shown) == ("net.", arch)
    shown = infer_args(arch, bare)
    assert {name: shown.args.get(name) for name in args} == args
    assert shapes(skeleton(arch, 3, roi, shown.args)) == shapes(net)
    assert shown.out_channels in (3, None)


@pytest.mark.integration
@pytest.mark.parametrize("arch", MODELS)
def test_a_default_network_shows_no_other_arguments(arch: str) -> None:
    shown = infer_args(arch, skeleton(arch, 3, MODELS[arch].roi, {}).state_dict())
    assert shown.args
    assert complete_args(arch, shown.args) == complete_args(arch, {})


def saved(path: Path, net: nn.Module) -> str:
    with torch.no_grad():
        for parameter in net.parameters():  # a norm of ones would hide which norm it is
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    torch.save({"state_dict": net.state_dict()}, path)
    return str(path)


def unet() -> nn.Module:
    return nets.UNet(3, 2, 4, channels=(4, 8, 16), strides=(2, 2), num_res_units=1).eval()


@pytest.mark.integration
def test_file_of_a_monai_class_needs_no_sizes(tmp_path: Path) -> None:
    net = unet()
    path = saved(tmp_path / "m.pt", net)
    images = torch.rand(2, 2, *SIZE)
    with pytest.warns(UserWarning, match="m: "):
        model = fb.load_model(path, arch="unet", roi=SIZE)
    assert (model.spec.num_classes, model.spec.num_channels) == (4, 2)
    with torch.no_grad():
        assert torch.equal(model.network(images), net(images))
    assert any("read off its weights" in note for note in model.spec.notes)


def test_contradicted_argument_is_refused_with_the_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", unet())
    entry = ModelEntry(name="m", arch="unet", checkpoint=path, args={"channels": [8, 8, 16]}, roi=SIZE)
    with pytest.raises(UserError, match=r"args.channels is \(8, 8, 16\) here, but the weights .* show \(4, 8, 16\)"):
        resolve(entry, 4, 2)


def test_stated_arguments_come_first_where_weights_show_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", unet())
    spec = resolve(ModelEntry(name="m", arch="unet", checkpoint=path, args={"strides": [2, 4]}, roi=SIZE), 4, 2)
    assert (spec.args["strides"], spec.args["channels"]) == ((2, 4), (4, 8, 16))
    assert not any("no trace" in note for note in spec.notes)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arch", "make", "name"),
    [
        pytest.param(
            "unetr",
            lambda: nets.UNETR(2, 4, SIZE, 4, 48, 32, num_heads=6),
            "num_heads",
            id="heads beside another hidden size",
        ),
        pytest.param(
            "segresnet",
            lambda: nets.SegResNet(3, 16, 2, 4, norm=("GROUP", {"num_groups": 2})),
            "norm",
            id="groups beside other filters",
        ),
        pytest.param(
            "unet",
            lambda: nets.UNet(3, 2, 4, (4, 8), (2,), act=("LEAKYRELU", {"negative_slope": 0.1})),
            "act",
            id="an activation without weights",
        ),
        pytest.param(
            "unet",
            lambda: nets.UNet(3, 2, 4, (4, 8), (2,), norm=("GROUP", {"num_groups": 2})),
            "norm",
            id="a norm that has weights alone",
        ),
        pytest.param(
            "swin_unetr",
            lambda: nets.SwinUNETR(2, 4, feature_size=12, norm_name=("instance", {"affine": True})),
            "norm_name",
            id="an affine norm of a transformer",
        ),
    ],
)
def test_traceless_argument_with_a_guess_has_to_be_stated(arch: str, make: Any, name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", make())
    stated = {"migration": "none"} if arch == "swin_unetr" else {}
    entry = ModelEntry(name="m", arch=arch, checkpoint=path, roi=SIZE, **stated)
    with pytest.raises(UserError, match=rf"^m: args.{name}: required, as the weights of .* load with any value"):
        resolve(entry, 4, 2)


def test_traceless_arguments_of_usual_default_are_named(tmp_path: Path) -> None:
    spec = resolve(ModelEntry(name="m", arch="unet", checkpoint=saved(tmp_path / "m.pt", unet()), roi=SIZE), 4, 2)
    assert "m: strides (2, 2): left no trace in its weights, state args if it was trained otherwise" in spec.notes


def test_freqbench_s_own_checkpoint_is_asked_nothing(tmp_path: Path) -> None:
    args = {"feature_size": 4, "hidden_size": 48, "mlp_dim": 32, "num_heads": 6}
    net = build("unetr", 4, SIZE, args)
    from freqbench.models import save_checkpoint

    metadata = {"arch": "unetr", "args": args, "roi": SIZE}
    save_checkpoint(tmp_path / "m.safetensors", net.state_dict(), metadata, half=False)
    spec = resolve(ModelEntry(name="m", checkpoint=str(tmp_path / "m.safetensors")), 4)
    assert (spec.args["num_heads"], spec.notes) == (6, ())


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
    result = findings(Softmax())
    images = windows(1, ROI)
    assert result == Examination(yields="probabilities")
    mended = examination.mend(Softmax(), result.yields, result.singly)
    with torch.no_grad():
        assert torch.allclose(mended(images).softmax(1), Softmax()(images), atol=1e-6)
        assert torch.equal(mended(images).argmax(1), Net()(images).argmax(1))


def test_attacks_follow_the_gradient_of_the_mended_logits() -> None:
    gradients = []
    labels = torch.ones(2, *ROI, dtype=torch.long)
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
    [
        (OneHot(), "expected logits, got 0 and 1 alone, as labels have no gradient"),
        (Sigmoid(), "expected logits, got numbers in [0, 1] that do not add up to 1"),
        (Drops(), "expected equal logits of one window in two passes"),
        (StaysInTraining(), "expected parameters and buffers as they were"),
        (NaN(), "expected finite logits, got NaN"),
        (Half(), "expected logits of shape (1, 3, 8, 6, 10), got (1, 3, 4, 6, 10)"),
        (Net(channels=2), "a window of 1x8x6x10 does not pass through it"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_network_that_no_row_can_describe_is_refused(net: nn.Module, fault: str) -> None:
    assert str(findings(net).fault).startswith(fault)
    with pytest.raises(UserError):
        fb.load_model(net, roi=ROI)


@pytest.mark.parametrize("net", [BatchStatistics(), ForOne()])
def test_windows_of_a_network_that_mixes_a_batch_pass_one_by_one(net: nn.Module) -> None:
    result = findings(net)
    images = windows(1, ROI)
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


def test_a_network_that_draws_is_refused_by_its_entry_s_name() -> None:
    entry = ModelEntry(name="mine", arch=f"{__name__}:Drops", checkpoint="random", roi=ROI)
    with trusting(True), pytest.raises(UserError, match=r"^mine: expected equal logits of one window in two passes"):
        resolve(entry, 3)
