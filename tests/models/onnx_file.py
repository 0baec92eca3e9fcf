"""Tiny ONNX files, as tests write them; no exporter is needed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
if not find_spec("onnx2torch"):
    pytest.skip("onnx2torch is not installed", allow_module_level=True)


def write(
    path: Path,
    classes: int = 3,
    operator: str = "Relu",
    sides: tuple[Any, ...] = ("h", "w", "d"),
    batch: Any = "batch",
    seed: int = 0,
    **attributes: Any,
) -> str:
    """A convolution to four channels, an operator, and a convolution to the classes."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    shapes = {"w0": (4, 1, 3, 3, 3), "b0": (4,), "w1": (classes, 4, 1, 1, 1)}
    arrays = [numpy_helper.from_array(rng.normal(0, 1, s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["a"], pads=[1] * 6),
        helper.make_node(operator, ["a"], ["b"], **attributes),
        helper.make_node("Conv", ["b", "w1"], ["logits"]),
    ]
    taken = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, *sides])
    returned = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes, *sides])
    graph = helper.make_graph(nodes, "net", [taken], [returned], arrays)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


BLACK = "ThresholdedRelu"
"""An operator that ONNX Runtime knows and the converter does not."""
