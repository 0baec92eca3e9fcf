"""`leaderboard entry`: a card first, then the rows of one network alone, without what tells the machine."""

import json
import platform
import re
import shutil
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
from command_line import bench
from reporting.leaderboard.conftest import CARD, job, write_card
from tiny_job import execute, small

from freqbench.audit.checks import gathered
from freqbench.audit.probe_files import root_of
from freqbench.core.errors import UserError
from freqbench.core.plugins import trusting
from freqbench.reporting.leaderboard.entry_folder import read_entry, told_by
from freqbench.reporting.leaderboard.make import make_entry
from freqbench.results import KEY, Store, index_keys


def test_calls_write_card_then_entry(entered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = str(entered / "out"), tmp_path / "entries" / "plain"
    call = ("board", "entry", out, "plain", "--to", str(folder.parent))
    code, said, _ = bench(capsys, *call)
    assert (code, said) == (0, f"{folder}/card.yaml: fill it in, then run this command again\n")
    assert [path.name for path in folder.iterdir()] == ["card.yaml"]
    code, _, err = bench(capsys, *call)
    assert (code, err.startswith(f"error: {folder}/card.yaml: authors: expected a text, got none")) == (2, True)
    write_card(folder)
    code, said, _ = bench(capsys, *call)
    assert (code, said) == (0, f"written: {folder}\n")
    assert read_entry(folder).seal == read_entry(entered / "entries" / "plain").seal


def test_a_changed_card_is_sealed_again(entered: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(entered / "entries" / "plain", tmp_path / "plain"))
    write_card(folder, title="Brighter")
    assert make_entry(str(entered / "out"), "plain", folder)
    assert read_entry(folder).card.title == "Brighter"


def test_a_network_that_sees_points_from_the_labels_is_refused(tmp_path: Path) -> None:
    """Such a network is told where each organ is, and would be ranked beside networks that find out."""
    model = {"name": "p", "arch": "vista3d", "checkpoint": "a.pt", "args": {"points": 1}}
    Store(str(tmp_path / "out")).write_job({"spec": small(models=[model]), "index": {"cells": [], "cases": {}}})
    with pytest.raises(UserError, match=r"p: expected a network that sees nothing of a label, got args\.points$"):
        make_entry(str(tmp_path / "out"), "p", tmp_path / "p")


def test_entry_has_rows_of_its_network_and_worst_of_its_attacks(entered: Path) -> None:
    entry = read_entry(entered / "entries" / "plain")
    rows: dict[str, list[float]] = defaultdict(list)
    for root in (str(entered / "out"), root_of(str(entered / "out"))):
        for row in Store(root).records().to_pylist():
            is_own = row["source_model"] == row["target_model"] == "plain"
            is_attack = row["threat_model"] == "linf" and row["attack"] != "random_noise"
            if is_own and is_attack and abs(row["budget"] - 32 / 255) < 1e-9:
                rows[row["case_id"]].append(row["dsc_foreground"])
    assert entry.told.worst_cases.set_index("case_id")["dsc_foreground"].to_dict() == {
        case: min(scores) for case, scores in rows.items()
    }
    assert {*entry.told.worst_cases["bounds"]} == {"linf eps=32/255"}
    assert set(Store(str(entry.folder / "store")).rows(("source_model", "target_model"))) == {("plain", "plain")}


@pytest.mark.integration
def test_bounds_whose_strongest_attack_is_not_known_rank_nothing(tmp_path: Path) -> None:
    """An audit could not tell that FAA of one step is weak."""
    attacks = [{"name": "pgd", "eps": "32/255", "steps": 1}, {"name": "faa", "portion": 0.1, "bands": 4, "steps": 1}]
    out = str(tmp_path / "out")
    with trusting():
        execute(job(tmp_path, *attacks, models=job(tmp_path)["models"][:1]), out)
    assert {*told_by(Store(out)).worst_cases["bounds"]} == {"linf eps=32/255"}


def test_rows_of_two_runs_lie_in_one_file(entered: Path, tmp_path: Path) -> None:
    """A run that was interrupted and went on leaves two, and an entry that is twice as large."""
    out = Path(shutil.copytree(entered / "out", tmp_path / "out"))
    whole, pieces = Store(str(entered / "out")), Store(str(out))
    shutil.rmtree(out / "records")
    stored = list(whole.found({row[:3] for row in whole.rows(KEY)}).values())
    for number, run_id in enumerate(("first", "second")):
        writer, half = pieces.writer(run_id), stored[number::2]
        writer.add([{**record, "run_id": run_id} for record, _ in half], [classes for _, classes in half])
        writer.flush()
        pieces.write_run(run_id, whole.run(*whole.run_ids()))
    for _ in "again":
        write_card(tmp_path / "plain")
        assert make_entry(str(out), "plain", tmp_path / "plain")
        assert len(list((tmp_path / "plain" / "store" / "records").iterdir())) == 1
    told, whole_told = (read_entry(place / "plain").told for place in (tmp_path, entered / "entries"))
    assert (told.cases, told.verdicts) == (whole_told.cases, whole_told.verdicts)
    pd.testing.assert_frame_equal(told.worst_cases, whole_told.worst_cases)


def test_an_entry_does_not_tell_the_machine(entered: Path) -> None:
    folder = entered / "entries" / "plain"
    texts = "".join(path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".yaml"))
    texts = re.sub(r'"planes":"[^"]*"', "", texts)  # in which a short name may stand by chance
    assert str(entered) not in texts
    for path in (folder / "store" / "runs").iterdir():
        assert not {"host", "pid", "workers"} & json.loads(path.read_text()).keys()
    assert platform.node() not in texts.replace(CARD["contact"], "")


