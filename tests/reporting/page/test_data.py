"""Data of the page and of its volumes: what it is given, packed, says of itself, and leaves out."""

import base64
import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from html import unescape
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from page_rows import FACTS, data_of, grid
from reporting.handmade import records, row, shown
from viewer_page import rows_of

import freqbench.reporting.page
from freqbench.analysis.scores import SCORES, shown_scores
from freqbench.analysis.tables import SUMMARY, current
from freqbench.core.errors import DataError
from freqbench.reporting.page import build_page, pack_data, page_data
from freqbench.reporting.page import data as page
from freqbench.reporting.page.data import numbers, texts
from freqbench.reporting.page.manifest import browser_file, write_volumes
from freqbench.results import RECORDS


def column(frame: Mapping[str, Any], name: str) -> list[Any]:
    if name in frame["numbers"]:
        return list(frame["numbers"][name])
    coded = frame["texts"][name]
    return [coded["values"][code] if code >= 0 else None for code in coded["codes"]]


def test_numbers_keep_six_digits_and_texts_are_coded() -> None:
    values = [0.00123456, -1234567.8, 7.0, np.nan, 0.0, np.inf, 12.353182]  # of 12.35, 12.3 would be shown
    assert numbers(values) == [0.00123456, -1234570, 7, None, 0, None, 12.3532]
    plain = pd.Series(["b", None, "a", "b"])
    assert texts(plain.astype("category")) == texts(plain) == {"values": ["b", "a"], "codes": [0, -1, 1, 0]}


def test_every_score_is_column_of_summary_and_of_records() -> None:
    known = {each.name for each in RECORDS}
    assert {score.name for score in SCORES} <= set(SUMMARY) | {"hd95_undefined"}
    assert {score.source for score in SCORES} <= known


def test_single_cases_have_the_units_of_the_means() -> None:
    """One case alone is its own mean."""
    values = dict.fromkeys(("dsc", "ssim", "ssim_body", "lpips_similarity", "lpips_body", "voxel_success"), 0.25)
    values |= {"dsc_clean": 0.75, "linf": 2 / 255, "l2": 3.0, "hd95": 4.0, "hd95_penalised": 5.0, "psnr": 30.0}
    frame = current(records(row("pgd", **values)).assign(left_out=""))
    shown = {name: series.iloc[0] for name, series in shown_scores(frame).items()}
    assert shown["dsc"] == shown["ssim"] == shown["lpips"] == shown["voxel_success"] == 25
    assert (shown["dsc_drop"], shown["lpips_body"], shown["linf_255"]) == (50, 75, pytest.approx(2))
    made = data_of(frame, None)
    for score in SCORES:
        if score.name != "hd95_undefined":
            assert column(made["summary"], score.name) == column(made["cases"], score.name), score.name


def test_a_failed_row_is_empty_with_its_reason_and_not_zero() -> None:
    made = data_of(records(row(status="failed", error="out of memory"), row("gn", dsc=0.5)), None)
    errors = dict(zip(column(made["summary"], "attack"), column(made["summary"], "error"), strict=True))
    assert errors == {"pgd eps=8/255": "out of memory", "gn std=8/255": None}
    assert column(made["summary"], "dsc")[column(made["summary"], "error").index("out of memory")] is None
    assert made["failures"][0]["reason"] == "out of memory"


def test_a_mean_says_which_metrics_it_covers_and_why_one_is_null() -> None:
    first = row(case=0, dsc=0.5, metrics="dsc,lpips", null_reasons='{"lpips_body": "no weights"}')
    made = data_of(records(first, row(case=1, dsc=0.5, metrics="dsc,ssim")), None)["summary"]
    assert sorted(column(made, "metrics")[0].split(",")) == ["dsc", "lpips", "ssim"]
    assert json.loads(column(made, "null_reasons")[0]) == {"lpips_body": "no weights"}


