"""Identities of models, and what `load` hands out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from freqbench.core.errors import UserError
from freqbench.models import ModelEntry, ModelSpec, load, resolve

CPU = torch.device("cpu")


def spec(num_classes: int = 3, **changes: Any) -> ModelSpec:
    args = {"channels": [8, 16, 32, 64], "strides": [2, 2, 2], **changes.pop("args", {})}
    entry = {"name": "m", "arch": "unet", "checkpoint": "random", "args": args, "roi": (32, 32, 16), **changes}
    return resolve(ModelEntry(**entry), num_classes)


def test_model_id_depends_on_all_that_changes_predictions(tmp_path: Path, tiny_unet: nn.Module) -> None:
    torch.save(tiny_unet.state_dict(), tmp_path / "a.pt")
    changes: list[dict[str, Any]] = [
        {},
        {"num_classes": 4},
        {"roi": (32, 32, 32)},
        {"args": {"dropout": 0.1}},
        {"args": {"num_res_units": 0}},
        {"checkpoint": str(tmp_path / "a.pt")},
    ]
    assert len({spec(**each).model_id for each in changes}) == len(changes)


def test_model_id_depends_on_no_name_path_or_named_default(tmp_path: Path, tiny_unet: nn.Module) -> None:
    torch.save(tiny_unet.state_dict(), tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    first, second = (spec(checkpoint=str(tmp_path / name)).model_id for name in ("a.pt", "b.pt"))
    assert first == second
    assert spec(name="other", args={"num_res_units": 2, "dropout": 0.0, "act": "PRELU"}).model_id == spec().model_id


def test_model_id_of_today_stays() -> None:
    """Results of earlier runs are found by it: a change here recomputes all of them."""
    assert spec().model_id == "179a526b537af828"


def test_default_roi_is_the_papers() -> None:
    assert resolve(ModelEntry(name="m", arch="unet", checkpoint="random"), 14).roi == (96, 96, 96)


def test_random_weights_are_asked_for_by_name_and_need_an_arch() -> None:
    with pytest.raises(UserError, match="m: the checkpoint does not say its architecture: give arch: unet, unetr"):
        resolve(ModelEntry(name="m", checkpoint="random"), 3)


def test_model_is_in_eval_mode_without_parameter_gradients() -> None:
    model = load(spec(args={"norm": "BATCH", "dropout": 0.5}), CPU)
    images = torch.rand(1, 1, 32, 32, 16, requires_grad=True)
    model(images).square().sum().backward()
    assert not model.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown precision 'fp23'\. Did you mean 'fp32'\?"):
        load(spec(), CPU, precision="fp23")


@pytest.mark.slow
def test_compiled_network_gives_the_same_logits_and_keys() -> None:
    images = torch.rand(1, 1, 32, 32, 16)
    eager, compiled = load(spec(), CPU), load(spec(), CPU, compile=True)
    torch.testing.assert_close(compiled(images), eager(images), rtol=1e-4, atol=1e-4)
    assert compiled.state_dict().keys() == eager.state_dict().keys()
