"""`freqbench init`: a first job from a data folder and a checkpoint."""

import io
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import Bench, done, refused
from data.dicom_files import LABELS, put_seg, put_series
from data.downloads import decathlon, nnunet, put, volume
from models import nifti_tool, onnx_file
from tiny_job import save_weights

from freqbench import models

OF_MODEL = ("roi", "input.axes", "input.scale", "inference.overlap", "inference.weighting")
OF_DATASET = ("intensity", "spacing", "crop_foreground")


@pytest.fixture
def data(tmp_path: Path) -> str:
    decathlon(tmp_path / "hearts", {"training": ["a"], "validation": ["b", "c"]})
    return str(tmp_path / "hearts")


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A checkpoint of freqbench's own for three classes."""
    path = tmp_path / "own.safetensors"
    save_weights(path, num_classes=3)
    return str(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Folder in which the job is written."""
    return tmp_path / "mine.yaml"


def made(bench: Bench, path: Path, data: Path | str, checkpoint: str, *options: str) -> dict[str, Any]:
    """The job that `init` writes for a folder of data and a checkpoint."""
    done(bench, "init", str(path), "--data", str(data), "--checkpoint", checkpoint, *options)
    job: dict[str, Any] = yaml.safe_load(path.read_text())
    return job


def planned(bench: Bench, path: Path) -> str:
    return done(bench, "plan", str(path), "--out", str(path.with_name("out")))


def test_init_writes_commented_job_that_plan_accepts(data: str, checkpoint: str, path: Path, bench: Bench) -> None:
    said = done(bench, "init", str(path), "--data", data, "--checkpoint", checkpoint, "--budget", "4/255")
    assert re.match(rf"written: {path}\nclean Dice of b: \d.\d+ \(foreground\).*\nnext: freqbench plan {path}\n", said)
    text = path.read_text()
    assert "  # layout: folder in the layout of the Decathlon\n" in text
    assert "  # validation: 2 of 2 cases are complete" in text
    assert "  # architecture: unet (UNet)\n" in text
    job = yaml.safe_load(text)
    dataset = {"name": "hearts", "root": data, "loader": "decathlon", "split": "validation", "cases": 2}
    assert job["datasets"] == [dataset]
    assert job["models"] == [{"name": "unet", "arch": "unet", "checkpoint": checkpoint}]
    assert {attack["name"]: attack.get("eps") for attack in job["attacks"]}["pgd"] == "4/255"
    assert "0 of 10 records are in" in planned(bench, path)


@pytest.mark.parametrize(("is_black", "attack"), [(False, "pgd"), (True, "square")])
def test_onnx_file_gives_a_job_it_allows(is_black: bool, attack: str, data: str, path: Path, bench: Bench) -> None:
    black = {"operator": onnx_file.BLACK, "alpha": 0.5} if is_black else {}
    network = onnx_file.write(path.with_name("net.onnx"), sides=(16, 16, 16), **black)
    job = made(bench, path, data, network, "--budget", "4/255")
    assert job["models"] == [{"name": "onnx", "arch": "onnx", "checkpoint": network}]
    assert attack in {attack["name"] for attack in job["attacks"]}
    planned(bench, path)


def test_an_onnx_file_whose_window_is_open_asks_for_it_in_a_line(data: str, path: Path, bench: Bench) -> None:
    network = onnx_file.write(path.with_name("net.onnx"))
    line = refused(bench, "init", str(path), "--data", data, "--checkpoint", network, "--budget", "4/255")
    assert f"{path} is written, but must be corrected before it runs: {path}: models[0]: " in line
    assert "roi: required, as the file does not say it" in line


def test_command_gives_a_job_of_queries_if_trusted(data: str, path: Path, bench: Bench) -> None:
    tool = path.with_name("tool.py")
    tool.write_text(nifti_tool.script("value > 50"))
    words = [sys.executable, str(tool), "{image}", "{labels}"]
    options = ("init", str(path), "--data", data, "--checkpoint", shlex.join(words), "--budget", "4/255")
    assert "no clean Dice of the first case" in bench(*options)[1]
    assert "clean Dice of b: 0." in bench(*options, "--force", "--trust-code")[1]
    job = yaml.safe_load(path.read_text())
    assert (job["trust_code"], job["models"][0]["command"]) == (True, words)
    assert [attack["name"] for attack in job["attacks"]] == ["random_noise", "square", "sa2"]
    planned(bench, path)
    line = refused(bench, "init", str(path), "--force", "--data", data, "--checkpoint", "tool '{image} {labels}")
    assert "--checkpoint: expected a command as a shell takes it, got No closing quotation: " in line


def test_a_network_for_nnunets_regions_has_sigmoid_outputs(path: Path, tmp_path: Path, bench: Bench) -> None:
    nnunet(tmp_path / "raw", ["a"], labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2])
    assert made(bench, path, tmp_path / "raw", "random", "--arch", "unet")["models"][0]["outputs"] == "sigmoid"


def test_scans_without_label_maps_give_a_job_that_plan_accepts(
    checkpoint: str, path: Path, tmp_path: Path, bench: Bench
) -> None:
    """The classes are those of the checkpoint."""
    put(tmp_path / "scans/a.nii.gz", volume()[0])
    (entry,) = made(bench, path, tmp_path / "scans", checkpoint)["datasets"]
    keys = {"loader": "images", "split": "test", "reference": "prediction", "cases": 1}
    assert entry == {"name": "scans", "root": str(tmp_path / "scans"), **keys}
    assert "0 of 5 records are in" in planned(bench, path)


def test_a_folder_of_dicom_gives_a_job_that_plan_accepts(
    checkpoint: str, path: Path, tmp_path: Path, bench: Bench
) -> None:
    """The job says which series of several it reads, and why."""
    image, label = volume()
    root = tmp_path / "clinic"
    series = put_series(root / "images/a/x", image, uid="1.2.3")
    put_series(root / "images/a/y", image + 1, uid="1.2.4")
    put_seg(root / "labels/a.dcm", series, {name: label == k for k, name in enumerate(LABELS, 1)})
    (entry,) = made(bench, path, root, checkpoint)["datasets"]
    assert entry == {"name": "clinic", "root": str(root), "loader": "dicom", "split": "test", "cases": 1}
    assert "# note: clinic: a: of the series 1.2.3 (8 slices), 1.2.4 (8 slices), 1.2.3 is read, as" in path.read_text()
    assert "0 of 5 records are in" in planned(bench, path)


def test_file_there_is_written_over_by_force_alone(data: str, checkpoint: str, path: Path, bench: Bench) -> None:
    path.write_text("mine")
    command = ("init", str(path), "--data", data, "--checkpoint", checkpoint)
    expected = f"error: {path}: expected no file, got one: name another, or give --force\n"
    assert (refused(bench, *command), path.read_text(), bench(*command, "--force")[0]) == (expected, "mine", 0)
    assert "eps: 8/255" in path.read_text()
    path.unlink()
    path.symlink_to("nothing")
    assert bench(*command)[0] == 2


@pytest.mark.parametrize("name", ["he: arts", "{hearts}", "- x", "#hearts", "he\"a'rts"])
def test_any_folder_name_gives_a_readable_job(
    name: str, checkpoint: str, path: Path, tmp_path: Path, bench: Bench
) -> None:
    decathlon(tmp_path / name, {"validation": ["b"]})
    bench("init", str(path), "--data", str(tmp_path / name), "--checkpoint", checkpoint)
    job = yaml.safe_load(path.read_text())
    assert re.fullmatch(r"[\w.-]+-unet", job["name"])
    assert job["datasets"][0]["root"] == str(tmp_path / name)


def test_a_class_name_that_is_no_text_is_one_line(checkpoint: str, tmp_path: Path, bench: Bench) -> None:
    """JSON can spell half of a surrogate pair; files cannot hold it."""
    decathlon(tmp_path / "hearts", {"validation": ["b"]}, ("air", "\ud800", "right"))
    command = ("init", str(tmp_path / "job.yaml"), "--data", str(tmp_path / "hearts"), "--checkpoint", checkpoint)
    assert "hearts: expected class names of Unicode text, got '\\ud800': fix their list" in refused(bench, *command)


@pytest.mark.parametrize(("budget", "eps"), [("0.03", 0.03), (".5", 0.5), ("1e-2", 0.01), ("4/255", "4/255")])
def test_a_budget_is_a_number_or_a_fraction(
    budget: str, eps: float | str, data: str, checkpoint: str, path: Path, bench: Bench
) -> None:
    job = made(bench, path, data, checkpoint, "--budget", budget)
    assert {attack["name"]: attack.get("eps") for attack in job["attacks"]}["pgd"] == eps


def test_init_asks_for_unstated_facts(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    """A checkpoint of others, whose keys tell the architecture: an empty answer takes it."""
    file = tmp_path / "theirs.pt"
    torch.save({"state_dict": models.build("unet", 3, (16, 16, 16), {}).state_dict()}, file)
    answers = io.StringIO(f"{data}\n{file}\n\n2/255\n0.9\n")
    answers.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", answers)
    said = done(bench, "init", str(tmp_path / "job.yaml"))
    assert "Architecture (unet, unetr, swin_unetr, segresnet, nnunet, bundle, ...) [unet]:" in said
    assert "Foreground Dice of your own validation" in said
    text = (tmp_path / "job.yaml").read_text()
    assert "eps: 2/255" in text
    assert yaml.safe_load(text)["models"][0]["expected_dice"] == 0.9


@pytest.mark.integration
def test_assumptions_stand_in_the_job_and_on_the_terminal(data: str, path: Path, bench: Bench) -> None:
    """Each once, by the entry that it belongs to, and plan repeats what the job leaves open."""
    file = path.with_name("theirs.pt")
    torch.save(models.build("unet", 3, (16, 16, 16), {}).state_dict(), file)
    said = done(bench, "init", str(path), "--data", data, "--checkpoint", str(file), "--arch", "unet")
    text = path.read_text()
    of_data, of_model = text.split("models:")
    shown = re.findall(r"^(model|dataset): (.*)    # assumed: ", said, re.MULTILINE)
    for part, of, keys in ((of_data, "dataset", OF_DATASET), (of_model, "model", OF_MODEL)):
        assert [key_of(line) for each, line in shown if each == of] == [*keys]
        assert [key_of(each) for each in re.findall(r"^    # (.*)    # assumed: ", part, re.MULTILINE)] == [*keys]
    assert "    # transforms: [" in of_model
    assert not {"intensity", "spacing", "crop_foreground"} & yaml.safe_load(text)["datasets"][0].keys()
    said = planned(bench, path)
    (note,) = [line for line in said.splitlines() if line.startswith("note: unet on hearts: assumed")]
    assert all(f" {key}: " in note for key in (*OF_MODEL, *OF_DATASET))


def key_of(line: str) -> str:
    ((key, value),) = yaml.safe_load(line).items()
    return f"{key}.{next(iter(value))}" if isinstance(value, dict) else str(key)


def test_a_network_that_does_not_fit_is_said_beside_the_job(data: str, path: Path, bench: Bench) -> None:
    """The job is there to be mended: these weights are for four classes."""
    file = path.with_name("theirs.pt")
    torch.save(models.build("unet", 4, (16, 16, 16), {}).state_dict(), file)
    err = refused(bench, "init", str(path), "--data", data, "--checkpoint", str(file))
    assert err.startswith(f"error: {path} is written, but must be corrected before it runs: ")
    assert yaml.safe_load(path.read_text())["models"][0]["arch"] == "unet"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "--data: expected a value, got none and no terminal to ask in: give the option"),
        (("--data", "."), "expected the folder of a dataset, got one with nothing"),
        (("--data", "hearts"), "--checkpoint: expected a value, got none"),
        (("--data", "hearts", "--checkpoint", "random"), "--arch: expected a value, got none"),
        (("--data", "hearts", "--checkpoint", "~nobody-here/x"), "expected the home of a user of this machine"),
        (
            ("--data", "hearts", "--checkpoint", "random", "--arch", "unet", "--budget", "8"),
            "--budget: expected a number in [0, 1]",
        ),
        (("--data", "hearts", "--checkpoint", "random", "--arch", "UNET"), "unknown architecture 'UNET'"),
    ],
)
def test_missing_or_wrong_fact_is_refused_and_nothing_is_written(
    options: tuple[str, ...], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if "hearts" in options:
        decathlon(place / "hearts", {"validation": ["b"]})
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert line in refused(bench, "init", *options)
    assert not (place / "job.yaml").exists()