def test_family_is_the_label_without_its_budget() -> None:
    settings = product(("none", "uniform"), (10.0, 20.0))
    rows = [row("vafa", {"control": kind}, budget=budget, dsc=0.5) for kind, budget in settings]
    made = data_of(records(*rows), None)["summary"]
    assert sorted(set(column(made, "family"))) == ["vafa", "vafa control=uniform"]
    assert set(column(made, "budget_text")) == {"q_max=10", "q_max=20"}


def test_class_rows_stand_with_their_cases() -> None:
    """Walked by the counts, as the page does it, every case finds its own classes."""
    records, classes = grid(3, ["a", "b"], ["a", "b", "c"], 2, 4)
    made = data_of(records, classes)
    cases = made["cases"]
    values = made["case_classes"]
    keys = ["source", "target", "attack"]
    summary = made["summary"]
    wanted = classes.merge(current(records.assign(left_out="")), on=["cell_id", "case_key", "target_model_id"])
    wanted = wanted.set_index(["source_model", "target_model", "label", "case_id", "class_index"])["dsc_x"]
    begin = 0
    for place, number in enumerate(column(cases, "row")):
        of_case = (*(column(summary, name)[number] for name in keys), column(cases, "case")[place])
        for at in range(begin, begin + column(cases, "classes")[place]):
            expected = 100 * wanted[*of_case, column(values, "class")[at]]
            assert column(values, "dsc")[at] == pytest.approx(expected, rel=1e-3)
        begin += column(cases, "classes")[place]
    assert begin == len(column(values, "dsc")) == len(classes)


def test_class_means_leave_undefined_values_out() -> None:
    records, classes = grid(1, ["a"], ["a"], 3, 2)
    classes["dsc"] = [0.2, np.nan, 0.4, 0.5, 0.6, np.nan]  # class 0: .2 .4 .6, class 1: nan .5 nan
    made = data_of(records, classes)["class_means"]
    assert (column(made, "dsc"), column(made, "cases")) == ([40, 50], [3, 1])


@pytest.mark.integration
def test_too_many_cases_leave_their_means_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_CASES", 5)
    made = data_of(*grid(2, ["a"], ["a"], 3, 2))
    assert made["cases"] is None
    assert made["case_classes"] is None
    assert "6 single cases are too many" in made["omitted"]["cases"]
    assert (made["summary"]["rows"], len(column(made["class_means"], "dsc"))) == (2, 4)


@pytest.mark.integration
def test_intervals_hold_the_mean_and_need_two_patients() -> None:
    made = data_of(*grid(1, ["a"], ["a"], 6, 2))["summary"]
    low, mean, high = (column(made, f"dsc_foreground{end}")[0] for end in ("_low", "", "_high"))
    assert low < mean < high
    assert column(data_of(*grid(1, ["a"], ["a"], 1, 2))["summary"], "dsc_foreground_low") == [None]


def test_rows_left_out_by_strength_check_are_told_and_not_shown() -> None:
    made = data_of(records(row(dsc=0.5), row("gn", dsc=0.5, precision="bf16")), None)
    assert column(made["summary"], "base") == ["pgd"]
    assert made["left_out"][0]["attack"].startswith("gn")
    assert "fp32" in made["left_out"][0]["reason"]


def test_progress_counts_the_records_of_a_run_against_its_grid() -> None:
    index = {"cells": [{"cell_id": "c", "dataset": "d", "targets": ["a", "b"]}], "cases": {"d": ["1", "2", "3"]}}
    facts = [{**FACTS[0], "job": {"spec": {"name": "mine"}, "index": index}}]
    frame = current(records(row(case=0), row(case=1, status="failed", error="no")).assign(left_out=""))
    made = page.page_data(frame, None, facts)
    progress = made["runs"][0]
    assert (progress["planned"], progress["done"], progress["failed"], made["title"]) == (6, 1, 1, "mine")


