"""MONAI bundles, written here as the model zoo's are: literal configurations, references, expressions."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from draws import seeded
from models.conftest import facts, network
from monai.inferers import SliceInferer
from monai.networks.nets import UNet

from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.identity import digest
from freqbench.core.plugins import trusting
from freqbench.models import ModelEntry, SlidingWindowModel, forward_flops, load, resolve, step_bytes
from freqbench.models.sources import bundle
from freqbench.pipelines.monai import MonaiPipeline

ROI = (8, 16, 24)
NETWORK = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}

SCALED = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -175, "a_max": 250, "b_min": -1.0, "b_max": 1.0}
SCALED |= {"clip": True}
SLIDING = {"_target_": "SlidingWindowInferer", "roi_size": "@window", "sw_batch_size": 4, "overlap": 0.625}
SLIDING |= {"mode": "gaussian"}
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "bundle_root": "/workspace/bundle",
    "image_key": "image",
    "num_classes": 3,
    "window": list(ROI),
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "datalist": "$list(sorted(glob.glob(@bundle_root + '/*.nii.gz')))",
    "network_def": {"_target_": "UNet", **NETWORK, "out_channels": "@num_classes"},
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "@image_key"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.6, 2.0], "mode": "bilinear"},
            SCALED,
            {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
        ],
    },
    "inferer": SLIDING,
    "postprocessing": {"_target_": "Compose", "transforms": [SOFTMAX, ARGMAX]},
}
METADATA = {"monai_version": "1.6.1", "network_data_format": {"inputs": {"image": {"spatial_shape": [32, 32, 16]}}}}

Change = Callable[[dict[str, Any], dict[str, Any]], object]
Write = Callable[..., str]


def trained() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return UNet(**NETWORK).eval()


def transform(config: dict[str, Any], name: str) -> dict[str, Any]:
    step: dict[str, Any] = next(t for t in config["preprocessing"]["transforms"] if t["_target_"] == name)
    return step


def written(root: Path, change: Change | None = None, suffix: str = "json") -> str:
    """A bundle; `change` alters its configuration and metadata before they are written."""
    config = copy.deepcopy(INFERENCE)
    metadata = copy.deepcopy(METADATA)
    if change:
        change(config, metadata)
    for folder in ("configs", "models"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(config) if suffix == "json" else yaml.safe_dump(config)
    (root / "configs" / f"inference.{suffix}").write_text(text)
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.save(trained().state_dict(), root / "models" / "model.pt")
    return str(root)


THRESHOLD = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.3}
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}


def after(*steps: dict[str, Any]) -> Change:
    """The transforms after the network are these."""
    return lambda config, metadata: config["postprocessing"].update(transforms=list(steps))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(written, tmp_path)


@pytest.mark.parametrize(("trusted", "suffix"), [(False, "json"), (True, "yaml")])
def test_computes_what_the_class_does(write: Write, trusted: bool, suffix: str) -> None:
    folder = write(suffix=suffix)
    with trusting(trusted):
        net = network("bundle", folder, with_weights=True).eval()
    images = torch.rand(1, 1, *ROI, generator=seeded(1))
    with torch.no_grad():
        torch.testing.assert_close(net(images), trained()(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("steps", "outputs"),
    [
        ((SIGMOID, THRESHOLD | {"threshold": 0.5}), "sigmoid"),
        ((SIGMOID, ARGMAX), "softmax"),  # each voxel then has one class
        ((SOFTMAX, ARGMAX), "softmax"),
    ],
)
def test_sigmoid_after_network_makes_regions(write: Write, steps: tuple[dict[str, Any], ...], outputs: str) -> None:
    assert facts("bundle", write(after(*steps))).outputs == outputs


def test_regions_of_bundle_are_paired_with_datasets_by_name(write: Write) -> None:
    """MONAI's regions of BraTS begin with the core, nnU-Net's with the whole tumour."""
    named = {"outputs": {"pred": {"channel_def": {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"}}}}
    change = after(SIGMOID, THRESHOLD | {"threshold": 0.5})
    folder = write(lambda config, meta: (change(config, meta), meta["network_data_format"].update(named)))
    ours = ("background", "whole tumor", "tumor core", "enhancing tumor")
    theirs = {1: [2], 2: [1], 3: [3]}
    by_name = resolve(ModelEntry(name="m", bundle=folder), 4, class_names=ours)
    mapped = resolve(ModelEntry(name="m", bundle=folder, class_map=theirs), 4, class_names=ours)
    assert by_name.class_map == mapped.class_map == ((), (1,), (0,), (2,))
    straight = resolve(ModelEntry(name="m", bundle=folder), 4, class_names=(ours[0], ours[2], ours[1], ours[3]))
    assert (straight.head, straight.num_outputs) == ("sigmoid", 3)


@pytest.mark.parametrize("version", ["1.4.0", "1.²"])
def test_swin_unetr_of_an_older_monai_is_refused(write: Write, version: str) -> None:
    swin = {"_target_": "monai.networks.nets.swin_unetr.SwinUNETR", "in_channels": 1, "out_channels": 2}
    made = {"network_def": {**swin, "feature_size": 12}}
    folder = write(lambda config, metadata: (config.update(made), metadata.update(monai_version=version)))
    with pytest.raises(UserError, match=rf"SwinUNETR of MONAI {version}.*with a migration"):
        network("bundle", folder)


def test_bundles_preprocessing_is_its_space_unless_stated(write: Write) -> None:
    folder = write()
    own = facts("bundle", folder)
    assert isinstance(own.space, MonaiPipeline)
    assert own.space.stated_bounds == ((-1.0, 1.0),)
    stated = facts("bundle", folder, input={}, preprocess={})
    assert (stated.space, stated.input.scale) == (None, (0.0, 1.0))


@pytest.mark.parametrize(
    ("inferer", "roi", "differs"),
    [
        ({"_target_": "SimpleInferer"}, (32, 32, 16), {"whole": "HWD"}),
        ({"_target_": "SlidingWindowInferer", "roi_size": 8, "device": "cpu", "progress": True}, (8, 8, 8), {}),
        (
            {"_target_": "monai.inferers.SlidingWindowInfererAdapt", "roi_size": [8, 16, -1]},
            (8, 16, 16),
            {"whole": "D"},
        ),
        (
            {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], "mode": "gaussian", "sigma_scale": 0.25},
            (8, 8, 8),
            {"weighting": "gaussian", "sigma": 0.25},
        ),
        (
            {
                "_target_": "SlidingWindowInferer",
                "roi_size": [8, 8, 8],
                "mode": "gaussian",
                "sigma_scale": [0.1, 0.2, 0.3],
            },
            (8, 8, 8),
            {"weighting": "gaussian", "sigma": (0.1, 0.2, 0.3)},
        ),
    ],
)
def test_an_inferer_is_read_by_its_class_and_arguments(
    write: Write, inferer: dict[str, Any], roi: tuple[int, ...], differs: dict[str, Any]
) -> None:
    stated = facts("bundle", write(lambda config, metadata: config.update(inferer=inferer)))
    usual = {"overlap": 0.25, "weighting": "constant", "padding": 0.0}
    assert (stated.roi, dict(stated.inference)) == (roi, usual | differs)


def slices(**changes: Any) -> Change:
    """Windows of slices, of a network of volumes unless it is told otherwise."""
    made = {"_target_": "SliceInferer", "roi_size": [8, 12], "overlap": 0.5, "mode": "gaussian", **changes}
    return lambda config, metadata: config.update(inferer=made)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_inferer_gives_monais_logits_and_their_gradient(write: Write, tmp_path: Path, axis: int) -> None:
    """More slices than a window has, fewer, and sides shorter than its own."""
    planar = {**NETWORK, "spatial_dims": 2}
    folder = write(lambda c, m: (c["network_def"].update(spatial_dims=2), slices(spatial_dim=axis)(c, m)))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.save((net := UNet(**planar).eval()).state_dict(), tmp_path / "models" / "model.pt")
    spec = resolve(ModelEntry(name="m", bundle=folder, input={}, preprocess={}), 3)
    assert spec.roi == ((16, 8, 12), (8, 16, 12), (8, 12, 16))[axis]
    inferer = SliceInferer(roi_size=(8, 12), spatial_dim=axis, overlap=0.5, mode="gaussian")
    drawn = torch.rand(1, 1, 20, 18, 10, generator=seeded(1))
    ours = drawn.clone().requires_grad_()
    theirs = drawn.clone().requires_grad_()
    logits = SlidingWindowModel(load(spec, torch.device("cpu")), window_batch=3)(ours)
    wanted = inferer(theirs, net)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)
    upstream = torch.randn(logits.shape, generator=seeded(2))
    gradients = [torch.autograd.grad(made, x, upstream)[0] for made, x in ((logits, ours), (wanted, theirs))]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


def test_an_inferer_that_an_expression_makes_is_read_with_trust(write: Write) -> None:
    made = "$monai.inferers.SlidingWindowInferer([8, 8, 8], 1, 0.5, 'gaussian')"
    with trusting():
        stated = facts("bundle", write(lambda config, metadata: config.update(inferer=made)))
    wanted = {"overlap": 0.5, "weighting": "gaussian", "padding": 0.0}
    assert (stated.roi, dict(stated.inference)) == ((8, 8, 8), wanted)


def test_slices_of_whole_planes_are_as_high_as_the_metadata_say(write: Write) -> None:
    """The inferer is an expression's; its windows have 16 slices, without overlap."""

    def change(config: dict[str, Any], metadata: dict[str, Any]) -> None:
        config["network_def"].update(spatial_dims=2)
        config.update(inferer="$monai.inferers.SliceInferer(2, roi_size=(-1, 24))")
        metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = [40, 48]

    with trusting():
        stated = facts("bundle", write(change))
    wanted = {"overlap": (0.25, 0.25, 0.0), "weighting": "constant", "padding": 0.0, "whole": "H"}
    assert (stated.roi, dict(stated.inference)) == ((40, 24, 16), wanted)


