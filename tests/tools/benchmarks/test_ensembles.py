"""Dice that ensembles leave, beside each member alone, and beside PGD with as many passes.

An hour on two cores; a minute with `--fast`, which takes fewer steps, and `-k "unet-vaft and sea"` or another pair.

Foreground DSC x 100, two phantom cases, 8/255, all with `scope: volume` and the same draws. Members run alone as
attacks of their own, PGD with the losses that it is run with; every one is a row.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from freqbench import models
from freqbench.attacks import Attack, make
from freqbench.attacks.core.ensemble import Ensemble
from freqbench.core.types import Case
from freqbench.data import Phantom
from freqbench.engine.attacking import attack_case
from freqbench.engine.scoring import score_overlap
from freqbench.models import SegmentationModel

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(7200)]

EPS = 8 / 255
NETWORKS = ("unet", "unetr", "unet-vaft")
SETTINGS: dict[str, dict[str, Any]] = {"autoattack": {"steps": 40, "queries": 200}, "sea": {"steps": 40}}
FAST: dict[str, dict[str, Any]] = {"autoattack": {"steps": 6, "queries": 20}, "sea": {"steps": 6}}
SLACK = 0.5
"""Points of DSC, as between `race` and the best single loss: PGD has all passes of the ensemble for one loss."""
PGD_LOSSES = ("dicece", "dice", "ce")


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_no_member_and_no_pgd_of_the_same_passes_is_stronger(
    network: str, name: str, fast: bool, measured: list[dict[str, Any]]
) -> None:
    """Members are compared case by case; PGD in the mean over cases, to SLACK."""
    data = Phantom(name="phantom", split="test", cases=2)
    cases = [data.load(ref, data.space) for ref in data.refs()]
    entry = models.ModelEntry(name=network, checkpoint=f"zoo://phantom/{network}")
    model = models.load(models.resolve(entry, len(data.classes)), torch.device("cpu"))

    def left(attack: Attack, steps: int) -> list[float]:
        scores = [_left(attack, model, case, len(data.classes)) for case in cases]
        label = f"{attack.name} {getattr(attack, 'loss', '')}".strip()
        if getattr(attack, "eps_schedule", None):
            label += " shrinking"
        measured.append(
            {
                "network": network,
                "beside": name,
                "attack": label,
                "steps": steps,
                "dsc_foreground": sum(scores) / len(scores),
            }
        )
        return scores

    settings = (FAST if fast else SETTINGS)[name]
    ensemble = make(name, eps=EPS, **settings)
    assert isinstance(ensemble, Ensemble)
    own = left(ensemble, settings["steps"])
    members = [left(replace(member, scope="volume"), settings["steps"]) for member in ensemble.attacks]
    steps = sum(ensemble.passes) // 2
    rivals = [left(make("pgd", eps=EPS, steps=steps, loss=loss, scope="volume"), steps) for loss in PGD_LOSSES]
    assert (np.array(own) <= np.array(members) + 1e-9).all()
    assert all(sum(own) <= sum(rival) + len(own) * SLACK for rival in rivals)


def _left(attack: Attack, model: SegmentationModel, case: Case, num_classes: int) -> float:
    adversarial = attack_case(attack, model, case, 0, 2).adversarial
    scores = score_overlap(models.predict(model, adversarial), case.label[0], num_classes)
    return 100 * float(scores.record["dsc_foreground"])