def test_packed_data_is_plain_json_and_same_for_same_rows() -> None:
    """Also where there are none."""
    records, classes = grid(1, ["a"], ["a"], 1, 2)
    made = data_of(records[:0], classes[:0])
    assert len(column(made["summary"], "dsc")) == len(column(made["cases"], "dsc")) == 0
    assert json.loads(gzip.decompress(pack_data(made))) == json.loads(json.dumps(made))
    assert pack_data(made) == pack_data(made)


def test_whole_numbers_have_no_point_in_the_packed_data() -> None:
    """A page is that much smaller, and 3 cases are not 3.0."""
    text = gzip.decompress(pack_data(data_of(*grid(1, ["a"], ["a"], 3, 2)))).decode()
    assert '"cases":[3]' in text
    assert '"budget":[0.00392157]' in text


def said(*rows: dict[str, Any]) -> list[str]:
    data = page_data(shown(*rows), None, [])
    for each in data["findings"]:
        for name in ("attack", "source"):
            assert column(data["summary"], name)[each["row"]] in each["text"]
    return [each["text"] for each in data["findings"]]


def scored(attack: str, drop: float, source: str = "unet", target: str = "unet", **values: Any) -> dict[str, Any]:
    return row(attack, source=source, target=target, dsc=0.9 - drop / 100, dsc_clean=0.9, **values)


def test_largest_drop_of_each_threat_model_with_transfer() -> None:
    drops = [("unet", 40.0, 53.6), ("unetr", 16.0, 16.76), ("other", 1.0, 2.0)]
    first = [scored("vafa", drop, target=target) for target, drop, _ in drops]
    second = [scored("vafa", drop, target=target, case=1) for target, _, drop in drops]
    linf = [scored("pgd", 20.0), scored("pgd", 3.0, budget=1 / 255), scored("pgd", -2.0, target="unetr")]
    assert said(*first, *second, *linf, scored("gn", 0.4)) == [
        "dct-quantization: vafa q_max=20 takes 46.8 points of foreground DSC from unet (90.0 to 43.2, mean of 2 cases)"
        ", 35 % of which transfers to unetr, the most of 2 models.",
        "linf: pgd eps=8/255 takes 20.0 points of foreground DSC from unet (90.0 to 70.0, one case), 0 % of which "
        "transfers to unetr.",
    ]


def test_null_row_is_no_attack() -> None:
    null = scored("vafa", 30.0, params={"control": "uniform"})
    assert said(scored("vafa", 25.0), null) == [
        "dct-quantization: vafa q_max=20 takes 25.0 points of foreground DSC from unet (90.0 to 65.0, one case); the "
        "same change without optimisation (uniform) takes 30.0."
    ]
    assert said(null) == []


@pytest.mark.parametrize("missing", [True, False])
def test_model_keeps_most_only_among_those_that_met_same_attacks(missing: bool) -> None:
    rows = [scored("pgd", 20.0), scored("vafa", 30.0), scored("pgd", 25.0, "b", "b"), scored("vafa", 4.0, "b", "b")]
    texts = said(*(rows[:3] if missing else rows))
    wanted = (
        "b keeps most: none of the 2 attacks takes more than 25.0 points from it (pgd eps=8/255); unet loses up to "
        "30.0 (vafa q_max=20)."
    )
    assert (wanted in texts) is not missing


FOLDER = Path(freqbench.reporting.page.__file__).parent
WEB = FOLDER / "web"
DIST = FOLDER / "dist"


def test_the_bundle_was_made_of_these_sources() -> None:
    """Otherwise: `npm ci && npm run build` in freqbench/reporting/page/web."""
    names = sorted(f"src/{path.name}" for path in (WEB / "src").iterdir())
    digest = hashlib.sha256()
    for name in [*names, "build.mjs", "package-lock.json"]:
        digest.update(name.encode() + b"\0" + (WEB / name).read_bytes() + b"\0")
    for name in ("page.js", "charts.js", "page.css"):
        assert f"sources sha256 {digest.hexdigest()}" in (DIST / name).read_text()[:200]


