"""A store of a release that had one name for two threat models is verified and ranked as one of today."""

from pathlib import Path

import pytest
from altered import Rows, alter
from tiny import ARGS, execute, small

from freqbench.reporting.report import report
from freqbench.results import Store

from .verified import wrong

ATTACKS = [
    {"name": "vafa", "steps": 1, "block": 8, "renormalize": [True, False]},
    {"name": "sa2", "steps": 1, "block": 8, "variant": ["released", "paper"]},
]
FORMER = {"dct-quantization-stretched": "dct-quantization", "dct-scaling-with-dc": "dct-scaling"}


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, so that a leaderboard has something to rank."""
    folder = tmp_path_factory.mktemp("former") / "out"
    models = [
        {"name": name, "arch": "unet", "checkpoint": f"random:{seed}", "roi": [16] * 3, "args": ARGS}
        for seed, name in enumerate("ab")
    ]
    datasets = [{"name": "phantom", "shape": [16] * 3, "cases": 1}]
    execute(small(models=models, datasets=datasets, attacks=ATTACKS, targets="source", metrics=["dsc"]), folder)

    def rename(rows: Rows) -> None:
        for row in rows:
            row["threat_model"] = FORMER.get(row["threat_model"], row["threat_model"])
        assert {row["threat_model"] for row in rows} == set(FORMER.values())

    alter(folder, "records", rename)
    return folder


def test_nothing_is_wrong_with_it(former: Path) -> None:
    assert wrong(former) == {}


def test_its_leaderboard_mixes_no_two_of_them(former: Path) -> None:
    """Four boards of two models each, where there were two."""
    lines = report([Store(str(former))], format="csv", table="leaderboard").splitlines()
    place = lines[0].split(",").index("threat_model")
    found = [line.split(",")[place] for line in lines[1:]]
    assert sorted(found) == sorted(2 * [*FORMER, *FORMER.values()])
