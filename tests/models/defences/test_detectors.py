"""Detectors: features against other libraries, distances from clean volumes, and what a run does with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from draws import seeded
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from sklearn.covariance import OAS
from third_party.packages import on_path, renew
from tiny_job import execute, expanded, small
from torch import Tensor, nn

from freqbench.attacks.apgd import unseen_step
from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.models import SegmentationModel, SlidingWindowModel
from freqbench.models.defences.detectors import BandEnergy, FeatureDistance, PredictionChange, Watch
from freqbench.results import Store

SHAPE = (8, 16, 8)
ADDED = Path(__file__).parents[3] / "docs" / "plugin"


class Deep(nn.Module):
    """A convolution that halves each side between two that keep them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv3d(1, 3, 3, padding=1)
        self.deepest = nn.Conv3d(3, 5, 2, stride=2)
        self.last = nn.ConvTranspose3d(5, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.deepest(self.first(x).relu()))
        return logits


@pytest.fixture
def volume() -> Tensor:
    return torch.rand(1, 1, *SHAPE, generator=seeded(1))


@pytest.fixture
def network() -> SlidingWindowModel:
    return SlidingWindowModel(SegmentationModel(Deep().eval(), (8, 8, 8)))


def test_energies_of_bands_are_those_of_scipys_transform(volume: Tensor, network: SlidingWindowModel) -> None:
    blocks = volume[0, 0].double().numpy().reshape(8, 2, 8, 8).swapaxes(0, 1)
    size = np.abs([dctn(block, norm="ortho") for block in blocks]).mean(axis=0)
    shell = np.add.outer(np.add.outer(np.arange(8), np.arange(8)), np.arange(8)) * 4 // 24
    expected = [np.log(size[shell == band].mean()) for band in range(4)]
    found = BandEnergy(bands=4).features(volume, volume, network)
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-4)


def test_own_features_are_those_of_the_deepest_convolution(volume: Tensor, network: SlidingWindowModel) -> None:
    """Means over all windows, which overlap by half here."""
    net = network.model.net
    windows = [volume[:, :, :, start : start + 8] for start in (0, 4, 8)]
    expected = torch.cat([net.deepest(net.first(each).relu()) for each in windows]).mean(dim=(0, 2, 3, 4))
    assert torch.allclose(FeatureDistance().features(volume, volume, network), expected, atol=1e-6)
    flat = SlidingWindowModel(SegmentationModel(nn.Sequential(nn.Dropout()), (8, 8, 8)))
    flat.model.net.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="expected a network with convolutions, got none"):
        FeatureDistance().features(volume, volume, flat)


def test_change_of_the_prediction_is_under_scipys_filter(volume: Tensor, network: SlidingWindowModel) -> None:
    smooth = gaussian_filter(volume[0, 0].double().numpy(), 0.5, mode="nearest", truncate=4.0)
    logits = network.logits(volume)
    p, other = (network.logits(x).softmax(dim=1)[:, 1] for x in (volume, torch.tensor(smooth).float()[None, None]))
    expected = ((p - other).abs().sum() / (p + other).sum()).log()
    assert PredictionChange().features(volume, logits, network).item() == pytest.approx(expected.item(), abs=1e-3)


def test_suspicion_is_distance_under_sklearns_covariance(
    volume: Tensor, network: SlidingWindowModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are in units of their spread; one that never changes is left out."""
    draws = torch.randn(9, 4, generator=seeded(2), dtype=torch.float64)
    clean = draws * torch.tensor([1, 5, 2, 0])
    x = (clean / clean.std(dim=0).clamp(min=1e-9))[:, :3]
    watch = Watch.learn(BandEnergy(), list(clean))
    asked = clean[0] + torch.tensor([1.0, -2.0, 0.5, 7.0])
    monkeypatch.setattr(BandEnergy, "features", lambda *_: asked)
    shrunk = np.zeros((4, 4))
    shrunk[:3, :3] = np.cov(x.T, bias=True)
    fitted = OAS().fit(np.hstack([x, np.zeros((9, 1))])).covariance_
    away = np.append(((asked - clean.mean(dim=0))[:3] / clean.std(dim=0)[:3]), 0.0)
    expected = np.sqrt(away @ np.linalg.inv(fitted) @ away)
    assert float(watch.suspicion(volume, volume, network)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(
        UserError, match="at least 3 clean volumes in the split 'validation', got 2: set clean_split or"
    ):
        Watch.learn(BandEnergy(), list(clean[:2]))
    with pytest.raises(
        UserError, match="at least 3 clean volumes in the split 'validation', got 2: set clean_split or"
    ):
        expanded(job({"name": "band_energy", "clean_cases": 2}))


def test_step_beside_a_detector_keeps_and_lowers_suspicion() -> None:
    """Gradients (1, 1) and (0, 2) leave the way (1, 0); 3 above, Newton's way back is 3 / 4 (0, 2), or a full step."""
    task = Task("apgd", nn.Identity(), torch.zeros(1, 1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 2), targeted=False)
    g, a = (torch.tensor(each).reshape(1, 1, 1, 1, 2) for each in ((1.0, 1.0), (0.0, 2.0)))
    root = 2**0.5

    def step(excess: float, back: bool = False) -> list[float]:
        task.objective.excess = torch.tensor(excess)
        task.model.steps_back = back
        return unseen_step(task, g, a, torch.tensor(1.0)).flatten().tolist()

    assert step(-1.0) == pytest.approx([1.0, 1.0])
    assert step(-0.05) == pytest.approx([root, 0.0])
    assert step(3.0) == pytest.approx([root, -1.5])
    assert step(3.0, back=True) == pytest.approx([root, -root])


@pytest.mark.parametrize("excess", [-0.1, 0.5])
def test_volume_above_what_is_allowed_is_worth_less_than_any(excess: float) -> None:
    """Dice and loss both say so; the gradient is that of the loss, whatever the detector says."""
    labels = torch.tensor([0, 1]).reshape(1, 1, 1, 1, 2)
    objective = Objective.of(labels)
    logits = torch.tensor([[2.0, -1.0], [0.0, 1.0]]).reshape(1, 2, 1, 1, 2)
    plain = objective.success(logits), objective.compared(logits), objective.raised(logits)
    objective.excess = torch.tensor(excess)
    by_dice = objective.success(logits)
    by_loss = objective.compared(logits)
    raised = objective.raised(logits)
    assert torch.equal(raised, plain[2])
    expected = (plain[0], plain[1]) if excess < 0 else (torch.tensor([-1.5e6]),) * 2
    assert (by_dice.item(), by_loss.item()) == pytest.approx([each.item() for each in expected])


def job(defence: dict[str, Any], **changes: Any) -> dict[str, Any]:
    net = {"arch": "unet", "checkpoint": "random", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}}
    watched = {"defence": {"clean_split": "validation", "clean_cases": 5, **defence}}
    models = [
        {"name": name, **net, "roi": [16, 16, 16], **more} for name, more in (("plain", {}), ("watched", watched))
    ]
    search = {"name": "apgd", "eps": "16/255", "steps": 4, "scope": "joint", "step_rule": "cosine"}
    phantom = {"name": "phantom", "shape": [20, 16, 16], "cases": 1}
    return small(
        models=models,
        attacks=[search | {"random_start": False} | changes],
        metrics=["dsc"],
        datasets=[phantom],
        targets="all",
    )


