"""Under which attacks weights are judged, and by what of the two or more figures they are chosen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freqbench import models
from freqbench.core.errors import UserError
from freqbench.training import TrainJob, identities, train
from freqbench.training.loop import Training
from freqbench.training.plan import prepare
from freqbench.training.state import read_log
from freqbench.training.validation import choice, under_attacks

MakeJob = Callable[..., TrainJob]
NET = {"arch": "unet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 1}, "roi": [16, 16, 16]}
FGSM = {"name": "fgsm", "eps": "4/255"}
QUICK = {"name": "pgd", "eps": "4/255", "steps": 3, "step_size": "2/255"}
AT_PGD = {"name": "at", "objective": "at", "attack": {"name": "pgd", "eps": "4/255", "steps": 2}}
AT_VAFA = {"name": "at", "objective": "at", "attack": {"name": "vafa", "q_max": 20, "steps": 2, "block": 8}}
AT_FAA = {"name": "at", "objective": "at", "attack": {"name": "faa", "portion": 0.2, "steps": 1}}


@pytest.fixture
def job_of(tiny_job: MakeJob) -> MakeJob:
    """A job of `net` and an adversarial network `at`."""

    def make(arm: dict[str, Any], **validation: Any) -> TrainJob:
        return tiny_job(models=[{"name": "net", **NET}, arm], steps=2, warmup_steps=0, validation=validation, loaders=0)

    return make


def planned(job: TrainJob, name: str = "at") -> Training:
    (found,) = (each for each in prepare(job).trainings if each.model.name == name)
    return found


def judged(job: TrainJob, name: str = "at") -> list[str]:
    return [attack.name for attack in planned(job, name).quick]


def test_identities_of_earlier_releases_stay(tiny_job: MakeJob) -> None:
    """Read from the release before lists of attacks were taken: a change here trains all networks again."""
    nets = [{"name": "net", **NET}, AT_PGD]
    assert identities(tiny_job(models=nets)) == {"net": "b6b78d8b08286c3c", "at": "8c205d73b091d7c7"}
    judged_by = {"attack": FGSM, "choose_by": "attacked"}
    assert identities(tiny_job(models=nets, validation=judged_by)) == {
        "net": "0dc59cbfdb5b793b",
        "at": "486af6f0bb989c12",
    }


@pytest.mark.parametrize(
    ("arm", "attack"),
    [(AT_PGD, QUICK), (AT_VAFA, "own"), ({**AT_PGD, "attack": {"name": "gn", "std": "4/255"}}, "own")],
    ids=["linf", "dct-quantization", "gaussian"],
)
def test_by_default_a_network_is_judged_under_its_own_threat_model(
    job_of: MakeJob, arm: dict[str, Any], attack: Any
) -> None:
    by_default, asked = planned(job_of(arm)), planned(job_of(arm, attack=attack))
    assert by_default.record["validation"] == asked.record["validation"]


def test_own_is_the_attack_as_trained(job_of: MakeJob) -> None:
    training = planned(job_of(AT_VAFA))
    assert training.adversary is not None
    assert training.quick == (training.adversary.attack,)
    assert training.record["validation"]["attack"] == training.record["attack"]


def test_several_attacks_are_in_the_record_and_in_the_identity(job_of: MakeJob) -> None:
    one, both = job_of(AT_VAFA, attack="own"), job_of(AT_VAFA, attack=["own", FGSM])
    assert judged(both) == ["vafa", "fgsm"]
    assert [each["name"] for each in planned(both).record["validation"]["attack"]] == ["vafa", "fgsm"]
    assert identities(one)["at"] != identities(both)["at"]


@pytest.mark.parametrize("attack", [[FGSM], [FGSM, FGSM]])
def test_a_list_of_one_is_that_one(job_of: MakeJob, attack: Any) -> None:
    assert identities(job_of(AT_VAFA, attack=attack)) == identities(job_of(AT_VAFA, attack=FGSM))


def test_a_clean_network_has_no_attack_of_its_own(job_of: MakeJob) -> None:
    clean = planned(job_of(AT_VAFA, attack="own", choose_by="worst"), "net")
    assert (clean.quick, clean.choose_by) == ((), "clean")
    assert clean.identity == planned(job_of(AT_VAFA), "net").identity
    assert judged(job_of(AT_VAFA, attack=["own", FGSM]), "net") == ["fgsm"]


def test_figures_of_several_attacks_by_hand() -> None:
    """Two foreground classes; the second case lacks one, the third has none.

    Means of the cases: 0.3 and 0.8 under the first attack, 0.5 and 0.4 under the second.
    """
    nan = np.nan
    first = np.array([[0.9, 0.2, 0.4], [0.9, 0.8, nan], [0.9, nan, nan]])
    second = np.array([[0.9, 0.6, 0.4], [0.9, 0.4, nan], [0.9, nan, nan]])
    assert under_attacks([first, second]) == pytest.approx(((0.3 + 0.8 + 0.5 + 0.4) / 4, (0.3 + 0.4) / 2))
    assert under_attacks([first]) == pytest.approx((0.55, 0.55))
    assert under_attacks([first[2:]]) == (0, 0)
    assert np.isnan(under_attacks([])).all()


def test_each_way_to_choose() -> None:
    found = [choice(by, clean=0.8, attacked=0.6, worst=0.5) for by in ("clean", "attacked", "mean", "worst")]
    assert found == pytest.approx([0.8, 0.6, 0.7, 0.5])


def test_the_log_and_the_stored_file_have_both_figures(
    job_of: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(AT_VAFA, attack=["own", FGSM], choose_by="worst")
    result = train(job, str(tmp_path))[1]
    (row,) = read_log(str(tmp_path / "at"))
    assert 0 < row.dice_worst <= row.dice_attacked
    stored = models.read_metadata(result.path)["training"]
    assert (stored["dice_attacked"], stored["dice_worst"]) == (result.dice_attacked, result.dice_worst)
    assert result.dice_worst == pytest.approx(row.dice_worst, rel=1e-5)
    said = capsys.readouterr().err
    assert "at: weights are chosen by worst Dice, attacked by vafa, fgsm\n" in said
    assert f", attacked {row.dice_attacked:.3f}, worst {row.dice_worst:.3f}\n" in said


def test_an_attack_that_mixes_with_another_case_has_the_next_of_the_list(job_of: MakeJob, tmp_path: Path) -> None:
    results = train(job_of(AT_FAA), str(tmp_path), progress=False)
    assert results[1].dice_attacked is not None


def test_an_attack_that_mixes_with_another_case_wants_two(job_of: MakeJob) -> None:
    job = job_of(AT_FAA)
    job = job.model_copy(update={"dataset": {**job.dataset, "cases": 1}})
    with pytest.raises(UserError, match=r"at: splits\.select: expected two cases or more, as faa mixes with another"):
        prepare(job)


@pytest.mark.parametrize(
    ("attack", "complaint"),
    [
        ("pgd", "validation.attack: expected an attack {name: ..., ...}, own, or a list of these, got 'pgd'"),
        ([], "validation.attack: expected an attack {name: ..., ...}, own, or a list of these, got []"),
        (["own", 7], "validation.attack: expected an attack {name: ..., ...}, own, or a list of these, got ['own', 7]"),
        (["own", {"name": "pdg"}], "tiny: validation: unknown attack 'pdg'. Did you mean 'pgd'"),
        ([{"eps": 1}], "tiny: validation.name: expected the name of an attack, got None"),
    ],
)
def test_what_is_no_attack_is_one_line(job_of: MakeJob, attack: Any, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare(job_of(AT_VAFA, attack=attack))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
