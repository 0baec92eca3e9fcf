"""Kernels beside PyTorch's operations: by Triton's interpreter, and under `-m gpu` on a GPU."""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from freqbench.ops import fused as chooser
from freqbench.ops import losses, quantisation, ssim, stretching
from freqbench.ops.fused import on_gpu
from freqbench.ops.losses import Scope

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SHAPES = [(2, 3, 5, 6, 7), (1, 4, 27, 20)]  # of one tile and of two
LOSSES = ("dice_ce", "dice", "ce", "margin", "dice_linear", "margin_and_dice")
KINDS = {torch.float64: 1e-13, torch.float32: 2e-6}


@pytest.fixture(params=[*(["cpu"] if INTERPRETED else []), pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return torch.device(request.param)


def plain(name: str) -> Callable[..., Tensor]:
    """A loss in PyTorch's operations, its parts too."""
    if name == "dice_ce":
        return lambda *given: plain("dice")(*given) + plain("ce")(*given)
    if name == "margin_and_dice":
        return lambda *given: plain("margin")(*given) + plain("dice_linear")(*given)
    form: Callable[..., Tensor] = getattr(losses, name)
    return form


def fused(name: str) -> Callable[..., Tensor]:
    """The same as a GPU takes it."""
    form: Callable[..., Any] = on_gpu(getattr(losses, name))
    return (lambda *given: form(*given)[1]) if name == "margin_and_dice" else form


def drawn(shape: tuple[int, ...], kind: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, list[Scope]]:
    """Logits, labels and scopes: everything, some voxels and classes, no voxel."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(shape, generator=generator, dtype=kind)).to(device)
    labels = torch.randint(0, shape[1], (shape[0], 1, *shape[2:]), generator=generator).to(device)
    some = (torch.rand(labels.shape, generator=generator) < 0.6).to(device)
    classes = torch.tensor([1, shape[1] - 1], device=device)
    return logits, labels, [Scope(), Scope(voxels=some, classes=classes), Scope(voxels=torch.zeros_like(some))]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_plain_operations(
    shape: tuple[int, ...], kind: torch.dtype, device: torch.device
) -> None:
    logits, labels, scopes = drawn(shape, kind, device)
    weights = torch.linspace(-1, 2, shape[0], dtype=kind, device=device)
    for scope, name in product(scopes, LOSSES):
        values, gradients = [], []
        for loss in (plain(name), fused(name)):
            z = logits.clone().requires_grad_()
            values.append(loss(z, labels, scope))
            gradients += torch.autograd.grad((values[-1] * weights).sum(), z)
        torch.testing.assert_close(*values, atol=KINDS[kind], rtol=KINDS[kind])
        off = (gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max().clamp(min=1e-30)
        assert float(off) <= KINDS[kind], (name, scope)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_margins_and_counts_are_those_of_plain_operations(shape: tuple[int, ...], device: torch.device) -> None:
    logits, labels, scopes = drawn(shape, torch.float32, device)
    for scope in scopes:
        z = [logits.clone().requires_grad_() for _ in range(2)]
        parts = plain("flips")(z[0], labels, scope), fused("flips")(z[1], labels, scope)
        inside = torch.ones_like(labels, dtype=torch.bool) if scope.voxels is None else scope.voxels
        for expected, got in zip(*parts, strict=True):
            assert torch.equal(got * inside, expected * inside)
        gradients = [
            torch.autograd.grad((each[0] * each[1] * inside).sum(), x)[0] for each, x in zip(parts, z, strict=True)
        ]
        assert torch.equal(*gradients)
        first, raised = on_gpu(losses.margin_and_dice)(logits, labels, scope)
        assert torch.equal(first * inside, parts[0][0].detach() * inside)
        torch.testing.assert_close(raised, fused("margin_and_dice")(logits, labels, scope))
        of_known = fused("margin_of")(logits, labels, scope, first)
        torch.testing.assert_close(of_known, plain("margin")(logits, labels, scope), atol=1e-6, rtol=1e-6)
        dice = [mean(logits, labels, None, scope.voxels) for mean in (plain("mean_dice"), fused("mean_dice"))]
        assert torch.equal(*dice)
    assert torch.equal(fused("is_as_labelled")(logits, labels), plain("is_as_labelled")(logits, labels))


def test_the_first_of_equal_logits_is_predicted(device: torch.device) -> None:
    logits, labels = torch.zeros(1, 4, 3, 3, device=device), torch.arange(9, device=device).reshape(1, 1, 3, 3) % 4
    assert torch.equal(fused("mean_dice")(logits, labels), plain("mean_dice")(logits, labels))
    assert bool(fused("is_as_labelled")(logits, labels).all())
    assert int(fused("flips")(logits, labels, Scope())[0].abs().sum()) == 0


def random(*shape: int, kind: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=kind).to(device)


def both(function: Callable[..., Any], *given: Any) -> tuple[Any, Any]:
    """Values of plain operations, and of the kernel."""
    plain: Callable[..., Any] = function.__wrapped__  # type: ignore[attr-defined]
    return plain(*given), function(*given)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_slices_are_stretched_as_by_plain_operations(kind: torch.dtype, device: torch.device) -> None:
    """Whole numbers, whose extremes tie; a constant slice."""
    x = (255 * random(2, 2, 37, 3, 19, kind=kind, device=device)).round()
    x[..., 3] = 4
    upstream = random(*x.shape, kind=kind, device=device, seed=1) - 0.5
    ends = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    for line in ((255.0, 0.0), (None, 1e-6)):
        assert torch.equal(*both(stretching.stretched, x, *ends, *line))
        expected, got = both(stretching.stretched_back, upstream, x, *ends, *line)
        assert float((got - expected).abs().max() / expected.abs().max()) <= KINDS[kind]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_errors_of_tables_are_those_of_plain_operations_to_the_bit(kind: torch.dtype, device: torch.device) -> None:
    """Coefficients of all sizes, some 0, some halfway between two multiples; steps that float32 rounds."""
    c = 120 * (random(2, 1, 16, 16, 8, kind=kind, device=device) - 0.5)
    c[:, :, 0] *= 30
    c[:, :, 1] = 0
    error = 16 * (random(*c.shape, kind=kind, device=device, seed=1) - 0.5)
    for steps in ((5.0, 20.3), (0.1, 1.0)):
        expected, got = both(quantisation.reachable, c, *steps)
        few, first, second, _ = expected
        parts = [(few, got[0]), *(pair for i in (1, 2, 3) for pair in zip(expected[i], got[i], strict=True))]
        parts += [both(quantisation.table_of, error, first, second, c, few, *steps)]
        parts += [both(quantisation.nearest_error, error, first, second)]
        assert all(torch.equal(*each) for each in parts)
    q = (5 + 15 * random(*c.shape, kind=torch.float32, device=device, seed=2)).round()
    assert torch.equal(*both(quantisation.hard_error, c, q))
    assert torch.equal(*both(quantisation.hard_error, (q * ((c.round() % 9) - 3.5)).to(kind), q))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_similarity_and_its_derivatives_are_those_of_plain_operations(kind: torch.dtype, device: torch.device) -> None:
    x, y = (random(2, 2, 9, 7, 11, kind=kind, device=device, seed=seed) for seed in (0, 1))
    moments = 0.9 * torch.cat([y, y.square(), x * y], dim=1) + 0.01
    for expected, got in zip(*both(ssim.ssim_maps, moments, 0.9 * x, 0.02 * x), strict=True):
        assert float((got - expected).abs().max() / expected.abs().max()) <= KINDS[kind]


def test_plain_operations_take_the_place_of_kernels_that_cannot_be_built(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Triton is asked for a kernel on a device that this machine lacks, or has no compiler for."""
    monkeypatch.setattr(chooser, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "freqbench.ops.fused.losses", None)  # importing it fails
    chooser.runs_kernels.cache_clear()
    try:
        assert not chooser.runs_kernels("cuda")
        assert not chooser.runs_kernels("mps")
    finally:
        chooser.runs_kernels.cache_clear()
    assert len([each for each in caplog.messages if "plain operations take their place" in each]) == 1


@pytest.mark.slow
def test_the_interpreter_runs_all() -> None:
    """Triton reads the variable when it is imported: the tests run in a process of their own."""
    pytest.importorskip("triton", reason="pip install -e '.[dev]'")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-m",
        "not gpu and not integration and not slow",
        __file__,
    ]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert "14 passed" in run.stdout, run.stdout


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "flag"),
    [
        *product(("value", "margins", "score", "costs"), (False, True)),
        *product(("sums", "sums_back", "margins_back"), (False,)),
    ],
)
def test_kernels_compile_for_gpus_of_two_generations(name: str, flag: bool) -> None:
    """Down to the machine's code, which needs no GPU."""
    triton = pytest.importorskip("triton", reason="pip install -e '.[dev]'")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from freqbench.ops.fused import kernels

    kernel = getattr(kernels, name)
    constants = {"dice": 1.0, "ce": 0.0, "margin": 1.0, "linear": 1.0, "smooth": 1e-6, "K": 14, "WIDTH": 512}
    constants |= {"CHOSEN": flag, "KEEPS": flag}
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    integers = {"y_at": "i64", "other_at": "i16", "counts_at": "i64"}
    for logits, wide in (("fp32", "fp32"), ("fp64", "fp64"), ("bf16", "fp32")):
        own = integers | dict.fromkeys(("z_at", "up_at", "m_at", "mine_at", "others_at"), logits)
        own |= {"sums_at": "fp64", "slope_at": wide, "of_at": wide, "among_at": "i32" if flag else "fp64"}
        own["out_at"] = {"sums": wide, "margins": "i32", "score": "fp64"}.get(name, logits)
        kinds = {parameter: f"*{own[parameter]}" for parameter in kernel.arg_names if parameter in own}
        kinds |= {name: kind for name, kind in (("num_voxels", "i32"), ("most", "fp32")) if name in kernel.arg_names}
        source = ASTSource(kernel, kinds | dict.fromkeys(constants, "constexpr"), constants)
        for generation in (80, 90):
            assert triton.compile(source, target=GPUTarget("cuda", generation, 32)).asm["cubin"]


