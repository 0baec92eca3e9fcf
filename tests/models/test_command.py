"""A command as a model: scripts that tests write stand for a user's tool."""

import hashlib
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from engine.cases import case_of
from models import nifti_tool
from models.conftest import refused

from freqbench.core.errors import UserError
from freqbench.core.files import programs
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.plugins import trusting
from freqbench.core.types import Case
from freqbench.engine.ray import ray_cleanup
from freqbench.models import ModelEntry, SegmentationModel, load, resolve
from freqbench.models.sources import command
from freqbench.models.sources.command import SOURCE

SHAPE = (5, 6, 7)
THRESHOLD = nifti_tool.script("value > 50")


def entry(folder: Path, script: str = THRESHOLD, **more: Any) -> ModelEntry:
    """A command that runs a script with the paths of image and labels."""
    tool = folder / "tool.py"
    tool.write_text(textwrap.dedent(script))
    return ModelEntry(name="tool", command=(sys.executable, str(tool), "{image}", "{labels}"), **more)


def model(folder: Path, script: str = THRESHOLD, **more: Any) -> SegmentationModel:
    with trusting():
        return load(resolve(entry(folder, script, **more), num_classes=2), torch.device("cpu"))


@pytest.fixture
def case() -> Case:
    """A volume of 0 to 100 in its own unit, in a grid that is turned and shifted."""
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    affine = np.array([[1.0, 0, 0, -5], [0, 2, 0, 7], [0, 0, 3, 9], [0, 0, 0, 1]])
    grid = {"spacing": (1.0, 2.0, 3.0), "original_spacing": (1.0, 2.0, 3.0), "affine": affine}
    return case_of(image, torch.zeros(1, *SHAPE), native_ranges=((-100.0, 200.0),), **grid)


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Folder for temporary files, in which no file stays."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("axes", ["HWD", "-H-DW", "D-WH"])
def test_command_sees_the_cases_unit_and_labels_come_back(tmp_path: Path, case: Case, axes: str) -> None:
    logits = model(tmp_path, input={"axes": axes}).for_case(case)(case.image[None])
    assert torch.equal(logits.argmax(dim=1), (300 * case.image - 100 > 50).long())


def test_voxels_keep_their_place_in_millimetres(tmp_path: Path, case: Case) -> None:
    script = """
        import nibabel as nib, numpy as np, sys
        image = nib.load(sys.argv[1])
        assert np.allclose(image.get_qform(), image.get_sform())
        places = nib.affines.apply_affine(image.affine, np.moveaxis(np.indices(image.shape), 0, -1))
        labels = ((places[..., 0] < -3) & (places[..., 2] > 15)).astype(np.uint8)
        nib.save(nib.Nifti1Image(labels, image.affine), sys.argv[2])
    """
    logits = model(tmp_path, script, input={"axes": "-D-WH"}).for_case(case)(case.image[None])
    wanted = torch.zeros(SHAPE, dtype=torch.long)
    wanted[:2, :, 3:] = 1
    assert torch.equal(logits.argmax(dim=1)[0], wanted)


OF_ITK = """
    import SimpleITK as sitk, sys
    image = sitk.ReadImage(sys.argv[1])
    assert sys.argv[1].endswith({suffix!r}) and sys.argv[2].endswith({suffix!r})
    places = [image.TransformIndexToPhysicalPoint(index) for index in ((0, 0, 0), (1, 0, 0))]
    assert places == [(5, -7, 9), (4, -7, 9)], places  # left and posterior, in millimetres
    sitk.WriteImage(sitk.Cast(image > 50, sitk.sitkUInt8), sys.argv[2])
"""


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii"])
def test_a_command_gets_and_writes_files_of_its_format(tmp_path: Path, case: Case, suffix: str) -> None:
    logits = model(tmp_path, OF_ITK.format(suffix=suffix), format=suffix).for_case(case)(case.image[None])
    assert torch.equal(logits.argmax(dim=1), (300 * case.image - 100 > 50).long())