def test_a_roi_of_the_job_takes_the_place_of_whole_volumes(write: Write) -> None:
    folder = write(lambda config, metadata: config.update(inferer={"_target_": "SimpleInferer"}))
    inference = {roi: resolve(ModelEntry(name="m", bundle=folder, roi=roi), 3).inference for roi in (None, ROI)}
    assert [each.whole for each in inference.values()] == ["HWD", ""]


EXPRESSIONS = {
    "network_def::out_channels": lambda c: c.update(num_classes="$1 + 2"),
    "inferer::roi_size": lambda c: c.update(window="$[8] + [16, 24]"),
    "preprocessing::transforms::3::pixdim": lambda c: transform(c, "Spacingd").update(pixdim="$[1.5, 1.6, 2.0]"),
}


@pytest.mark.parametrize("key", EXPRESSIONS)
def test_expressions_need_trust_and_give_the_same_then(write: Write, key: str) -> None:
    folder = write(lambda config, metadata: EXPRESSIONS[key](config))
    place = {"network_def::out_channels": "num_classes is", "inferer::roi_size": "window is"}
    where = place.get(key, f"{key} is")
    with pytest.raises(UserError, match=rf"{where} the expression \$.*--trust-code"):
        facts("bundle", folder)
    with trusting():
        stated = facts("bundle", folder)
    assert isinstance(stated.space, MonaiPipeline)
    grid = stated.space.shape_of((31, 17, 11), (1.5, 1.6, 1.0), "RAS")
    assert (stated.roi, stated.num_classes, grid) == (ROI, 3, (31, 17, 6))


