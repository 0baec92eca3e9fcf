"""The volumes of a page: what is written is what was saved, once, and nothing else can be asked for."""

import base64
import gzip
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from viewer_page import rows_of

from freqbench.core.errors import DataError
from freqbench.reporting.page.manifest import browser_file, write_volumes


@pytest.fixture(scope="module")
def rows(volumes_store: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    return rows_of(volumes_store)


def content(folder: Path, key: str) -> Any:
    """The image that a browser gets."""
    script = re.fullmatch(
        r'freqbenchVolume\("([0-9a-f]{16})","([A-Za-z0-9+/=]+)"\)\n', (folder / f"volumes/{key}.js").read_text()
    )
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
    assert listed == {(source, attack) for source in "ab" for attack in ("fgsm eps=8/255", "gn std=8/255")}
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
            shown, kept = content(folder, files[name]), image(volumes_store, case, rows[0], name)
            assert shown.get_data_dtype() == np.int16
            assert np.allclose(shown.affine, kept.affine)
            assert np.abs(shown.get_fdata() - kept.get_fdata()).max() <= 1.01 / 65534  # and float32 of the header
        maps = {f"prediction_{kind}-{t}": key for t in "ab" for kind, key in files["predictions"][t].items()}
        for name, key in (maps | {"label": files["label"]}).items():
            assert np.array_equal(
                content(folder, key).get_fdata(), image(volumes_store, case, rows[0], name).get_fdata()
            )


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
    names, seeds = {"a": "a#123456", "b": "a#abcdef"}, {"fgsm": 0, "gn": 1}
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
