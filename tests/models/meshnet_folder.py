"""A tiny MeshNet in TensorFlow.js' layers format, as tests write it."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = (9, 8, 7)


def _layer(kind: str, name: str, before: str, **config: Any) -> dict[str, Any]:
    return {
        "class_name": kind,
        "name": name,
        "config": {"name": name, **config},
        "inbound_nodes": [[[before, 0, 0, {}]]] if before else [],
    }


def _conv(name: str, before: str, filters: int, side: int, dilation: int) -> dict[str, Any]:
    sizes = {"kernel_size": [side] * 3, "strides": [1] * 3, "dilation_rate": [dilation] * 3}
    fixed = {"padding": "same", "data_format": "channels_last", "activation": "linear", "use_bias": True, "groups": 1}
    return _layer("Conv3D", name, before, filters=filters, **sizes, **fixed)


LAYERS: list[dict[str, Any]] = [
    _layer("InputLayer", "input", "", batch_input_shape=[None, *SIDE, 1]),
    _conv("conv3d_0", "input", 4, 3, 1),
    _layer("Activation", "act_0", "conv3d_0", activation="elu"),
    _conv("21", "act_0", 4, 3, 2),
    _layer("Activation", "act_1", "21", activation="relu"),
    _conv("output", "act_1", 3, 1, 1),
]


def weights(seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    shapes = {"conv3d_0": (3, 3, 3, 1, 4), "21": (3, 3, 3, 4, 4), "output": (1, 1, 1, 4, 3)}
    arrays = {}
    for name, shape in shapes.items():
        arrays[f"{name}/kernel"] = rng.normal(0, 0.5, shape).astype(np.float32)
        arrays[f"{name}/bias"] = rng.normal(0, 0.5, shape[-1]).astype(np.float32)
    return arrays


def content(arrays: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, Any]:
    listed = [{"name": name, "shape": list(array.shape), "dtype": "float32"} for name, array in arrays.items()]
    config = {"class_name": "Functional", "config": {"name": "model", "layers": copy.deepcopy(LAYERS)}}
    return {
        "format": "layers-model",
        "modelTopology": {"keras_version": "2.7.0", "model_config": config},
        "weightsManifest": [{"paths": ["model.bin"], "weights": listed}],
    }


def layers_of(model: Mapping[str, Any]) -> Any:
    return model["modelTopology"]["model_config"]["config"]["layers"]


def write(folder: Path, change: Callable[[dict[str, Any]], None] = lambda model: None, seed: int = 0) -> str:
    """Writes a network whose `model.json` is changed by a function."""
    folder.mkdir(exist_ok=True)
    arrays = weights(seed)
    model = content(arrays)
    change(model)
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "model.bin").write_bytes(b"".join(array.astype("<f4").tobytes() for array in arrays.values()))
    return str(folder)