def test_format_is_part_of_identity_unless_it_is_usual_one(tmp_path: Path) -> None:
    with trusting():
        usual, mha = (resolve(entry(tmp_path, **keys), 2).model_id for keys in ({}, {"format": ".mha"}))
    assert usual != mha


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("image = sitk.Image(5, 6, 8, sitk.sitkUInt8)", "expected the image's (5, 6, 7) voxels, got (5, 6, 8)"),
        ("image = sitk.Image(image.GetSize(), sitk.sitkUInt8)", "expected the image's grid, got another affine"),
        ("image = sitk.Compose(image, image)", "expected the image's (5, 6, 7) voxels, got (5, 6, 7, 2)"),
        ("image += 7", "expected whole numbers 0 to 1, got"),
        ("open(sys.argv[2], 'w').write('x'); sys.exit()", "expected a .mha file, got "),
    ],
)
def test_command_writing_another_file_is_refused(tmp_path: Path, case: Case, script: str, text: str) -> None:
    lines = ("import SimpleITK as sitk, sys", "image = sitk.ReadImage(sys.argv[1])", script)
    tool = model(tmp_path, "\n".join((*lines, "sitk.WriteImage(image, sys.argv[2])")), format=".mha").for_case(case)
    with pytest.raises(UserError, match=re.escape(text)):
        tool(case.image[None])


WRITES = "import nibabel as nib, numpy as np, sys; image = nib.load(sys.argv[1])\n"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("print('no licence\\n'); raise SystemExit(3)", "expected exit code 0, got 3: it last said 'no licence'"),
        ("import os; os.kill(os.getpid(), 9)", "expected exit code 0, got -9"),
        ("print('done')", "expected a label map at {labels}, found none: it last said 'done'"),
        (
            WRITES + "nib.save(nib.Nifti1Image(np.zeros((5, 6, 8), 'u1'), image.affine), sys.argv[2])",
            "{labels}: expected the image's (5, 6, 7) voxels, got (5, 6, 8)",
        ),
        (
            WRITES + "nib.save(nib.Nifti1Image(np.zeros(image.shape, 'u1'), np.eye(4)), sys.argv[2])",
            "{labels}: expected the image's grid, got another affine",
        ),
        (
            WRITES + "nib.save(nib.Nifti1Image(np.full(image.shape, 2, 'u1'), image.affine), sys.argv[2])",
            "{labels}: expected whole numbers 0 to 1, got 2 to 2",
        ),
        (
            WRITES + "nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, 'f4'), image.affine), sys.argv[2])",
            "{labels}: expected whole numbers 0 to 1, got nan to nan",
        ),
        ("import sys; open(sys.argv[2], 'w').write('x')", "{labels}: expected a NIfTI file, got "),
    ],
)
def test_a_command_that_fails_is_one_line(tmp_path: Path, case: Case, script: str, text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        model(tmp_path, script).for_case(case)(case.image[None])


def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path, case: Case) -> None:
    script = f"echo loading; sleep 60 & echo $! > {tmp_path}/pid; sleep 60"
    hanging = ModelEntry(name="tool", command=("sh", "-c", script, "{image}", "{labels}"), timeout=1)
    with trusting():
        sleeper = load(resolve(hanging, num_classes=2), torch.device("cpu")).for_case(case)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"expected an end within 1 s, got none: it last said 'loading': set timeout"):
        sleeper(case.image[None])
    assert time.monotonic() - started < 30
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_command_knows_no_regions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected outputs: softmax for command, got sigmoid: it knows no regions$"):
        model(tmp_path, outputs="sigmoid")


def ends(process: int) -> bool:
    for _ in range(100):
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:  # killed; nobody has waited for it yet
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


_CALLS = """
import sys, torch
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.models.entry import InputAdapter
from freqbench.models.sources.command import Command
from types import SimpleNamespace
import numpy as np
case = SimpleNamespace(native_ranges=((0.0, 1.0),), affine=np.eye(4))
Command(sys.argv[1:], 2, 60.0)(torch.rand(1, 1, 4, 4, 4), case, InputAdapter())
"""