def test_licences_of_what_is_bundled_stand_beside_it() -> None:
    text = (DIST / "LICENSES.txt").read_text()
    bundled = json.loads((WEB / "package.json").read_text())["devDependencies"].keys() - {"esbuild"}
    assert all(f"{name} " in text for name in bundled)
    assert text.count("Permission is hereby granted") >= len(bundled)


def test_the_lock_file_names_no_host() -> None:
    assert "://" not in re.sub(r'"url": "[^"]*"', "", (WEB / "package-lock.json").read_text())


def test_page_loads_and_runs_nothing_from_elsewhere() -> None:
    made = data_of(*grid(2, ["a"], ["a"], 2, 2))
    volumes = {"base": "volumes/", "cases": []}
    page = build_page(made, volumes=volumes)
    embedded = re.search(r'id="freqbench-data">([^<]*)<', page)
    assert embedded
    wanted = json.loads(json.dumps(made | {"volumes": volumes}))
    assert json.loads(gzip.decompress(base64.b64decode(embedded[1]))) == wanted
    head = unescape(page[: page.index("<style>")])
    assert "default-src 'none'" in head
    assert "connect-src 'none'" in head
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"(?!data:)", page)
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(hashes) == 2
    wanted = " ".join(f"'sha256-{each}'" for each in hashes)
    assert f"script-src {wanted};" in head


def test_texts_of_data_appear_nowhere_in_the_markup() -> None:
    hostile = "</script><script>alert(1)</script>"
    page = build_page(data_of(*grid(1, [hostile], [hostile], 1, 2)) | {"title": hostile})
    assert hostile not in page
    assert "<title>&lt;/script&gt;" in page


@pytest.mark.parametrize("text", ["a = '</SCRIPT>'", "<!-- "])
def test_a_viewer_that_would_end_its_tag_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must not contain"):
        build_page(data_of(*grid(1, ["a"], ["a"], 1, 1)), viewer=text)


@pytest.fixture(scope="module")
def rows(volumes_store: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    return rows_of(volumes_store)


def content(folder: Path, key: str) -> Any:
    """The image that a browser gets."""
    text = (folder / f"volumes/{key}.js").read_text()
    script = re.fullmatch(r'freqbenchVolume\("([0-9a-f]{16})","([A-Za-z0-9+/=]+)"\)\n', text)
    assert script
    assert script[1] == key
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(script[2])))


def image(store: str, case: Mapping[str, Any], cells: pd.DataFrame, name: str) -> Any:
    row = cells[(cells["label"] == case["attack"]) & (cells["source_model"] == case["source"])].iloc[0]
    [path] = Path(store).glob(f"volumes/*-{row['cell_id']}/*/{name}.nii.gz")
    return nibabel.load(path)