@pytest.mark.integration
@pytest.mark.parametrize("scale", [0.0, 255.0])
@pytest.mark.parametrize("kind", ["fp32", "fp64"])
def test_kernels_of_volumes_compile_for_gpus_of_two_generations(kind: str, scale: float) -> None:
    triton = pytest.importorskip("triton", reason="pip install -e '.[dev]'")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime import KernelInterface

    from freqbench.ops.fused import volume_kernels

    given = {"scale": scale, "offset": 0.0, "constant": 1e-6, "tie": 1e-5, "C": 1, "c1": 1e-4, "c2": 9e-4}
    given |= {"WIDTH": 512, "ROWS": 32, "DEPTH": 16}
    kernels = {name: each for name, each in vars(volume_kernels).items() if isinstance(each, KernelInterface)}
    for name, kernel in kernels.items():
        if name.startswith("_"):
            continue
        constants = {key: value for key, value in given.items() if key in kernel.arg_names}
        kinds = {key: f"*{kind}" if key.endswith("_at") else "i32" for key in kernel.arg_names}
        source = ASTSource(kernel, kinds | dict.fromkeys(constants, "constexpr"), constants)
        for generation in (80, 90):
            options = {"enable_fp_fusion": False}
            built = triton.compile(source, target=GPUTarget("cuda", generation, 32), options=options)
            assert built.asm["cubin"]
            assert "fma.rn" not in built.asm["ptx"], name