@pytest.mark.parametrize(
    "by_its_driver_s_end",
    [pytest.param(False, marks=pytest.mark.integration), pytest.param(True, marks=pytest.mark.slow)],
)
def test_a_command_and_its_files_go_with_a_caller_that_is_killed(tmp_path: Path, by_its_driver_s_end: bool) -> None:
    """SIGKILL, which no code of the caller sees; also what the command started, and files that it goes on to write."""
    place = tmp_path / "temporary"
    said = tmp_path / "pid"
    writes = "for n in $(seq 600); do date > file; sleep 0.1; done"
    words = ("sh", "-c", f"({writes}) & echo $! $$ > {said}.new; mv {said}.new {said}; sleep 60", "{image}", "{labels}")
    variables = {**os.environ, "TMPDIR": str(place), ray_cleanup.MARK: str(tmp_path)}
    caller = subprocess.Popen([sys.executable, "-c", _CALLS, *words], env=variables)
    while not said.exists():
        assert caller.poll() is None
        time.sleep(0.05)
    assert len(list(place.iterdir())) == 1
    for process in ray_cleanup.marked_processes(str(tmp_path)) if by_its_driver_s_end else (caller,):
        with suppress(psutil.NoSuchProcess):  # a `sleep` of the command that has ended meanwhile
            process.kill()
    caller.wait()
    assert all(ends(int(process)) for process in said.read_text().split())
    for _ in range(100):
        if not list(place.iterdir()):
            return
        time.sleep(0.05)
    pytest.fail("the command's folder is left")


def test_identity_of_a_command_depends_on_its_files_alone(tmp_path: Path) -> None:
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
    with trusting():
        first, moved, other = (
            resolve(each, num_classes=2).model_id
            for each in (
                entry(tmp_path),
                entry(tmp_path / "b", timeout=5),
                entry(tmp_path / "c", THRESHOLD.replace("50", "51")),
            )
        )
    assert first == moved != other


def test_space_of_a_command_is_the_files_grid_or_the_jobs(tmp_path: Path) -> None:
    with trusting():
        spaces = [
            resolve(entry(tmp_path, **more), num_classes=2, space=Preprocess(spacing=(2, 2, 2))).space
            for more in ({}, {"preprocess": {"spacing": (1, 1, 1), "intensity": {"window": (0, 9)}}})
        ]
    assert [(space.spacing, space.intensity) for space in spaces if space] == [
        (None, "minmax"),
        ((1.0, 1.0, 1.0), {"window": (0, 9)}),
    ]


def test_a_stored_job_holds_the_same_command(tmp_path: Path) -> None:
    entries = entry(tmp_path, input={"axes": "WHD"}, class_map={1: [1]}), ModelEntry(name="m", checkpoint="a.pt")
    for written in entries:
        assert ModelEntry.model_validate_json(written.model_dump_json()) == written


def test_command_needs_trust_and_a_program(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --trust-code"):
        resolve(entry(tmp_path), num_classes=2)
    with trusting():
        refused(
            ModelEntry(name="tool", command=("no-such-tool", "{image}", "{labels}")),
            "no-such-tool: expected a program, found none",
        )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"command": ["tool", "{image}"]}, "expected {labels} in a word of the command"),
        ({"command": ["tool", "{image}", "{labels}"], "arch": "unet"}, "expected arch: command beside a command"),
        ({"command": ["tool", "{image}", "{labels}"], "roi": [8, 8, 8]}, "expected a command without roi"),
        ({"command": ["tool", "{image}", "{labels}"], "checkpoint": "a.pt"}, "got checkpoint and command"),
        ({"command": ["tool", "{image}", "{labels}"], "input": {"std": 2}}, "expected input of a command to hold axes"),
        ({"arch": "command", "checkpoint": "a.pt"}, "expected command: "),
        ({"checkpoint": "a.pt", "timeout": 3}, "expected command: "),
    ],
)
def test_keys_that_do_not_go_together_are_refused(content: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match="validation error") as caught:
        ModelEntry(name="m", **content)
    assert text in str(caught.value)


def _write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        place = folder / name.replace("__", "/").replace("_", ".")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


def _sha256(*words: str) -> str:
    with trusting():
        return SOURCE.sha256(" ".join(words), {})


@pytest.mark.parametrize(
    "name",
    ["helper.py", "weights.npy", "settings.toml", "own/__init__.py", "own/deep/code.py", "atlas/mean.npy", "sub"],
)
def test_files_beside_a_script_count(tmp_path: Path, name: str) -> None:
    _write(tmp_path, tool_py="import helper, own\nopen('atlas/mean.npy')")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    seen = set()
    for text in ("1", "2"):
        (tmp_path / name).write_text(text)
        seen.add(_sha256(sys.executable, f"{tmp_path}/tool.py"))
    assert len(seen) == 2