@pytest.mark.parametrize("name", ["band_energy", "feature_distance", "prediction_change"])
def test_attack_that_knows_a_detector_stays_below_what_it_allows(name: str, tmp_path: Path) -> None:
    """Predictions are the network's own; one that does not know the detector is the more suspicious."""
    execute(job({"name": name}), tmp_path)
    made = {(row["source_model"], row["target_model"]): row for row in Store(str(tmp_path)).records().to_pylist()}
    scores = {pair: json.loads(row["added_metrics"] or "{}") for pair, row in made.items()}
    for source in ("plain", "watched"):
        assert made[source, "plain"]["dsc"] == made[source, "watched"]["dsc"]
        assert scores[source, "plain"] == {}
    knows = scores["watched", "watched"]
    blind = scores["plain", "watched"]
    assert knows["suspicion_clean"] == blind["suspicion_clean"]
    assert knows["suspicion"] <= knows["suspicion_clean"]
    assert knows["suspicion"] < blind["suspicion"]
    assert made["watched", "watched"]["dsc"] <= made["watched", "watched"]["dsc_clean"]


def test_features_without_a_gradient_are_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BandEnergy, "features", lambda _, volume, *given: volume.detach().mean()[None])
    execute(job({"name": "band_energy"}), tmp_path)
    errors = {row["source_model"]: row["error"] for row in Store(str(tmp_path)).records().to_pylist()}
    assert errors["plain"] is None
    assert str(errors["watched"]).startswith(
        "apgd: expected features of the detector that a gradient goes through, got"
    )


@pytest.mark.parametrize("changes", [{"scope": "window"}, {"step_rule": "halving"}])
def test_attack_that_cannot_know_a_detector_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="apgd on watched: expected an attack on the volume in cosine steps, which"):
        expanded(job({"name": "band_energy"}, **changes))
    naive = job({"name": "band_energy"}, **changes)
    naive["models"][1]["adaptive"] = False
    assert len(expanded(naive)[1].cells) == 2


def test_clean_volumes_of_a_detector_are_part_of_its_model() -> None:
    """Other volumes, or the same on another grid, make another model; volumes that are scored are refused."""
    ids = set[str]()
    for defence, shape in (({}, 20), ({"clean_cases": 4}, 20), ({"clean_split": "train"}, 20), ({}, 24)):
        content = job({"name": "band_energy"} | defence)
        content["datasets"][0]["shape"] = [shape, 16, 16]
        made = {cell.source.name: cell.source for cell in expanded(content)[1].cells}
        assert json.loads(made["watched"].defence_text or "")["undefended"] == made["plain"].model_id
        ids.add(made["watched"].model_id)
    assert len(ids) == 4
    own = job({"name": "band_energy"})
    own["datasets"][0]["split"] = "validation"
    with pytest.raises(UserError, match="band_energy: expected to learn from no case or patient that is scored, got"):
        expanded(own)


def test_a_detector_of_an_installed_package_is_taken_by_name(tmp_path: Path) -> None:
    about = tmp_path / "freqbench_example-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: freqbench-example\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[freqbench.defences]\nroughness = freqbench_example.detector:Roughness\n")
    with on_path(ADDED, "freqbench_example"), on_path(tmp_path, "none"):
        renew()
        execute(job({"name": "roughness"}), tmp_path / "out")
        model = next(cell.source for cell in expanded(job({"name": "roughness"}))[1].cells if cell.source.defence)
        assert model.defence.identity()["package"] == "freqbench-example 1.0"
    assert any(
        "suspicion" in (row["added_metrics"] or "") for row in Store(str(tmp_path / "out")).records().to_pylist()
    )
    with pytest.raises(UserError, match="unknown defence 'roughness'"):
        expanded(job({"name": "roughness"}))