@pytest.fixture(scope="module")
def written(volumes_store: str, rows: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("page")
    return folder, write_volumes(*rows, [volumes_store], str(folder), {})


def test_each_saved_volume_is_a_case_with_all_its_targets(written: Any) -> None:
    manifest = written[1]
    listed = {(case["source"], case["attack"]) for case in manifest["cases"]}
    assert listed == {*product("ab", ("fgsm eps=8/255", "gn std=8/255"))}
    assert all(set(case["files"]["predictions"]) == {"a", "b"} for case in manifest["cases"])
    assert manifest["notes"] == []
    assert len({case["files"]["clean"] for case in manifest["cases"]}) == 1  # written once for all attacks
    assert len({case["files"]["adversarial"] for case in manifest["cases"]}) == 3  # noise knows no source model
    assert manifest["bytes"] == sum(path.stat().st_size for path in written[0].glob("volumes/*"))
    json.dumps(manifest, allow_nan=False)


def test_the_largest_drops_are_written_where_room_is_short(volumes_store: str, rows: Any, tmp_path: Path) -> None:
    records = rows[0].assign(dsc_foreground_clean=0.9, dsc_foreground=0.8)
    is_worst = (records["attack"] == "fgsm") & (records["source_model"] == "b") & (records["target_model"] == "b")
    records.loc[is_worst, "dsc_foreground"] = 0.1
    [path] = Path(volumes_store).glob(f"volumes/*-{records.loc[is_worst, 'cell_id'].iloc[0]}/*/adversarial.nii.gz")
    room = path.stat().st_size
    manifest = write_volumes(records, rows[1], [volumes_store], str(tmp_path), {}, room)
    assert [(case["source"], case["attack"]) for case in manifest["cases"]] == [("b", "fgsm eps=8/255")]
    assert manifest["notes"] == ["1 of 4 volumes, the largest drops; report --format html --volumes shows all."]
    assert write_volumes(records, rows[1], [volumes_store], str(tmp_path), {}, room - 1)["cases"] == []


def test_volumes_keep_grid_values_and_labels(volumes_store: str, rows: Any, written: Any) -> None:
    folder, manifest = written
    assert manifest["rounding"] == pytest.approx(1 / 65534)
    for case in manifest["cases"]:
        files = case["files"]
        for name in ("clean", "adversarial"):
            shown = content(folder, files[name])
            kept = image(volumes_store, case, rows[0], name)
            assert shown.get_data_dtype() == np.int16
            assert np.allclose(shown.affine, kept.affine)
            assert np.abs(shown.get_fdata() - kept.get_fdata()).max() <= 1.01 / 65534  # and float32 of the header
        maps = {f"prediction_{kind}-{t}": key for t in "ab" for kind, key in files["predictions"][t].items()}
        for name, key in (maps | {"label": files["label"]}).items():
            stored = image(volumes_store, case, rows[0], name).get_fdata()
            assert np.array_equal(content(folder, key).get_fdata(), stored)


def test_names_and_scores_are_those_of_the_records(volumes_store: str, rows: Any, tmp_path: Path) -> None:
    records, classes = rows
    cases = write_volumes(records, classes, [volumes_store], str(tmp_path), {})["cases"]
    [case] = [case for case in cases if (case["source"], case["attack"]) == ("a", "gn std=8/255")]
    assert case["class_names"] == classes.sort_values("class_index")["class_name"].unique().tolist()
    of_case = records[(records["label"] == case["attack"]) & (records["source_model"] == "a")].set_index("target_model")
    for target in "ab":
        assert case["dsc"][target] == of_case.loc[target, ["dsc_foreground_clean", "dsc_foreground"]].tolist()
    undefined = write_volumes(records.assign(dsc_foreground=np.nan), classes, [volumes_store], str(tmp_path), {})
    assert all(each["dsc"]["a"][1] is None for each in undefined["cases"])
    json.dumps(undefined, allow_nan=False)


def test_a_case_leads_back_to_the_file_s_unit_or_states_none(volumes_store: str, rows: Any, tmp_path: Path) -> None:
    page = str(tmp_path / "page")
    cases = write_volumes(*rows, ["nowhere", volumes_store], page, {})["cases"]
    assert [(case["ranges"], case["unit"]) for case in cases] == [([(-175, 250)], "HU")] * 4
    old = Path(shutil.copytree(volumes_store, tmp_path / "store"))
    for path in old.glob("volumes/*/*/attack.json"):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({name: facts[name] for name in facts if name not in ("native_ranges", "unit")}))
    assert {(*case["ranges"], case["unit"]) for case in write_volumes(*rows, [str(old)], page, {})["cases"]} == {("",)}
    [path] = old.glob("volumes/fgsm-a-*/*/attack.json")
    path.write_text('{"native_ranges": [[0, "<b>"]]}')
    manifest = write_volumes(*rows, [str(old)], page, {})
    assert len(manifest["cases"]) == 3
    assert "attack.json: native_ranges" in manifest["notes"][0]


