"""`export`, `score --predictions` and `score --adversarial` as they are typed."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import Bench, done, refused
from tiny_job import rows

from freqbench.data.loaders.phantom import Phantom

CASE = "phantom_2000.nii.gz"


@pytest.mark.integration
def test_export_then_score_what_a_tool_made_of_it(small_copy: Path, bench: Bench) -> None:
    out = str(small_copy)
    made = small_copy.parent
    said = done(bench, "export", out)
    assert said.startswith("1 adversarial and 1 clean volumes are in ")
    for each in json.loads((made / "out" / "export" / "manifest.json").read_text())["files"]:
        image = nibabel.load(made / "out" / "export" / each["path"])
        (made / "tool" / each["path"]).parent.mkdir(parents=True)
        found = nibabel.Nifti1Image((image.get_fdata() > 0).astype(np.uint8), image.affine)
        nibabel.save(found, made / "tool" / each["path"])
    (made / "map.yaml").write_text("1: liver\n")
    arguments = ["--predictions", str(made / "tool"), "--name", "threshold", "--label-map", str(made / "map.yaml")]
    said = done(bench, "score", out, *arguments)
    assert "\n1 record in " in said
    assert "  threshold\n" in said  # a column beside the job's models
    assert len(rows(out)) == 2


def test_identity_is_kept_in_dicom_alone(small_store: Path, bench: Bench) -> None:
    line = refused(bench, "export", str(small_store), "--keep-identity")
    assert "--keep-identity: expected --format dicom and cases of `loader: dicom`, got --format nifti" in line


def test_score_what_others_made(small_store: Path, tmp_path: Path, bench: Bench) -> None:
    (clean,) = small_store.glob("volumes/*/*/clean.nii.gz")
    (tmp_path / "theirs").mkdir()
    voxels = (255 * nibabel.load(clean).get_fdata()).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "theirs" / f"adv_{CASE}")
    arguments = ["--adversarial", str(tmp_path / "theirs"), "--source", "a"]
    arguments += ["--job", str(small_store.with_name("job.yaml"))]
    said = done(bench, "score", str(tmp_path / "new"), *arguments)
    assert "imported label=theirs " in said
    said = done(bench, "cluster", "status", str(tmp_path / "new"))
    assert "1 of 1 record" in " ".join(said.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "score: expected one of --targets, --predictions, --adversarial, got none"),
        (["--targets", "a", "--predictions", "x"], "--adversarial, got --targets and --predictions"),
        (["--predictions", "x"], "score: --predictions: expected --name too, got none"),
        (["--adversarial", "x"], "score: --adversarial: expected --source too, got none"),
        (["--targets", "a", "--source", "a"], "score: --source: expected --adversarial beside it, got --targets"),
        (["--predictions", "nowhere", "--name", "t"], "nowhere: expected label maps under the names of `export`"),
        (["--adversarial", "nowhere", "--source", "a"], f"such as adv_{CASE}, got no file"),
    ],
)
def test_a_wrong_score_is_one_line(small_store: Path, bench: Bench, arguments: list[str], expected: str) -> None:
    assert expected in refused(bench, "score", str(small_store), *arguments)


def test_private_data_ask_yes(small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr(Phantom, "redistributable", False)
    arguments = ["export", str(small_store), "--to", str(tmp_path / "to")]
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    assert err == "error: phantom: expected permission to write volumes that must not be passed on: give --yes\n"
    assert not (tmp_path / "to").exists()
    done(bench, *arguments, "--yes")
    assert (tmp_path / "to" / "clean" / CASE).exists()
