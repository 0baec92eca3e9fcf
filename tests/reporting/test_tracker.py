"""Facts of a store that TensorBoard, MLflow and Weights & Biases are told."""

import importlib.util
import io
import json
import socket
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from reporting.handmade import glimpse_of, job_of, row, stored
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from freqbench.core.errors import UserError
from freqbench.reporting import tracker


@pytest.fixture
def out(tmp_path: Path) -> str:
    """Three of four cases, of which two have a defined HD95, on two targets; a cell that failed; a picture of one."""
    rows: list[dict[str, Any]] = []
    for target in ("unet", "other"):
        hd95 = (2.0, 4.0, float("nan"))
        rows += [row(target=target, case=i, dsc=0.5 + i / 10, hd95=hd95[i], cell_id="c" * 16) for i in range(3)]
    failed = {"status": "failed", "error": "as asked", "dsc": None}
    rows += [row(case=3, cell_id="c" * 16) | failed, row("gn", cell_id="d" * 16) | failed]
    stored(*rows, root=tmp_path).write_job(job_of(rows))
    (tmp_path / "glimpses").mkdir()
    (tmp_path / "glimpses" / f"{'c' * 16}_{'0' * 16}_50.00.json").write_text(glimpse_of(200).model_dump_json())
    return str(tmp_path)


NAMES = {f"pgd-unet-{target}-{'c' * 16}" for target in ("unet", "other")}


def test_tensorboard_has_means_of_each_cell_and_target(out: str) -> None:
    folder = Path(tracker.log("tensorboard", out))
    assert folder == Path(out) / "tensorboard"
    assert {path.name for path in folder.iterdir()} == NAMES
    for name in NAMES:
        events = EventAccumulator(str(folder / name)).Reload()
        for column, mean in (("dsc", 0.6), ("hd95", 3.0)):
            (event,) = events.Scalars(column)
            assert (event.step, event.value) == (3, pytest.approx(mean))
        settings = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        assert b"linf" in settings
        assert b"source_model" in settings
        (image,) = events.Images("glimpse")
        picture = Image.open(io.BytesIO(image.encoded_image_string))
        assert picture.getpixel((picture.width // 6, picture.height // 4)) == pytest.approx((200, 200, 200), abs=2)


@pytest.mark.integration
def test_mlflow_has_a_run_of_each_cell_and_target(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logged twice, as a run that went on is; the database is a file beside the records."""
    pytest.importorskip("mlflow", reason="no mlflow here: pip install -e '.[mlflow]'")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = tracker.log("mlflow", out)
    assert (place, tracker.log("mlflow", out)) == (f"sqlite:///{out}/mlflow.db", place)
    client = MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted(NAMES)
    for run in runs:
        assert run.info.status == "FINISHED"
        assert {name: run.data.metrics[name] for name in ("dsc", "hd95")} == pytest.approx({"dsc": 0.6, "hd95": 3.0})
        assert (run.data.params["threat_model"], run.data.params["source_model"]) == ("linf", "unet")
        (picture,) = client.list_artifacts(run.info.run_id)
        assert picture.path == "glimpse.png"


def wandb_records(path: Path) -> list[Any]:
    """The records of a file of Weights & Biases: after 7 bytes LevelDB's log, parts of blocks behind heads of 7."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    at = 7
    parts = b""
    records = []
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length = int.from_bytes(content[at + 4 : at + 6], "little")
        kind = content[at + 6]
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


@pytest.mark.integration
def test_wandb_has_a_run_of_each_cell_and_target(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="no wandb here: pip install -e '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracker.log("wandb", out) == f"{out}/wandb"
    runs = {}
    for path in Path(out, "wandb").glob("offline-run-*/*.wandb"):
        records = wandb_records(path)
        (run,) = (each.run for each in records if each.WhichOneof("record_type") == "run")
        settings = {each.key: json.loads(each.value_json) for each in run.config.update}
        updates = chain.from_iterable(each.summary.update for each in records)
        runs[run.display_name] = (run.project, settings, {u.key or u.nested_key[0]: u.value_json for u in updates})
        assert len(list(path.parent.glob("files/media/images/glimpse*.png"))) == 1
    assert set(runs) == NAMES
    for project, settings, means in runs.values():
        assert (project, settings["threat_model"], settings["source_model"]) == ("mine", "linf", "unet")
        assert {name: json.loads(means[name]) for name in ("dsc", "hd95", "cases")} == pytest.approx(
            {"dsc": 0.6, "hd95": 3.0, "cases": 3}
        )


@pytest.mark.integration
@pytest.mark.timeout(60)  # MLflow itself tries a dead server for a quarter of an hour
def test_a_dead_server_is_one_line(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="no mlflow here: pip install -e '.[mlflow]'")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.getsockname()[1]}")
    with pytest.raises(UserError, match="--log mlflow: expected a server that answers, got"):
        tracker.log("mlflow", out)


@pytest.mark.parametrize(
    ("name", "out", "spec", "line"),
    [
        ("tensorboard", "s3://lab/out", object(), "expected --out as a folder of this machine, got s3://lab/out"),
        ("tensorboard", "out", None, "expected the package tensorboard, got none: pip install"),
        ("wandb", "s3://lab/out", object(), "expected --out as a folder of this machine, got s3://lab/out"),
        ("wandb", "out", None, r"expected the package wandb, got none: pip install '\.\[wandb\]'"),
        ("mlflow", "s3://lab/out", object(), "leave --log out, or set MLFLOW_TRACKING_URI"),
    ],
)
def test_unloggable_run_refused(name: str, out: str, spec: object, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(UserError, match=line):
        tracker.require(name, out)
