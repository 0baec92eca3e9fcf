"""Eight wrong pipelines, each told by name from one predicted case, and settings settings that nobody stated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roads
import torch

from freqbench.audit.first_case import held_and_found
from freqbench.audit.unstated import FoundSettings, Log
from freqbench.data import witnesses
from freqbench.engine.witness import Held
from freqbench.job.schema import build_dataset
from freqbench.models import ModelEntry

pytestmark = pytest.mark.workshop
USUAL = {"overlap": 0.5, "weighting": "gaussian"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both kinds of volumes, a network for each, and MONAI's own prediction of one case."""
    root = tmp_path_factory.mktemp("own")
    for kind, words, head in (("ct", roads.CT, "softmax"), ("brats", roads.BRATS, "sigmoid")):
        path = roads.put_folder(root / kind, kind)[0]
        torch.save(roads.trained(kind).state_dict(), root / f"{kind}.pt")
        likely = roads.predicted(roads.trained(kind), path, words, head)
        made = likely.argmax(0) if kind == "ct" else likely > 0.5
        roads.save(root / "own" / kind / path.name, made.astype(np.uint8))
    return root


def looked_at(place: Path, kind: str, folder: Path | None = None, **changes: Any) -> tuple[Held, FoundSettings | None]:
    """A network of a pipeline with changes held against its own prediction, and what is found."""
    held, settings = sought(place, kind, folder, **changes)
    return held[0], settings


def sought(
    place: Path, kind: str, folder: Path | None = None, log: Log = lambda line: None, **changes: Any
) -> tuple[list[Held], FoundSettings | None]:
    """The same of a network that may not run as it is stated."""
    data: dict[str, Any] = {"name": kind, "loader": "decathlon", "root": str(place / kind), "split": "training"}
    if kind == "brats":
        data["regions"] = {"core": [1, 3], "whole": [1, 2, 3], "enhancing": [3]}
        changes = {"outputs": "sigmoid", **changes}
    words = roads.CT if kind == "ct" else roads.BRATS
    model = {"name": "unet", "arch": "unet", "checkpoint": str(place / f"{kind}.pt"), "args": roads.ARGS}
    model |= {"roi": [roads.SIDE] * 3, "transforms": [*words], "inference": USUAL}
    dataset = build_dataset(data, kind)
    entry = ModelEntry(**{**model, **changes})
    own = witnesses.find(str(folder or place / "own" / kind), dataset, "unet")
    return held_and_found(entry, dataset, own, log, "CT" if kind == "ct" else "")


def test_the_right_pipelines_are_proven_and_nothing_is_sought(place: Path) -> None:
    for kind in ("ct", "brats"):
        held, settings = looked_at(place, kind)
        assert (held.is_proven, settings) == (True, None)


AXES, RANGE = roads.CT


@pytest.mark.parametrize(
    ("kind", "changes", "word"),
    [
        pytest.param(
            "ct", {"transforms": [{**AXES, "axcodes": "LAS"}, RANGE]}, "axes: RAS in place of LAS", id="mirrored axis"
        ),
        pytest.param(
            "ct",
            {"transforms": [AXES, {**RANGE, "a_min": -1000, "a_max": 1000}]},
            "intensity: window -175 to 250 in place of window -1000 to 1000",
            id="window",
        ),
        pytest.param("ct", {"roi": [16, 16, 16]}, "roi: 24x24x24 in place of 16x16x16", id="roi"),
        pytest.param(
            "ct",
            {"inference": {**USUAL, "weighting": "constant"}},
            "weighting: gaussian in place of constant",
            id="no Gaussian",
        ),
        pytest.param(
            "brats",
            {"transforms": [roads.BRATS[0], {**roads.BRATS[1], "nonzero": False}]},
            "intensity: z-scores of voxels that are not 0 in place of z-scores",
            id="z-score",
        ),
        pytest.param(
            "brats",
            {"channels": {"image": [1, 0, 2, 3]}},
            "channels: 0x1x2x3 in place of 1x0x2x3",
            id="swapped channels",
        ),
    ],
)
def test_a_wrong_setting_is_told_by_name(kind: Any, changes: Any, word: Any, place: Path) -> None:
    held, settings = looked_at(place, kind, **changes)
    assert not held.is_proven
    assert settings is not None
    assert settings.is_proven
    assert [each for each in settings.words if "in place of" in each] == [word]


def test_swapped_classes_are_told_by_their_pattern(place: Path) -> None:
    held, settings = looked_at(place, "ct", classes=3, class_map={1: [2], 2: [1]})
    assert held.pattern is not None
    assert held.pattern.what == "the classes liver, spleen are exchanged"
    assert settings is not None
    assert (settings.is_proven, "class_map" in settings.model) == (True, False)


def test_a_shifted_origin_is_told_by_its_pattern(place: Path, tmp_path: Path) -> None:
    """Predictions whose author lost the offset of a crop."""
    import nibabel

    voxels = np.asarray(nibabel.load(place / "own/ct/ct_0.nii.gz").dataobj)
    roads.save(tmp_path / "ct_0.nii.gz", np.roll(voxels, (-2, 1, 0), (0, 1, 2)))
    from freqbench.audit import unstated

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unstated, "MOST_S", 0.0)
        held, _ = looked_at(place, "ct", folder=tmp_path)
    assert held.pattern is not None
    assert held.pattern.what == "it is shifted by 2, -1, 0 voxels of the file"


def test_an_open_norm_is_found_by_its_predictions(place: Path, tmp_path: Path) -> None:
    """A list among the values of a setting was no key of a trial."""
    from monai.networks.nets import SegResNet

    norm = ("instance", {"affine": True})
    args = {"init_filters": 4, "blocks_down": (1, 1), "blocks_up": (1,), "in_channels": 1, "out_channels": 3}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = SegResNet(norm=norm, **args).eval()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    made = roads.predicted(net, place / "ct/imagesTr/ct_0.nii.gz", roads.CT).argmax(0)
    roads.save(tmp_path / "own/ct_0.nii.gz", made.astype(np.uint8))
    model: dict[str, Any] = {"arch": "segresnet", "checkpoint": str(tmp_path / "net.pt"), "args": {}}
    _, settings = sought(place, "ct", folder=tmp_path / "own", **model)
    assert settings is not None
    assert settings.is_proven
    assert settings.model["args"]["norm"] == ["instance", {"affine": True}]
