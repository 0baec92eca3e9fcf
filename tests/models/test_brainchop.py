"""`brainchop://NAME`: fetched once by SHA-256 from a server or FREQBENCH_DATA, and refused in one line."""

import gzip
import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import tiny_job
from command_line import Bench, done, refused
from data.downloads import put
from models import meshnet_folder

from freqbench.core.errors import MissingDataError, UserError
from freqbench.core.files import storage
from freqbench.models import brainchop
from freqbench.results import Store

NETWORK = "brainchop://model5_gw_ae"
VOLUME = "brainchop://t1_crop.nii.gz"


class Release:
    """A release with one network and a volume of 9x7x8 voxels, made here, and a server that counts what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "public"
        self.asked = list[str]()
        self.network = self.folder / "models" / "model5_gw_ae"
        self.network.mkdir(parents=True)
        meshnet_folder.write(self.network)
        rng = np.random.default_rng(0)
        put(self.folder / brainchop.T1, rng.integers(0, 256, meshnet_folder.SIDE).astype(np.uint8), np.diag([1.0] * 4))
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path.rpartition("/")[2])
                super().do_GET()

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))

    def listed(self) -> dict[str, dict[str, str]]:
        def sha256(*files: Path) -> dict[str, str]:
            return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

        return {brainchop.T1: sha256(self.folder / brainchop.T1), self.network.name: sha256(*self.network.iterdir())}

    def put_under(self, data: Path) -> None:
        """Copies the files to where FREQBENCH_DATA has them."""
        for file in (self.folder / brainchop.T1, *self.network.iterdir()):
            place = data / "brainchop" / file.relative_to(self.folder).as_posix().removeprefix("models/")
            storage.write_atomic(str(place), file.read_bytes())


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    release = Release(tmp_path / "server")
    monkeypatch.setattr(brainchop, "FILES", release.listed())
    monkeypatch.setattr(brainchop, "ADDRESS", f"http://127.0.0.1:{release.server.server_port}/public")
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    for variable in ("FREQBENCH_DATA", "FREQBENCH_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    with release.server as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield release
        server.shutdown()
        thread.join()


def job(**changes: Any) -> dict[str, Any]:
    classes = ["background", "white matter", "grey matter"]
    scan = {"name": "t1", "loader": "images", "root": VOLUME, "reference": "prediction", "labels": classes}
    return tiny_job.small(datasets=[scan], models=[{"name": "m", "checkpoint": NETWORK}], metrics=["dsc"], **changes)


@pytest.mark.parametrize("kind", ["folder", "URI"])
def test_own_files_need_no_server(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    data = str(tmp_path / "data") if kind == "folder" else f"memory://{tmp_path.name}"
    release.put_under(tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.*"):
        storage.write_atomic(f"{data}/{path.relative_to(tmp_path / 'data').as_posix()}", path.read_bytes())
    monkeypatch.setenv("FREQBENCH_DATA", data)
    assert Path(storage.local_path(NETWORK), "model.json").read_bytes() == (release.network / "model.json").read_bytes()
    assert (storage.fetch(VOLUME).read_bytes(), release.asked) == ((release.folder / brainchop.T1).read_bytes(), [])


@pytest.mark.parametrize("place", ["server", "FREQBENCH_DATA"])
def test_other_content_refused(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if place == "FREQBENCH_DATA":
        release.put_under(tmp_path)
        monkeypatch.setenv("FREQBENCH_DATA", str(tmp_path))
    file = tmp_path / "brainchop" / brainchop.T1 if place == "FREQBENCH_DATA" else release.folder / brainchop.T1
    file.write_bytes(gzip.compress(b"another"))
    for _ in range(2):  # no trace of it counts as the file
        with pytest.raises(UserError, match=r"t1_crop\.nii\.gz: expected sha256 \w{12}\.\.\., got \w{12}\.\.\.: it is"):
            storage.fetch(VOLUME)
    assert [path.name for path in (tmp_path / "cache" / "files").rglob("*.nii.gz*")] == []


@pytest.mark.parametrize(
    ("offline", "problem"), [("", "HTTP Error 404: File not found"), ("1", "FREQBENCH_OFFLINE is set")]
)
def test_neither_way_names_both(release: Release, monkeypatch: pytest.MonkeyPatch, offline: str, problem: str) -> None:
    (release.folder / brainchop.T1).unlink()
    monkeypatch.setenv("FREQBENCH_OFFLINE", offline)
    with pytest.raises(MissingDataError) as error:
        storage.fetch(VOLUME)
    assert str(error.value) == (
        f"{VOLUME}: set FREQBENCH_DATA (now not set) to a folder that holds brainchop/t1_crop.nii.gz, or run once with "
        f"internet access: expected one of them, found neither; tried {brainchop.ADDRESS}/t1_crop.nii.gz ({problem})"
    )
    assert release.asked == [brainchop.T1] * (not offline)


@pytest.mark.usefixtures("release")
def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown file of brainchop 'model5'\. Did you mean 'model5_gw_ae'\?"):
        storage.exists("brainchop://model5")


def test_a_job_runs_from_the_server(release: Release, tmp_path: Path) -> None:
    summary = tiny_job.execute(job(), tmp_path / "out")
    assert (summary.num_new, summary.num_failed) == (1, 0)
    (row,) = Store(str(tmp_path / "out")).records(["reference", "status"]).to_pylist()
    assert row == {"reference": "prediction", "status": "ok"}
    assert sorted(release.asked) == ["model.bin", "model.json", "t1_crop.nii.gz"]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"checkpoint": VOLUME}, "unknown network of brainchop 't1_crop.nii.gz'. Known: model11_gw_ae, "),
        ({"checkpoint": "brainchop://model5"}, "unknown network of brainchop 'model5'. Did you mean 'model5_gw_ae'?"),
        ({"checkpoint": NETWORK, "arch": "unet"}, f"expected no arch beside {NETWORK}, got unet: leave it out"),
    ],
)
def test_unknown_brainchop_network_is_refused(bench: Bench, tmp_path: Path, entry: dict[str, Any], text: str) -> None:
    path = tiny_job.write(tmp_path, job() | {"models": [{"name": "m", **entry}]})
    assert text in refused(bench, "run", path, "--out", str(tmp_path / "out"))


@pytest.mark.parametrize("command", ["plan", "run"])
def test_packaged_job_names_lacks(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FREQBENCH_OFFLINE", "1")
    monkeypatch.delenv("FREQBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    if command == "run":
        assert "found neither; tried https://" in refused(bench, "run", "brain")
        return
    out = done(bench, "plan", "brain")
    assert "missing: dataset t1: brainchop://t1_crop.nii.gz: set FREQBENCH_DATA (now not set) to a folder" in out
    assert "missing: model model5: brainchop://model5_gw_ae: set FREQBENCH_DATA (now not set) to a folder" in out


def test_the_hashes_are_those_of_the_release(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FREQBENCH_OFFLINE", "1")
    monkeypatch.setenv("FREQBENCH_DATA", str(shared / "data"))
    assert [name for name in brainchop.FILES if not storage.exists(f"brainchop://{name}")] == []