@pytest.mark.parametrize(
    "name",
    [
        *("__pycache__/helper.pyc", ".git/HEAD", "LICENSE", "tool.log", "README.md", "venv/lib/a.py", "job.yaml"),
        *("out/records/a.parquet", "cache/volumes/a.safetensors", "scans/a.nii.gz"),  # no script names the scan
    ],
)
def test_files_left_beside_a_script_do_not_count(tmp_path: Path, name: str) -> None:
    _write(tmp_path, tool_py="out, cache, venv, job", venv__pyvenv_cfg="", cache__volumes__a="")
    (tmp_path / "cache/freqbench-cache.txt").touch()
    (tmp_path / "out/leases").mkdir(parents=True)
    before = _sha256(sys.executable, f"{tmp_path}/tool.py")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("models: []\ndatasets: []\n")
    assert _sha256(sys.executable, f"{tmp_path}/tool.py") == before


def test_the_hash_of_a_lone_script_is_that_of_its_words_as_ever(tmp_path: Path) -> None:
    _write(tmp_path, tool_py="pass")
    words = [sys.executable, str(tmp_path / "tool.py"), "{image}"]
    parts = [*(hashlib.sha256(Path(word).read_bytes()).hexdigest() for word in words[:2]), words[2]]
    assert _sha256(*words) == hashlib.sha256(digest(parts).encode()).hexdigest()


def test_file_behind_an_equals_sign_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("1")
    before = _sha256("true", "--config=a.yaml")
    (tmp_path / "a.yaml").write_text("2")
    assert _sha256("true", "--config=a.yaml") != before
    assert command._words("true --config=a.yaml")[1] == f"--config={tmp_path}/a.yaml"


def test_a_folder_among_the_words_counts(tmp_path: Path) -> None:
    seen = set()
    for text in ("1", "2"):
        _write(tmp_path, model__fold__weights_pth=text)
        seen |= {_sha256("true", "-m", f"{tmp_path}/model"), _sha256("true", f"--model={tmp_path}/model")}
    assert len(seen) == 4


def test_a_program_that_a_shell_script_calls_beside_it_counts(tmp_path: Path) -> None:
    seen = set()
    for text in ("1", "2"):
        _write(tmp_path, run_sh="#!/bin/sh\npython $(dirname $0)/predict.py", predict_py=text)
        seen.add(_sha256("sh", f"{tmp_path}/run.sh"))
    assert len(seen) == 2


@pytest.mark.parametrize("words", [("-m", "own.predict"), ("TOOL",)])
def test_a_module_on_pythonpath_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    _write(tmp_path, bin__tool_py="import sys, own as o", lib__other_py="", lib__own__predict_py="import own.helper")
    (tmp_path / "lib/own/__init__.py").touch()
    given = [word.replace("TOOL", f"{tmp_path}/bin/tool.py") for word in words]
    seen = set()
    for text in ("1", "2"):
        _write(tmp_path, lib__own__helper_py=text)
        seen.add(_sha256(sys.executable, *given))
    assert len(seen) == 2


def test_an_installed_package_counts_by_its_release() -> None:
    with trusting():
        content, _ = command._further_content([sys.executable, "-m", "nibabel.cmdline.ls"])
        assert command._further_content([sys.executable, "-m", "json.tool"]) == ({}, ())
    assert content == {"nibabel": [f"nibabel {version('nibabel')}"]}
    with pytest.raises(UserError, match="needs --trust-code"):
        SOURCE.sha256(f"{sys.executable} -m nibabel", {})


def test_files_named_by_scripts_count_if_a_folder_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MOST_FILES", 4)
    words = sys.executable, f"{tmp_path}/tool.py", "{image}", "{labels}"
    _write(tmp_path, tool_py="import helper", helper_py="open('net.pt')", **{f"letter{k}_doc": "" for k in range(5)})
    seen = [_sha256(*words)]
    for name in ("letter1_doc", "helper_py", "net_pt"):
        _write(tmp_path, **{name: "open('net.pt'), 2"})
        seen.append(_sha256(*words))
    assert [before == after for before, after in pairwise(seen)] == [True, False, False]
    with trusting():
        facts = SOURCE.facts(ModelEntry(name="tool", command=words, classes=2), " ".join(words), 2, 1)
    text = f"{tmp_path} holds more than a program: of it, only files count that the scripts there name"
    assert facts.notes == (text,)
