"""Way from an entry of a job to a model that runs: every reader, seeds, migrations, one place of its weights."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from models import nnunet_folder, test_bundle
from models.test_bundle import INFERENCE
from models.test_bundle import trained as in_bundle
from pydantic import ValidationError
from torch import Tensor, nn

from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.input_space import Preprocess
from freqbench.core.plugins import trusting
from freqbench.models import Facts, ModelEntry, ModelSpec, build, load, resolve, save_checkpoint
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.sources import checkpoint

CPU = torch.device("cpu")
UNET = {"name": "m", "arch": "unet", "args": {"channels": [4, 8], "strides": [2]}, "roi": (8, 8, 8)}
UNETR = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2}


def spec(trusted: bool = False, **entry: Any) -> ModelSpec:
    with trusting(trusted):
        return resolve(ModelEntry(**{"name": "m", **entry}), num_classes=3)


def volume(*shape: int) -> Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))


def nnunet(folder: Path) -> str:
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    return nnunet_folder.write(folder)


bundle = test_bundle.written


@pytest.mark.parametrize("reader", [nnunet, bundle])
def test_a_folder_of_other_classes_or_channels_is_refused(reader: Any, tmp_path: Path) -> None:
    path = reader(tmp_path / "f")
    where = {"bundle": path} if reader is bundle else {"arch": "nnunet", "checkpoint": path}
    with pytest.raises(UserError, match=r"m: .* has 3 output classes, dataset wants 5"):
        resolve(ModelEntry(name="m", **where), num_classes=5)
    with pytest.raises(UserError, match=r"m: .* has 1 input channels, dataset wants 2"):
        resolve(ModelEntry(name="m", **where), num_classes=3, num_channels=2)


def test_settings_of_the_job_replace_those_of_the_folder(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b")
    own = {"input": {"scale": (0, 5)}, "inference": {"overlap": 0.25}, "preprocess": {"spacing": (1, 1, 1)}}
    resolved = spec(bundle=path, roi=(8, 16, 32), **own)
    assert (resolved.roi, resolved.inference.overlap, resolved.input.scale) == ((8, 16, 32), 0.25, (0, 5))
    assert resolved.space is not None
    assert resolved.space.spacing == (1, 1, 1)
    assert resolved.model_id != spec(bundle=path).model_id


def test_axes_that_job_leaves_out_stay_those_of_architecture() -> None:
    """A window of 64^3 fits in any order: only the prediction would tell."""
    small = {"feature_size": 4, "dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "stem": [2, 2, 2]}
    plus = {"arch": "unetr_pp", "args": small, "roi": (32, 32, 32), "checkpoint": "random"}
    assert spec(**plus, input={"mean": 0.5}).input.axes == "DHW"
    assert spec(**plus, input={"mean": 0.5, "axes": "HWD"}).input.axes == "HWD"


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"input": {"mean": 0.5}}, "expected no input beside a pipeline of its own"),
        ({"input": {"axes": "HWD"}}, "expected no input beside a pipeline of its own"),
        ({"inference": {"padding": "volume"}}, "inference.padding: expected reflect, replicate or a number"),
        ({"defence": {"name": "random_resize_pad"}}, "expected no random_resize_pad beside a pipeline of its own, as"),
    ],
)
@pytest.mark.parametrize("reader", [nnunet, bundle])
def test_pipeline_of_its_own_makes_input_alone(reader: Any, stated: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = reader(tmp_path / "f")
    where = {"bundle": path} if reader is bundle else {"arch": "nnunet", "checkpoint": path}
    with pytest.raises(UserError, match=f"^m: {words}"):
        spec(**where, **stated)
    with pytest.raises(UserError, match=f"^m: {words}"):
        spec(**UNET, checkpoint="random", transforms=[{"_target_": "ScaleIntensityd", "keys": "image"}], **stated)


@pytest.mark.parametrize("stated", [{}, {"input": {}}, {"preprocess": {}}])
def test_bundle_without_transforms_needs_a_stated_space(stated: dict[str, Any], tmp_path: Path) -> None:
    path = bundle(tmp_path / "b")
    (tmp_path / "b/configs/inference.json").write_text(json.dumps({**INFERENCE, "preprocessing": None}))
    with pytest.raises(UserError, match=r"^m: expected preprocess and input, .*: state both$"):
        spec(bundle=path, **stated)
    assert spec(bundle=path, input={}, preprocess={}).space is not None


def test_another_space_than_its_pipelines_needs_an_input(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b")
    with pytest.raises(UserError, match=r"^m: expected input beside preprocess, .* its own pipeline: state both$"):
        spec(bundle=path, preprocess={"intensity": {"window": [-175, 250]}})
    both = spec(bundle=path, preprocess={"intensity": {"window": [-175, 250]}}, input={"scale": (-1, 1)})
    assert (both.space, both.input.scale) == (Preprocess(intensity={"window": (-175, 250)}), (-1, 1))


def test_a_folder_that_changed_since_the_plan_is_not_loaded(tmp_path: Path) -> None:
    planned = spec(bundle=bundle(tmp_path / "b"))
    torch.save({key: 2 * value for key, value in in_bundle().state_dict().items()}, tmp_path / "b/models/model.pt")
    with pytest.raises(CheckpointError, match="is not the file that was planned with"):
        load(planned, CPU)


def test_weights_changed_while_loading_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = spec(bundle=bundle(tmp_path / "b"))
    read = checkpoints.read_state_dict

    def read_other(path: str, **more: Any) -> dict[str, Tensor]:
        torch.save({key: 2 * value for key, value in in_bundle().state_dict().items()}, path)
        return read(path, **more)

    monkeypatch.setattr(checkpoints, "read_state_dict", read_other)
    with pytest.raises(CheckpointError, match="is not the file that was planned with"):
        load(planned, CPU)


def test_random_takes_a_seed() -> None:
    first, zero, seven = (spec(**UNET, checkpoint=text) for text in ("random", "random:0", "random:7"))
    assert (first.seed, zero.seed, seven.seed) == (0, 0, 7)
    assert first.model_id == zero.model_id != seven.model_id
    wanted = build("unet", 3, (8, 8, 8), UNET["args"], seed=7).state_dict()
    state = load(seven, CPU).net.state_dict()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    assert not all(torch.equal(load(zero, CPU).net.state_dict()[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("text", ["random:", "random:x", "random7", "Random"])
def test_text_that_is_no_seed_is_a_path(text: str) -> None:
    with pytest.raises(CheckpointError, match=f"{text}: expected a"):
        spec(**UNET, checkpoint=text)


def test_a_migration_is_in_the_identity_and_none_is_not(tmp_path: Path) -> None:
    """The same file, read with and without: MONAI 1.4's own layer is dropped where it stands there."""
    net = build("unetr", 3, (16, 16, 16), UNETR).state_dict()
    old = {**net, "vit.blocks.0.cross_attn.out_proj.weight": torch.zeros(24, 24)}
    torch.save(net, tmp_path / "new.pt")
    torch.save(old, tmp_path / "old.pt")
    entry = {"arch": "unetr", "args": UNETR, "roi": (16, 16, 16)}
    new, recognised, stated = (
        spec(**entry, checkpoint=str(tmp_path / name), migration=migration)
        for name, migration in (("new.pt", None), ("old.pt", None), ("old.pt", "monai-1.4"))
    )
    assert (new.migration, recognised.migration, recognised.model_id) == (None, "monai-1.4", stated.model_id)
    assert spec(**entry, checkpoint=str(tmp_path / "new.pt"), migration="none").model_id == new.model_id
    assert spec(**entry, checkpoint=str(tmp_path / "new.pt"), migration="monai-1.4").model_id != new.model_id


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "expected one of checkpoint, bundle, command and ensemble, got none"),
        ({"checkpoint": "a", "bundle": "b"}, "got checkpoint and bundle"),
        ({"bundle": "b", "ensemble": ["x", "y"]}, "got bundle and ensemble"),
        ({"bundle": "b", "arch": "unet"}, "expected a bundle without arch, migration and prefix"),
        ({"bundle": "b", "migration": "none"}, "expected a bundle without arch, migration and prefix"),
    ],
)
def test_a_model_comes_from_exactly_one_place(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelEntry(name="m", **entry)


def test_a_migration_where_nothing_is_read_is_refused() -> None:
    with pytest.raises(UserError, match=r"m: migration: expected none for unet of random, got none: it is for check"):
        spec(**UNET, checkpoint="random", migration="none")


def unet(num_classes: int = 3, **changes: Any) -> ModelSpec:
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
    assert len({unet(**each).model_id for each in changes}) == len(changes)


def test_model_id_depends_on_no_name_path_or_named_default(tmp_path: Path, tiny_unet: nn.Module) -> None:
    torch.save(tiny_unet.state_dict(), tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    first, second = (unet(checkpoint=str(tmp_path / name)).model_id for name in ("a.pt", "b.pt"))
    assert first == second
    assert unet(name="other", args={"num_res_units": 2, "dropout": 0.0, "act": "PRELU"}).model_id == unet().model_id


def test_model_id_of_today_stays() -> None:
    """Results of earlier runs are found by it: a change here recomputes all of them."""
    assert unet().model_id == "179a526b537af828"


def test_random_weights_are_asked_for_by_name_and_need_an_arch() -> None:
    with pytest.raises(UserError, match="m: the checkpoint does not say its architecture: give arch: unet, unetr"):
        resolve(ModelEntry(name="m", checkpoint="random"), 3)


def test_model_is_in_eval_mode_without_parameter_gradients() -> None:
    model = load(unet(args={"norm": "BATCH", "dropout": 0.5}), CPU)
    images = torch.rand(1, 1, 32, 32, 16, requires_grad=True)
    model(images).square().sum().backward()
    assert not model.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown precision 'fp23'\. Did you mean 'fp32'\?"):
        load(unet(), CPU, precision="fp23")


@pytest.mark.slow
def test_compiled_network_gives_the_same_logits_and_keys() -> None:
    images = torch.rand(1, 1, 32, 32, 16)
    eager = load(unet(), CPU)
    compiled = load(unet(), CPU, compile=True)
    torch.testing.assert_close(compiled(images), eager(images), rtol=1e-4, atol=1e-4)
    assert compiled.state_dict().keys() == eager.state_dict().keys()


def stays(run: Callable[[], object]) -> set[str]:
    """Functions of the room that take or return an entry, facts or a spec, with those nested; no methods of these."""
    room = str(Path(checkpoint.__file__).parents[1])
    kinds = (ModelEntry, Facts, ModelSpec)
    road = set[str]()

    def note(frame: FrameType, event: str, returned: object) -> None:
        values = [*frame.f_locals.values()] if event == "call" else [returned]
        is_of_value = isinstance(frame.f_locals.get("self"), kinds)
        if frame.f_code.co_filename.startswith(room) and not is_of_value and any(isinstance(v, kinds) for v in values):
            file = Path(frame.f_code.co_filename).relative_to(room).as_posix()
            road.add(f"{file}: {frame.f_code.co_qualname.partition('.<locals>')[0]}")

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return road


@pytest.mark.parametrize("is_own", [True, False])
def test_checkpoint_takes_at_most_twenty_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_own: bool) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "0")
    monkeypatch.setattr(checkpoint, "COSTS", checkpoint.COSTS.anew())
    args = UNET["args"]
    roi = UNET["roi"]
    path = str(tmp_path / "net.safetensors")
    weights = {name: 2 * value for name, value in build("unet", 3, roi, args).state_dict().items()}
    if is_own:
        save_checkpoint(path, weights, {"arch": "unet", "args": args, "roi": roi}, half=False)
    else:
        torch.save(weights, path)
    entry = ModelEntry(**{**({"name": "m"} if is_own else UNET), "checkpoint": path})
    road = stays(lambda: load(resolve(entry, 3), CPU))
    assert {"resolving.py: resolve", "sources/source.py: cost_of", "loading.py: load"} <= road
    assert len(road) <= 20, "\n".join(sorted(road))