def test_rows_that_are_not_shown_have_no_volumes(volumes_store: str, rows: Any, tmp_path: Path) -> None:
    records = rows[0].copy()
    records.loc[records["attack"] == "gn", "status"] = "failed"
    records.loc[(records["attack"] == "fgsm") & (records["source_model"] == "a"), "left_out"] = "not run in fp32"
    cases = write_volumes(records, rows[1], [volumes_store], str(tmp_path), {})["cases"]
    assert [(case["source"], case["attack"]) for case in cases] == [("b", "fgsm eps=8/255")]


def test_seeds_are_named_and_equal_names_have_no_predictions(volumes_store: str, rows: Any, tmp_path: Path) -> None:
    """A file is called by the name alone: whose it is cannot be told."""
    names = {"a": "a#123456", "b": "a#abcdef"}
    seeds = {"fgsm": 0, "gn": 1}
    records = rows[0].assign(label="noise", seed=rows[0]["attack"].map(seeds))
    records["target_model"] = records["target_model"].map(names)
    cases = write_volumes(records, rows[1], [volumes_store], str(tmp_path), {})["cases"]
    assert {case["attack"] for case in cases} == {"noise seed=0", "noise seed=1"}
    assert all(case["files"]["predictions"] == {} for case in cases)


def test_a_damaged_volume_costs_its_case_and_is_told(volumes_store: str, rows: Any, tmp_path: Path) -> None:
    broken = str(shutil.copytree(volumes_store, tmp_path / "store"))
    path = sorted(Path(broken).glob("volumes/gn-a-*/*/adversarial.nii.gz"))[0]
    path.write_bytes(path.read_bytes()[:100])
    manifest = write_volumes(*rows, [broken], str(tmp_path / "page"), {})
    assert len(manifest["cases"]) == 3
    assert "1 saved volumes are left out" in manifest["notes"][0]
    assert str(path) in manifest["notes"][0]


def test_volumes_of_a_former_page_go_and_other_files_stay(volumes_store: str, rows: Any, tmp_path: Path) -> None:
    (tmp_path / "volumes").mkdir()
    for name in ("0123456789abcdef.js", "mine.js"):
        (tmp_path / "volumes" / name).write_text('freqbenchVolume("0123456789abcdef","")')
    manifest = write_volumes(*rows, [volumes_store], str(tmp_path), {})
    names = {path.name for path in (tmp_path / "volumes").iterdir()}
    assert "mine.js" in names
    assert "0123456789abcdef.js" not in names
    assert f"{manifest['cases'][0]['files']['clean']}.js" in names


@pytest.mark.parametrize(("low", "high", "largest"), [(-3, 5, 5), (0, 0.2, 1)])
def test_the_step_is_of_the_unit_range_or_of_what_goes_beyond(low: float, high: float, largest: float) -> None:
    voxels = np.linspace(low, high, 24, dtype=np.float32).reshape(2, 3, 4)
    packed = gzip.compress(nibabel.Nifti1Image(voxels, np.diag([2.0, 3, 4, 1])).to_bytes())
    content, rounding = browser_file(packed, "there.nii.gz")
    shown = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    assert rounding == pytest.approx(largest / 65534)
    assert np.abs(shown.get_fdata() - voxels).max() <= 1.01 * largest / 65534
    assert np.array_equal(shown.affine, np.diag([2.0, 3, 4, 1]))
    infinite = gzip.compress(nibabel.Nifti1Image(np.full_like(voxels, np.inf), np.eye(4)).to_bytes())
    with pytest.raises(DataError, match="expected finite intensities"):
        browser_file(infinite, "there.nii.gz")


def test_links_out_of_the_store_cost_their_case_and_are_told(volumes_store: str, rows: Any, tmp_path: Path) -> None:
    store = str(shutil.copytree(volumes_store, tmp_path / "store"))
    [path] = Path(store).glob("volumes/fgsm-a-*/*/clean.nii.gz")
    path.rename(tmp_path / "outside.nii.gz")
    path.symlink_to(tmp_path / "outside.nii.gz")
    manifest = write_volumes(*rows, [store], str(tmp_path / "page"), {})
    assert len(manifest["cases"]) == 3
    assert "leads out" in manifest["notes"][0]
