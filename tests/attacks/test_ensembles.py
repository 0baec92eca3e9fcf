"""What ensembles share: organs, restarts, and what they refuse."""

from typing import Any

import pytest
import torch
from attacks.asked import EPS, SEEDS, in_ball, run, scores, task, told
from attacks.examples import generators
from attacks.small import Net
from torch import Tensor, nn

from freqbench.attacks import Attack, make
from freqbench.attacks.core.ensemble import Ensemble
from freqbench.ops.overlap import mean_dice

SMALL: dict[str, dict[str, Any]] = {
    "sea": {"steps": 10},
    "autoattack": {"steps": 3, "members": ("apgd-dlr", "apgd-ce")},
}
every_ensemble = pytest.mark.parametrize("name", SMALL)


@every_ensemble
def test_organs_alone_are_in_the_dice(name: str) -> None:
    """Of all volumes in the ball the one with the lowest Dice of class 2 is kept."""
    model, result = run(name, **SMALL[name], organs=(2,))
    inside = in_ball(model)
    for i, found in enumerate(scores(result.adversarial, (2,))):
        assert found == min(v for v, is_inside in zip(told(model, i, (2,)), inside, strict=True) if is_inside) < 1


@every_ensemble
def test_labels_of_other_structures_have_no_say(name: str) -> None:
    images, labels = task()
    other = torch.where(labels == 1, 1, 2 - labels)
    one, two = (make(name, eps=EPS, **SMALL[name], organs=(1,))(Net(), images, y) for y in (labels, other))
    assert torch.equal(one.adversarial, two.adversarial)


@every_ensemble
def test_more_restarts_are_never_weaker(name: str) -> None:
    (_, few), (_, more) = (run(name, **SMALL[name], restarts=restarts) for restarts in (1, 3))
    assert all(a <= b for a, b in zip(scores(more.adversarial), scores(few.adversarial), strict=True))
    assert not torch.equal(few.adversarial, more.adversarial)


OF_EVERY_KIND: dict[str, dict[str, Any]] = {
    "autoattack": {
        "steps": 4,
        "queries": 10,
        "members": ("apgd-dice", "apgd-mask-ce-shrinking", "apgd-dlr-targeted", "pgd-ce", "square"),
    },
    "sea": {"steps": 6, "losses": ("mask-ce-balanced", "js", "segpgd", "dlr-targeted")},
}


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_no_member_is_stronger_alone(name: str, restarts: int) -> None:
    """With the same draws, window by window: what an ensemble adds never costs it anything, whatever the members."""
    images, labels = task()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv3d(6, 4, 3, padding=1))
    ensemble = make(name, eps=EPS, restarts=restarts, **OF_EVERY_KIND[name])
    assert isinstance(ensemble, Ensemble)

    def dice(attack: Attack) -> Tensor:
        with torch.no_grad():
            adversarial = attack(model, images, labels, generator=generators(*SEEDS)).adversarial
            return mean_dice(model(adversarial), labels)

    own = dice(ensemble)
    for member in ensemble.attacks:
        assert bool((own <= dice(member)).all()), member
    assert bool((own > 0).all()), "nothing is left to lose: nothing is tested"


@pytest.mark.parametrize("loss", ["dicece", "ce"])
def test_pgd_is_not_stronger_at_the_same_passes_than_autoattack(loss: str) -> None:
    """With the members that it has by default. Of networks that the package carries: `tests/benchmarks`."""
    settings = {"steps": 10, "queries": 20}
    own = scores(run("autoattack", **settings)[1].adversarial)
    _, pgd = run("pgd", steps=sum(make("autoattack", eps=EPS, **settings).passes) // 2, loss=loss)
    assert all(a <= b for a, b in zip(own, scores(pgd.adversarial), strict=True))
