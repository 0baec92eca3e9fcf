"""`task: hippocampus` without `root`: under FREQBENCH_DATA, else fetched once from a mirror, checked by SHA-256."""

import hashlib
import io
import itertools
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import tiny_job
import torch
from command_line import Bench, refused

from freqbench.core import config
from freqbench.core.errors import DataError, MissingDataError
from freqbench.core.files import node_cache, storage
from freqbench.data.loaders import msd
from freqbench.data.loaders.decathlon import SPLITS, Decathlon
from freqbench.data.loaders.msd import MSD

from .conftest import names_of, put_json
from .downloads import put_case

TASK = "Task04_Hippocampus"
SPLIT_OF = {"h_1": "training", "h_2": "validation", "h_3": "reported", "h_4": "test"}
FILES = [f"{folder}/{case}.nii.gz" for case, folder in itertools.product(SPLIT_OF, ("imagesTr", "labelsTr"))]


class Mirrors:
    """A task of four small cases, made here, and a server with its archive in two places that counts what is asked."""

    def __init__(self, folder: Path) -> None:
        self.task = folder / TASK
        self.asked = list[str]()
        for seed, case in enumerate(SPLIT_OF):
            put_case(self.task / f"imagesTr/{case}.nii.gz", self.task / f"labelsTr/{case}.nii.gz", seed)
        self.list = folder / "list.json"
        content: dict[str, Any] = {"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}
        for case, split in SPLIT_OF.items():
            line = {"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz"}
            sha256s = [hashlib.sha256((self.task / file).read_bytes()).hexdigest() for file in line.values()]
            content[split] = [{**line, "sha256": sha256s}]
        self.list.write_text(json.dumps(content))
        self.archives = [folder / name / f"{TASK}.tar" for name in ("first", "second")]
        for archive in self.archives:
            archive.parent.mkdir()
            with tarfile.open(archive, "w") as tar:
                tar.add(self.task, TASK)
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path.split("/")[1])
                super().do_GET()

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.addresses = tuple(f"http://127.0.0.1:{self.server.server_port}/{name}" for name in ("first", "second"))

    def pack(self, files: dict[str, bytes], number: int = 0) -> None:
        with tarfile.open(self.archives[number], "w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    def content(self) -> dict[str, bytes]:
        return {f"{TASK}/{file}": (self.task / file).read_bytes() for file in FILES}


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirrors]:
    mirrors = Mirrors(tmp_path / "server")
    monkeypatch.setattr(msd, "LISTS", {TASK: mirrors.list})
    monkeypatch.setattr(msd, "MIRRORS", mirrors.addresses)
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    for variable in ("FREQBENCH_DATA", "FREQBENCH_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    with mirrors.server as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield mirrors
        server.shutdown()
        thread.join()


def hippocampus(**keys: Any) -> Any:
    return config.validate({"name": "hippocampus", "task": "hippocampus", **keys}, MSD, where="job.yaml")


def cases(**keys: Any) -> list[str]:
    return names_of(hippocampus(**keys))


def left(cache: Path) -> list[str]:
    """The files of the cache that are no locks or marks."""
    return sorted(path.name for path in (cache / "files").rglob("*") if path.is_file() and path.suffix != ".lock")


def test_archive_is_fetched_once_and_then_needs_no_server(mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cases(split="training") == ["h_1"]
    msd._fetch_task.cache_clear()  # as another process has it
    monkeypatch.setattr(msd, "MIRRORS", ("http://127.0.0.1:9",))
    assert [cases(split=split) for split in ("validation", "reported", "test")] == [["h_2"], ["h_3"], ["h_4"]]
    assert Path(hippocampus(split="test")._root(), FILES[0]).read_bytes() == (mirrors.task / FILES[0]).read_bytes()
    assert mirrors.asked == ["first"]


@pytest.mark.integration
def test_two_processes_at_once_fetch_the_archive_once(mirrors: Mirrors) -> None:
    code = (
        "import sys; from pathlib import Path; from freqbench.data.loaders import msd\n"
        "msd.LISTS, msd.MIRRORS = {msd.task_of(4): Path(sys.argv[1])}, (sys.argv[2],)\n"
        "print([ref.case_id for ref in msd.MSD(name='x', task=4, split='test').refs()])"
    )
    command = [sys.executable, "-c", code, str(mirrors.list), mirrors.addresses[0]]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in processes] == ["['h_4']"] * 2
    assert mirrors.asked == ["first"]


@pytest.mark.parametrize("harm", ["damaged", "deleted", "cleared"])
def test_a_copy_that_is_gone_or_damaged_is_fetched_again(mirrors: Mirrors, harm: str) -> None:
    copy = Path(hippocampus()._root(), FILES[0])
    if harm == "cleared":  # beside a process that goes on
        node_cache.clear("files")
    else:
        copy.write_bytes(b"damaged") if harm == "damaged" else copy.unlink()
        msd._fetch_task.cache_clear()
    assert Path(hippocampus()._root(), FILES[0]).read_bytes() == (mirrors.task / FILES[0]).read_bytes()
    assert mirrors.asked == ["first"] * 2


@pytest.mark.parametrize("kind", ["folder", "URI"])
@pytest.mark.parametrize("name", [TASK, "hippocampus"])
def test_a_folder_of_ones_own_comes_first(
    mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    data = str(tmp_path / "data") if kind == "folder" else f"memory://{tmp_path.name}-{name}"
    for file in FILES:
        storage.write_atomic(f"{data}/{name}/{file}", (mirrors.task / file).read_bytes())
    monkeypatch.setenv("FREQBENCH_DATA", data)
    assert (hippocampus()._root(), cases(split="test"), mirrors.asked) == (f"{data}/{name}", ["h_4"], [])
    monkeypatch.delenv("FREQBENCH_DATA")
    assert cases(split="test") == ["h_4"]
    assert mirrors.asked == ["first"], "a variable that changes is honoured"


def test_changed_file_of_ones_own_is_refused(mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(mirrors.task, tmp_path / "data" / TASK)
    put_case(tmp_path / "data" / TASK / FILES[0], tmp_path / "unused.nii.gz", 99)
    monkeypatch.setenv("FREQBENCH_DATA", str(tmp_path / "data"))
    got = r"expected sha256 \w{12}\.\.\., got \w{12}\.\.\.: it is damaged or of another"
    with pytest.raises(DataError, match=rf"{TASK}/imagesTr/h_1.nii.gz: {got}"):
        cases(split="training")
    assert cases(split="test") == ["h_4"]


def _lacking(mirrors: Mirrors, **member: Any) -> None:
    """Packs all but one file, and in its place a member of the archive of another kind."""
    mirrors.pack({name: content for name, content in mirrors.content().items() if not name.endswith(FILES[2])})
    if member:
        with tarfile.open(mirrors.archives[0], "a") as tar:
            placed = tarfile.TarInfo(f"{TASK}/{FILES[2]}")
            for name, value in member.items():
                setattr(placed, name, value)
            tar.addfile(placed)


SPARSE = {"GNU.sparse.map": f"{10**14},0", "GNU.sparse.size": str(10**14)}
HARMS: dict[str, tuple[Callable[[Mirrors], object], str]] = {
    "short": (lambda made: made.archives[0].write_bytes(made.archives[0].read_bytes()[:3000]), "truncated header"),
    "no archive": (lambda mirrors: mirrors.archives[0].write_bytes(b"<html>moved</html>" * 100), "header"),
    "wrong file": (
        lambda mirrors: mirrors.pack(mirrors.content() | {f"{TASK}/{FILES[-1]}": b"another"}),
        f"{FILES[-1]}: expected sha256 ",
    ),
    "lacking": (_lacking, f"expected {FILES[2]}, found none"),
    "link": (
        lambda mirrors: _lacking(mirrors, type=tarfile.SYMTYPE, linkname="/etc/hostname"),
        f"expected {FILES[2]}, found none",
    ),
    "sparse": (lambda mirrors: _lacking(mirrors, pax_headers=SPARSE), f"expected {FILES[2]}, found none"),
    "gone": (lambda mirrors: mirrors.archives[0].unlink(), "HTTP Error 404: File not found"),
}


every_harm = pytest.mark.parametrize("harm", HARMS)


@every_harm
def test_a_wrong_archive_is_one_line_and_leaves_nothing(
    mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    change, text = HARMS[harm]
    change(mirrors)
    monkeypatch.setattr(msd, "MIRRORS", mirrors.addresses[:1])
    with pytest.raises(MissingDataError) as error:
        cases()
    assert f"found neither; tried {mirrors.addresses[0]}/{TASK}.tar (" in str(error.value)
    assert text in str(error.value)
    assert left(tmp_path / "cache") == []


@every_harm
def test_the_next_mirror_is_asked_after_a_wrong_archive(mirrors: Mirrors, harm: str) -> None:
    HARMS[harm][0](mirrors)
    assert (cases(split="test"), mirrors.asked) == (["h_4"], ["first", "second"])


def test_names_that_lead_out_of_the_archive_write_nothing_there(mirrors: Mirrors, tmp_path: Path) -> None:
    hostile = {f"../../{TASK}/{FILES[0]}": b"x", f"{tmp_path}/evil/passwd": b"x", f"./{TASK}/._x": b"x"}
    mirrors.pack(hostile | {f"/{name}": content for name, content in mirrors.content().items()})
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert cases(split="test") == ["h_4"]
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    folder = Path(hippocampus()._root())
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == sorted(FILES)


@pytest.mark.parametrize("offline", ["", "1"])
def test_no_way_out_is_a_line(mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str) -> None:
    monkeypatch.setattr(msd, "MIRRORS", ("http://127.0.0.1:9",))
    monkeypatch.setenv("FREQBENCH_OFFLINE", offline)
    monkeypatch.setenv("FREQBENCH_DATA", str(tmp_path / "data"))
    with pytest.raises(MissingDataError) as error:
        cases()
    problem = "FREQBENCH_OFFLINE is set" if offline else "<urlopen error [Errno 111] Connection refused>"
    assert str(error.value) == (
        f"hippocampus: set FREQBENCH_DATA (now {tmp_path / 'data'}) to a folder with {TASK} or hippocampus, give "
        "`root`, or run once with internet: expected one of them, found neither; tried "
        f"http://127.0.0.1:9/{TASK}.tar ({problem})"
    )
    assert left(tmp_path / "cache") == []
    dataset = hippocampus(split="test")
    assert (dataset.class_names, dataset.listed_cases()) == (("background", "Anterior", "Posterior"), 1)


def test_other_task_is_looked_for_by_name(mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_DATA", str(tmp_path))
    with pytest.raises(MissingDataError) as error:
        MSD(name="x", task="spleen").refs()
    assert str(error.value) == (
        f"x: set FREQBENCH_DATA (now {tmp_path}) to a folder with Task09_Spleen or spleen, give `root`, or "
        "unpack Task09_Spleen.tar there: expected one of them, found neither; it is at "
        f"{mirrors.addresses[0]}/Task09_Spleen.tar"
    )
    shutil.copytree(mirrors.task, tmp_path / "spleen")
    shutil.copy(mirrors.list, tmp_path / "spleen/dataset.json")
    assert names_of(MSD(name="x", task="spleen")) == ["h_1"]
    assert mirrors.asked == []


def test_a_job_with_root_reads_the_folders_own_list(mirrors: Mirrors, tmp_path: Path) -> None:
    lines = json.loads(mirrors.list.read_text())
    put_json(mirrors.task / "dataset.json", {**lines, "training": lines["test"]})
    root = str(mirrors.task.parent)
    for task in (TASK, 4, "hippocampus"):
        assert cases(task=task, root=root) == ["h_4"]
    assert cases(root=root, list="freqbench") == ["h_1"]
    shutil.copy(mirrors.task / "dataset.json", tmp_path / "mine.json")
    assert (cases(list=str(tmp_path / "mine.json")), mirrors.asked) == (["h_4"], ["first"])


def test_a_job_runs_on_data_by_name(mirrors: Mirrors, tmp_path: Path) -> None:
    datasets = [{"name": "hippocampus", "loader": "msd", "task": "hippocampus", "split": "test", "pad_to": [16] * 3}]
    summary = tiny_job.execute(tiny_job.small(datasets=datasets, metrics=["dsc"]), tmp_path / "out")
    assert (summary.num_new > 0, summary.num_failed, mirrors.asked) == (True, 0, ["first"])


@pytest.mark.usefixtures("mirrors")
def test_plan_names_what_lacks_and_run_refuses(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_OFFLINE", "1")
    datasets = [{"name": "hippocampus", "loader": "msd", "task": "hippocampus"}]
    path = tiny_job.write(tmp_path, tiny_job.small(datasets=datasets))
    code, out, _ = bench("plan", path)
    assert code == 0
    assert "missing: dataset hippocampus: set FREQBENCH_DATA (now " in out
    assert f"found neither; tried {msd.MIRRORS[0]}/{TASK}.tar (FREQBENCH_OFFLINE is set)" in refused(bench, "run", path)


# The list of the package and the real volumes
@pytest.fixture
def real(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the real task's volumes, which FREQBENCH_DATA leads to."""
    monkeypatch.setenv("FREQBENCH_DATA", str(shared / "data"))
    return shared / "data" / "hippocampus"


def test_the_splits_of_the_package_are_those_of_the_reports(real: Path) -> None:
    theirs, ours = (json.loads(path.read_text()) for path in (real / "dataset.json", SPLITS / "msd_hippocampus.json"))
    slices = {"validation": slice(0, 30), "reported": slice(30, 40), "test": slice(40, 60)}
    expected = {"training": theirs["training"]} | {key: theirs["validation"][part] for key, part in slices.items()}
    for split, lines in expected.items():
        assert [{"image": line["image"], "label": line["label"]} for line in ours[split]] == lines
    assert ours["labels"] == theirs["labels"]
    for file, sha256 in msd._sha256s(str(SPLITS / "msd_hippocampus.json")).items():
        assert hashlib.sha256((real / file).read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize(("split", "part"), [("training[0:3]", "training[0:3]"), ("test[0:3]", "validation[40:43]")])
@pytest.mark.usefixtures("real")
def test_cases_by_name_are_those_of_the_folder(split: str, part: str) -> None:
    """Names, patients, grids and content alike, and so are arrays, classes and tolerances."""
    by_name = hippocampus(split=split)
    in_folder = Decathlon(name="x", root="${FREQBENCH_DATA}/hippocampus", split=part, intensity="percentile")
    assert by_name.refs() == in_folder.refs()
    assert by_name.whole_recipe() | {"loader": ""} == in_folder.whole_recipe() | {"loader": ""}
    assert by_name.classes.tolerances_mm == in_folder.classes.tolerances_mm
    for ref in by_name.refs():
        ours = by_name.load(ref)
        theirs = in_folder.load(ref)
        assert torch.equal(ours.image, theirs.image)
        assert torch.equal(ours.label, theirs.label)
