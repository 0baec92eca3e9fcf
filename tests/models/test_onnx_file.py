"""ONNX files, with gradients and as black boxes."""

import builtins
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from draws import seeded
from models import onnx_file
from models.conftest import refused
from models.onnx_file import BLACK, onnx, onnxruntime
from models.test_inferring import Softmax

from freqbench.models import ModelEntry, examination, load, resolve
from freqbench.models.examination import windows
from freqbench.models.sources import onnx as reader

ROI = (6, 7, 8)
CPU = torch.device("cpu")


def entry(path: str, **more: Any) -> ModelEntry:
    return ModelEntry(**{"name": "m", "arch": "onnx", "checkpoint": path, "roi": ROI, **more})


@pytest.mark.parametrize(("operator", "batch"), [("Relu", "batch"), ("Relu", 1), (BLACK, "batch"), (BLACK, 1)])
def test_logits_are_those_of_onnx_runtime(tmp_path: Path, operator: str, batch: Any) -> None:
    path = onnx_file.write(tmp_path / "net.onnx", operator=operator, batch=batch)
    spec = resolve(entry(path), num_classes=3)
    x = torch.rand(2, 1, *ROI, generator=seeded(1))
    session = onnxruntime.InferenceSession(path)
    wanted = np.concatenate([session.run(None, {"image": image[None].numpy()})[0] for image in x])
    np.testing.assert_allclose(load(spec, CPU)(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert bool(spec.black_box) == (operator == BLACK)


def test_a_network_of_known_operators_has_its_gradient(tmp_path: Path) -> None:
    path = onnx_file.write(tmp_path / "net.onnx", operator="Sigmoid")
    x = torch.rand(1, 1, *ROI, generator=seeded(1))
    way = torch.randn(x.shape, generator=seeded(2))
    model = load(resolve(entry(path), num_classes=3), CPU)
    (gradient,) = torch.autograd.grad(model(point := x.clone().requires_grad_()).square().sum(), point)
    session = onnxruntime.InferenceSession(path)
    ends = [session.run(None, {"image": (x + sign * 1e-2 * way).numpy()})[0].astype(float) for sign in (1, -1)]
    ends = [np.square(each).sum() for each in ends]
    assert float((gradient * way).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=1e-3)


def test_wrongly_converted_network_is_a_black_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_file.write(tmp_path / "net.onnx")
    other = onnx_file.write(tmp_path / "other.onnx", seed=1)
    convert = reader._convert
    monkeypatch.setattr(reader, "_convert", lambda path: convert(other))
    reason = resolve(entry(path), num_classes=3).black_box
    assert reason is not None
    assert reason.startswith("its torch counterpart differs from ONNX Runtime by ")


def test_arrays_in_a_file_beside_it_are_part_of_the_identity(tmp_path: Path) -> None:
    path = Path(onnx_file.write(tmp_path / "net.onnx"))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.data", size_threshold=0)
    before = resolve(entry(str(path)), num_classes=3)
    data = tmp_path / "net.data"
    data.write_bytes(data.read_bytes()[:-4] + np.float32(1.5).tobytes())
    assert resolve(entry(str(path)), num_classes=3).model_id != before.model_id
    data.unlink()
    refused(entry(str(path)), f"{path}: expected its arrays in 'net.data' beside it, found no such file")


def _in_a_branch(model: onnx.ModelProto, array: onnx.TensorProto) -> None:
    branch = onnx.helper.make_graph([], "branch", [], [], [array])
    loop = onnx.helper.make_graph([onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch)], "loop", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", ["n"], ["y"], body=loop))


def _in_a_function(model: onnx.ModelProto, array: onnx.TensorProto) -> None:
    nodes = [onnx.helper.make_node("Constant", [], ["y"], value=array)]
    model.functions.append(onnx.helper.make_function("own", "f", [], ["y"], nodes, []))


@pytest.mark.parametrize(
    "put",
    [
        pytest.param(
            lambda model, array: model.graph.node.append(onnx.helper.make_node("Constant", [], ["y"], value=array)),
            id="constant",
        ),
        pytest.param(_in_a_branch, id="branch"),
        pytest.param(_in_a_function, id="function"),
        pytest.param(lambda model, array: model.graph.sparse_initializer.add().values.CopyFrom(array), id="sparse"),
        pytest.param(
            lambda model, array: model.graph.node[0].attribute.add(name="all").tensors.append(array), id="list"
        ),
    ],
)
def test_an_array_in_a_file_counts_wherever_the_graph_has_it(
    tmp_path: Path, put: Callable[[onnx.ModelProto, onnx.TensorProto], object]
) -> None:
    path = Path(onnx_file.write(tmp_path / "net.onnx"))
    data = tmp_path / "net.data"
    model = onnx.load(path)
    array = onnx.numpy_helper.from_array(np.ones(2, np.float32), "array")
    data.write_bytes(array.raw_data)
    onnx.external_data_helper.set_external_data(array, "net.data")
    array.ClearField("raw_data")
    put(model, array)
    path.write_bytes(model.SerializeToString())
    before = reader.SOURCE.sha256(str(path), {})
    data.write_bytes(bytes(8))
    assert reader.SOURCE.sha256(str(path), {}) != before


@pytest.mark.parametrize(
    ("form", "more", "text"),
    [
        ({}, {"roi": None}, "net.onnx: roi: required, as the file does not say it"),
        (
            {"sides": ROI},
            {"roi": (8, 8, 8)},
            "net.onnx: roi is (8, 8, 8) here, but the file was exported for (6, 7, 8)",
        ),
        ({"classes": 4}, {}, "net.onnx: num_classes is 3 here, but the file was exported for 4: set classes: 4"),
        ({"batch": 2}, {}, "net.onnx: expected float32 [batch, channels, h, w, d] in, with any batch or one"),
        ({"sides": ("h", "w")}, {}, "net.onnx: expected float32 [batch, channels, h, w, d] in"),
        ({"operator": "NoSuch"}, {}, "net.onnx: ONNX Runtime refuses it: "),
        ({}, {"args": {"side": 3}}, "net.onnx: unknown key 'side'"),
    ],
)
def test_misfit_file_is_refused(tmp_path: Path, form: dict[str, Any], more: dict[str, Any], text: str) -> None:
    refused(entry(onnx_file.write(tmp_path / "net.onnx", **form), **more), f"{tmp_path}/{text}")


def test_a_damaged_or_missing_file_is_one_line(tmp_path: Path) -> None:
    path = Path(onnx_file.write(tmp_path / "net.onnx"))
    path.write_bytes(path.read_bytes()[:100])
    refused(entry(str(path)), f"{path}: not an ONNX file, or a truncated one")
    refused(entry(f"{tmp_path}/none.onnx"), f"{tmp_path}/none.onnx: expected a file, found none")


def test_missing_packages_are_named_with_their_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_file.write(tmp_path / "net.onnx")
    real = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)
    refused(entry(path), f"{path}: expected the packages for ONNX files, got No module named 'onnxruntime': pip")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.usefixtures("own_cache")
def test_a_program_exported_as_onnx_is_examined_once_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Follows the command that a refused TorchScript file is told, with gradients."""
    window = windows(1, ROI)[:1]
    torch.jit.save(torch.jit.trace(Softmax().eval(), window), tmp_path / "net.pt")
    program = torch.jit.load(tmp_path / "net.pt")
    torch.onnx.export(program, (window,), tmp_path / "net.onnx", dynamo=False, opset_version=17)
    asked = entry(str(tmp_path / "net.onnx"))
    spec = resolve(asked, 3)
    monkeypatch.setattr("freqbench.models.resolving.examine", None)  # not called again
    assert resolve(asked, 3) == spec
    model = load(spec, CPU)
    assert (spec.yields, spec.black_box) == ("probabilities", None)
    assert spec.notes == (f"m: {examination.MENDED['probabilities']}",)
    assert spec.model_id != replace(spec, yields="logits").model_id
    images = windows(1, ROI)
    with torch.no_grad():
        assert torch.allclose(model(images).softmax(1), Softmax()(images), atol=1e-6)