def test_nothing_runs_without_trust(write: Write, tmp_path: Path) -> None:
    trap = f"$open({str(tmp_path / 'ran')!r}, 'w')"
    folder = write(lambda config, metadata: config.update(imports=[trap], device=trap, network=trap, extra=trap))
    facts("bundle", folder)
    network("bundle", folder)
    Path(folder, "configs", "inference.json").write_text(json.dumps({**INFERENCE, "num_classes": trap}))
    with pytest.raises(UserError):
        facts("bundle", folder)
    assert not (tmp_path / "ran").exists()


def told(**arguments: Any) -> Change:
    return lambda config, metadata: config["network_def"].update(arguments)


def inferer(config: dict[str, Any], **arguments: Any) -> None:
    config["inferer"].update(arguments)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"expected a class of monai.networks.nets, got os.system", told(_target_="os.system")),
        (
            r"expected a class of monai.networks.nets, got monai.networks.nets.nn",
            told(_target_="monai.networks.nets.nn"),
        ),
        (r"network_def::act is an object of torch.nn.ReLU: .*--trust-code", told(act={"_target_": "torch.nn.ReLU"})),
        (r"network_def does not fit its class: .*depth", told(depth=3)),
        (r"would download weights", told(pretrained=True)),
        (
            r"network_def is the expression .*vista3d132.*: needs --trust-code",
            lambda c, m: c.update(network_def="$monai.networks.nets.vista3d132(in_channels=@input_channels)"),
        ),
        (r"refers to @gone, which is not in the file", lambda c, m: c.update(num_classes="@gone")),
        (
            r"refers to itself: .* > other > num_classes",
            lambda c, m: c.update(num_classes="@other", other="@num_classes"),
        ),
        (r"network_def: spatial_dims: .*got 2", told(spatial_dims=2)),
        (r"network_def: expected out_channels of at least 2, or a sigmoid", lambda c, m: c.update(num_classes=1)),
        (r"expected network_def with a _target_, got NoneType", lambda c, m: c.pop("network_def")),
        (
            r"transforms::1::threshold: expected 0.5, as a voxel lies in a region .* got 0.3: subtract log",
            after(SIGMOID, THRESHOLD),
        ),
        (r"transforms::0::threshold: expected a softmax, an argmax or a sigmoid before it", after(THRESHOLD)),
        (
            r"transforms::1::rounding: expected a softmax",
            after(
                {"_target_": "Activationsd", "keys": "pred"},
                {"_target_": "AsDiscreteD", "keys": "pred", "rounding": "torchrounding"},
            ),
        ),
        (
            r"transforms::0::threshold: expected a softmax",
            after(
                {
                    "_target_": "AsDiscreted",
                    "keys": ["label", "pred"],
                    "threshold": [None, 0.4],
                    "argmax": [True, False],
                }
            ),
        ),
        *(
            (
                rf"inferer: expected one of .*, got {name}: .*take the weights",
                lambda c, m, name=name: inferer(c, _target_=name),
            )
            for name in ("SaliencyInferer", "own.SlidingWindowInferer")
        ),
        (r"spatial_dims: expected 2 beside this inferer, got 3", slices()),
        (r"inferer: expected roi_size of two sides .*got \[8, 8, 8\] and 0", slices(roi_size=[8, 8, 8])),
        (r"inferer: expected .*spatial_dim of 0, 1 or 2, got \[8, 12\] and 3", slices(spatial_dim=3)),
        (r"inferer: unknown key 'spatial_dim'", lambda c, m: inferer(c, spatial_dim=1)),
        (r"inferer: unknown key 'with_coord'", lambda c, m: inferer(c, with_coord=True)),
        (r"inferer: padding_mode: .*got 'circular'", lambda c, m: inferer(c, padding_mode="circular")),
        (r"inferer: unknown key 'temperature'", lambda c, m: inferer(c, temperature=2)),
        (r"found neither", lambda c, m: (c.pop("inferer"), m.clear())),
    ],
)
def test_refuses_in_one_line(write: Write, message: str, change: Change) -> None:
    folder = write(change)
    with pytest.raises(UserError, match=message):  # noqa: PT012 (which of the two refuses is free)
        facts("bundle", folder)
        network("bundle", folder)