@pytest.mark.integration
def test_an_entry_does_not_tell_where_its_data_lie(entered: Path, tmp_path: Path) -> None:
    """Others have the data elsewhere, and say where by --job."""
    out, folder = Path(shutil.copytree(entered / "out", tmp_path / "out")), tmp_path / "plain"
    stored = Store(str(out)).job()
    stored["spec"]["datasets"][0].update(root="/home/me/data/balls", list="~/lists/mine.json", split="test")
    Store(str(out)).write_job(stored)
    write_card(folder)
    assert make_entry(str(out), "plain", folder)
    (dataset,) = read_entry(folder).store.job()["spec"]["datasets"]
    assert (dataset["root"], dataset["list"], dataset["split"]) == ("balls", "mine.json", "test")
    assert not any("/home/me" in path.read_text() for path in folder.rglob("*.json"))


def test_a_store_that_makes_no_entry_is_one_line(entered: Path, tmp_path: Path) -> None:
    out = str(entered / "out")
    with pytest.raises(UserError, match=r"unknown model 'plane'\. Did you mean 'plain'"):
        make_entry(out, "plane", tmp_path / "plane")
    copy = shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(copy / "audit")
    with pytest.raises(UserError, match=r"plain: expected its audit, found none: freqbench audit .* --run"):
        make_entry(str(copy), "plain", tmp_path / "plain")
    shutil.rmtree(copy / "records")
    with pytest.raises(UserError, match="expected rows of attacks on it"):
        make_entry(str(copy), "plain", tmp_path / "plain")


def test_an_entry_is_of_one_network_alone(entered: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(entered / "out", tmp_path / "out"))
    stored = Store(str(out)).job()
    stored["spec"]["attacks"].append({"name": "bases", "eps": "8/255", "surrogates": [["rounded"]], "sources": "plain"})
    Store(str(out)).write_job(stored)
    with pytest.raises(
        UserError, match=r"plain: expected attacks that need no other network .*, got bases with surrog"
    ):
        make_entry(str(out), "plain", tmp_path / "plain")


def test_cases_that_the_job_once_had_are_in_no_entry(entered: Path, tmp_path: Path) -> None:
    """A patient whom a network fails to segment is dropped from the job; rows of its audit stay in the store."""
    out, content = str(shutil.copytree(entered / "out", tmp_path / "out")), job(entered)
    content["datasets"] = [{**content["datasets"][0], "cases": 1}]
    with trusting():
        execute(content, out)
    asked = index_keys(Store(out).job()["index"])
    assert gathered([Store(out)], asked).records["case_key"].nunique() == 1, "the audit's checks count it no more"
    write_card(tmp_path / "plain")
    assert make_entry(out, "plain", tmp_path / "plain")
    entry = read_entry(tmp_path / "plain")
    assert [len(cases) for cases in entry.told.cases.values()] == [1]
    assert len({row[1] for row in Store(f"{entry.store.root}/audit").rows(KEY)}) == 1
    assert len({row[1] for row in Store(f"{out}/audit").rows(KEY)}) == 2


def test_a_folder_with_other_rows_is_left_alone(entered: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(entered / "entries" / "rounded", tmp_path / "plain"))
    with pytest.raises(UserError, match=r"store: expected nothing or the rows of .*, got others"):
        make_entry(str(entered / "out"), "plain", folder)
