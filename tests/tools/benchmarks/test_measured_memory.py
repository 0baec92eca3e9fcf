"""Memory of steps with several windows, as a ratio to what one window was measured to take."""

import pytest
import torch
from attacks.examples import EXAMPLES, takes
from engine.cases import case_of, volume
from tools.benchmarks.live import most_bytes

from freqbench import models
from freqbench.attacks import make
from freqbench.engine import attacking, memory
from freqbench.engine.memory import first_step
from freqbench.models import ModelEntry


@pytest.mark.integration
@pytest.mark.parametrize("name", ["pgd", "faa", "vafa"])
def test_measured_memory_bounds_all_steps_of_more_windows(name: str) -> None:
    """The papers' UNet under attacks that keep different things; cuDNN's workspaces are in none."""
    spec = models.resolve(ModelEntry(name="unet", arch="unet", checkpoint="random", roi=(32, 32, 32)), 14)
    model = models.load(spec, torch.device("cpu"))
    image = volume((64, 32, 32))
    case = case_of(image, image > 0.5)
    few = {key: number for key, number in {"steps": 3, "queries": 3, "block": 8}.items() if takes(name, key)}
    attack = make(name, **EXAMPLES[name] | few)
    reference = case if attack.needs_reference else None
    one = most_bytes(lambda: first_step(attack, model, case))
    both = most_bytes(lambda: attacking.attack_case(attack, model, case, 0, 2, attacking.Needs(reference=reference)))
    assert one < both <= 2 * one / memory.HEADROOM
    assert one <= models.step_bytes(spec)