@pytest.mark.parametrize("missing", ["configs/inference.json", "models/model.pt"])
def test_refuses_an_incomplete_folder_by_name(write: Write, missing: str) -> None:
    folder = write()
    Path(folder, missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        facts("bundle", folder)


def loader(load_path: str, **keys: Any) -> dict[str, Any]:
    """A `CheckpointLoader` of MONAI's for the network."""
    return {"_target_": "CheckpointLoader", "load_path": load_path, "load_dict": {"model": "@network"}, **keys}


BEST = "$@bundle_root + '/models/model_best.pt'"
OTHER = {"_target_": "CheckpointLoader", "load_path": "models/vae.pt", "load_dict": {"model": "@autoencoder"}}
LOADING: dict[str, dict[str, Any]] = {
    "a loader": {"loader": loader("models/model_best.pt")},
    "a reference": {"loader": loader("@path"), "path": "@file", "file": "/workspace/bundle/models/model_best.pt"},
}
LOADING |= {
    "a handler": {"handlers": [loader(BEST), OTHER]},
    "an expression": {"initialize": [f"$@network.load_state_dict(torch.load({BEST[1:]}))"]},
    "one of two that is not disabled": {"handlers": [loader("models/model.pt", _disabled_=" True"), loader(BEST)]},
}


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("keys", LOADING.values(), ids=LOADING)
def test_weights_are_those_that_its_inference_loads(write: Write, keys: dict[str, Any], trusted: bool) -> None:
    folder = write(lambda config, metadata: config.update(keys))
    with torch.random.fork_rng():
        torch.manual_seed(8)
        best = UNet(**NETWORK)
    torch.save(best.state_dict(), Path(folder, "models/model_best.pt"))
    with trusting(trusted):
        ours = bundle.weights(resolve(ModelEntry(name="m", bundle=folder), 3), {})[0]
    assert all(torch.equal(ours[key], value) for key, value in best.state_dict().items())


@pytest.mark.parametrize(
    ("loaders", "message"),
    [
        ([loader(BEST)], r"expected the weights that it loads in models/model_best.pt, found none"),
        ([loader(BEST), loader("models/model.pt")], r"got model.pt, model_best.pt: leave one load_path in .*inference"),
    ],
)
def test_weights_without_one_file_are_refused(write: Write, loaders: list[Any], message: str) -> None:
    folder = write(lambda config, metadata: config.update(handlers=loaders))
    with pytest.raises(CheckpointError, match=message):
        resolve(ModelEntry(name="m", bundle=folder), 3)


@pytest.mark.parametrize(("text", "outputs"), [(" TRUE", "softmax"), ("no", "sigmoid")])
def test_a_text_switches_steps_off_as_monai_takes_it(write: Write, text: str, outputs: str) -> None:
    assert facts("bundle", write(after({**SIGMOID, "_disabled_": text}))).outputs == outputs


def test_a_trusted_expression_that_fails_is_one_line(write: Write) -> None:
    folder = write(lambda config, metadata: config.update(num_classes="$scripts.classes()"))
    with trusting(), pytest.raises(CheckpointError, match=r"num_classes cannot be resolved: .*PYTHONPATH"):
        facts("bundle", folder)


@pytest.mark.parametrize("count", [forward_flops, step_bytes])
def test_counting_runs_nothing_that_resolving_did_not(write: Write, tmp_path: Path, count: Any) -> None:
    """MONAI's parser runs `_requires_`, which reading as data passes over."""
    folder = write(told(_requires_=f"$open({str(tmp_path / 'ran')!r}, 'w')"))
    assert count(resolve(ModelEntry(name="zoo", bundle=folder), num_classes=3)) > 0
    assert not (tmp_path / "ran").exists()


LARGEST = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
MAPPED = {"_target_": "MapLabelValued", "keys": "pred", "orig_labels": [1, 2], "target_labels": [2, 1]}
INVERT = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}


