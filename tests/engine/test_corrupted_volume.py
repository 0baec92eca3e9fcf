"""A corruption is of the volume: whatever its windows, models and neighbours, and no model is run for it."""

from pathlib import Path

import pytest
import torch
import yaml
from engine.cases import grid_of, network_of, units_of
from tiny_job import small

from freqbench.attacks import make
from freqbench.attacks.corruption import KINDS
from freqbench.core.identity import window_generator
from freqbench.core.names import job_file
from freqbench.engine.attacking import attack_case
from freqbench.job.cells import Unit

ENTRY = {"name": "corruption", "kind": [*KINDS], "severity": 3}


def units(**changes: object) -> list[Unit]:
    return units_of(small(attacks=[ENTRY], **changes))


every_kind = pytest.mark.parametrize("kind", ["motion", "blur"])  # one that draws, one that does not


@every_kind
def test_volume_is_corrupted_in_one_go_without_a_model(kind: str) -> None:
    """Equal to the attack called on the whole volume, though the model's windows are smaller; no pass is made."""
    (unit,) = (unit for unit in units() if unit.cell.attack.kind == kind)
    case = unit.cell.dataset.load(unit.ref)
    model = network_of(unit.cell.source)
    passes = []
    model.net.register_forward_hook(lambda *_: passes.append(1))
    attacked = attack_case(unit.cell.attack, model, case, 0, window_batch=2)
    generator = window_generator(0, case.ref.fingerprint, 0)
    whole = make("corruption", kind=kind, severity=3)(model, case.image[None], case.label[None], generator=generator)
    assert unit.num_windows > 1
    assert torch.equal(attacked.adversarial, whole.adversarial[0])
    assert (unit.passes, attacked.facts.num_forwards, attacked.facts.num_backwards, passes) == (0, 0, 0, [])


def test_the_job_compares_kinds_of_ct_with_attacks() -> None:
    cells = grid_of(yaml.safe_load(Path(job_file("phantom/corruptions")).read_text(encoding="utf-8"))).cells
    kinds = {cell.attack.kind for cell in cells if cell.attack.name == "corruption"}
    assert kinds & {"rician_noise", "bias_field", "motion", "ghosting", "spikes"} == set()
    assert {cell.attack.threat_model for cell in cells} > {"corruption", "linf"}
    assert all(cell.targets == (cell.source,) for cell in cells)