@pytest.mark.parametrize(
    ("steps", "notes"),
    [
        ((INVERT, SOFTMAX, ARGMAX), ()),
        ((SOFTMAX, ARGMAX, LARGEST), ("KeepLargestConnectedComponent after the network is left out",)),
        ((SOFTMAX, ARGMAX, MAPPED), ("MapLabelValue after the network is left out",)),
        ((SOFTMAX, INVERT, ARGMAX, LARGEST), ("KeepLargestConnectedComponent after the network changes labels",)),
        ((SOFTMAX, ARGMAX, {**MAPPED, "_disabled_": True}), ()),
        ((SOFTMAX, ARGMAX, {**MAPPED, "keys": "label"}), ()),
        (({"_target_": "VoteEnsembled", "keys": "pred"},), ("VoteEnsemble after the network is left out",)),
        ((SOFTMAX, THRESHOLD), ("postprocessing::transforms::1::threshold is left out",)),
        ((SOFTMAX, {**ARGMAX, "threshold": 0.5}), ()),
    ],
)
def test_steps_changing_classes_noted(write: Write, steps: tuple[dict[str, Any], ...], notes: tuple[str, ...]) -> None:
    stated = facts("bundle", write(after(*steps))).notes
    assert [note[: len(start)] for note, start in zip(stated, notes, strict=True)] == list(notes)


def test_a_note_on_a_bundle_reaches_its_model(write: Write) -> None:
    entry = ModelEntry(name="m", bundle=write(after(SOFTMAX, ARGMAX, LARGEST)))
    assert any(note.startswith("m: KeepLargestConnectedComponent after") for note in resolve(entry, 3).notes)


def hashes(folder: str, trusted: bool = True) -> str:
    with trusting(trusted):
        return bundle.SOURCE.sha256(folder, {})


@pytest.mark.parametrize(
    "name", ["scripts/own.py", "configs/labels.json", "atlas/mean.npy", "models/teacher.pt", "settings.toml", "weights"]
)
def test_every_file_that_trusted_bundle_may_read_is_in_its_hash(write: Write, tmp_path: Path, name: str) -> None:
    folder = write(lambda config, _: config.update(teacher="$@bundle_root + '/models/teacher.pt'"))
    seen = set()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for text in ("1", "2"):
        (tmp_path / name).write_text(text)
        seen.add(hashes(folder))
    assert len(seen) == 2


@pytest.mark.parametrize("trusted", [True, False])
def test_documents_of_a_bundle_do_not_count(write: Write, tmp_path: Path, trusted: bool) -> None:
    folder = write()
    before = hashes(folder, trusted)
    for name in ("docs/README.md", "LICENSE", "models/model.ts", "eval/a.nii.gz", "__pycache__/a.pyc", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    assert hashes(folder, trusted) == before


def test_trust_leaves_the_hash_of_a_bundle_without_further_files(write: Write) -> None:
    assert hashes(folder := write(), trusted=False) == hashes(folder)


def test_trusted_bundles_way_depends_on_its_modules(write: Write, tmp_path: Path) -> None:
    folder = write()
    seen = set()
    for text in ("", "A = 1", "A = 2"):
        (tmp_path / "own.py").write_text(text)
        with trusting():
            space = facts("bundle", folder).space
        seen.add(digest(space.identity()))
    assert len(seen) == 3
