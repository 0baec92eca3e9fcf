"""Runs a command as a model: a volume goes in as a file, a label map comes back; no gradient, no logits. It gets the
case's grid and unit, a folder of its own, no shell, and ends with this process, unless it leaves its process group."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqbench.core.errors import CheckpointError, UserError, one_line
from freqbench.core.files import programs, storage
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.plugins import require_trust
from freqbench.core.types import Case, Shape
from freqbench.models.entry import COMMAND, IMAGE, LABELS, InputAdapter, ModelEntry
from freqbench.models.sources.source import Facts, Source
from freqbench.models.spec import ModelSpec

WHOLE: Shape = (2**15, 2**15, 2**15)  # a window that holds any volume: the sides of NIfTI-1 are 16-bit numbers
OWN_GRID = Preprocess(spacing=None, intensity="minmax", crop_foreground=False)
CERTAIN = 20.0  # logit of the class that the command names, others have 0, so that merged classes keep the label
TIMEOUT = 600.0  # seconds
LINE_BYTES = 4096
NIFTI = (".nii.gz", ".nii")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS+ to the axes of SimpleITK, and back
_GUARD = """exec 3<&0; { trap "" TERM; read -r _ <&3; kill -TERM 0; rm -rf "$0"; kill -KILL 0; } &"""
"""Waits in the background for the end of its input, then ends its process group and removes a folder."""


def facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a command, whose words `path` holds as a shell would read them, by its `entry`: it writes
    labels up to the dataset's `num_classes`, background included, and sees one channel, whatever `num_channels`. Raises
    UserError without trust, CheckpointError for a program that does not exist."""
    require_trust(path)
    _, notes = _further_content(_words(path))
    classes = entry.num_outputs(num_classes) or num_classes
    form = entry.format
    return Facts(
        arch=COMMAND,
        args={"num_classes": classes, "timeout": entry.timeout or TIMEOUT, **({"format": form} if form else {})},
        roi=WHOLE,
        num_classes=classes,
        num_channels=1,
        space=OWN_GRID,
        black_box="a command says labels alone",
        notes=notes,
        knows_axes=True,
    )


def network(spec: ModelSpec) -> nn.Module:
    """Returns the command of `spec` as a network of whole volumes."""
    args = spec.args
    return Command(_words(spec.checkpoint), args["num_classes"], args["timeout"], args.get("format", NIFTI[0]))


def _sha256(path: str, args: Mapping[str, Any]) -> str:
    """Returns the hash of a command's words, of which files count by content, and of the files beside its scripts."""
    words = _words(path)
    further, _ = _further_content(words)
    parts = [before + storage.sha256(file) if file else before for before, file in map(_split_word, words)]
    return sha256(digest([*parts, further] if further else parts).encode()).hexdigest()


def _split_word(word: str) -> tuple[str, str]:
    """Returns what a word says before a file, such as `--config=`, and the file; empty without one."""
    key, equals, value = word.partition("=")
    if Path(word).is_file():
        return "", word
    return (key + equals, value) if equals and Path(value).is_file() else (word, "")


def _further_content(words: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns folders, modules and releases that a command may read beside its words; notes on what counts in part."""
    content = dict[str, Any]()
    notes = list[str]()
    files = [Path(file) for _, file in map(_split_word, words) if file]
    scripts = [file for file in files if programs.is_script(file) and not programs.is_installed(file)]
    folders = dict.fromkeys(own := [file.parent for file in scripts])
    given = (Path(word.rpartition("=")[2]) for word in words)
    folders |= dict.fromkeys(folder for folder in given if folder.is_absolute() and folder.is_dir())
    program = next((word for word in words if re.fullmatch(r"python[\d.]*", Path(word).name)), "")
    options = [*takewhile(lambda word: word not in map(str, scripts), words)]
    packages = [module.partition(".")[0] for word, module in pairwise(options) if program and word == "-m"]
    if (interpreter := programs.shebang(Path(words[0]))) and programs.is_installed(Path(words[0])):
        program = interpreter
        packages = programs.imports_of(Path(words[0])) if "python" in interpreter else []
    if packages:
        require_trust(shlex.join(words))
    for package in packages:
        place = programs.module_place(program, package)
        if isinstance(place, list):
            content |= {package: place} if place else {}
        else:
            folders[place if place.is_dir() else place.parent] = None
    for number, folder in enumerate(folders):
        found = programs.program_files(folder, words if folder in own else None)
        if found is None or folder in (Path.home(), Path(tempfile.gettempdir())):
            found = programs.named_files([file for file in scripts if file.parent == folder], [folder])
            notes.append(f"{folder} holds more than a program: of it, only files count that the scripts there name")
        content |= {f"{number}/{name}": path for name, path in found.items() if path not in files}
    roots = [Path(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    texts = [text for option, text in pairwise(words) if re.fullmatch(r"-\w*c", option)]  # of `bash -c`, `python -c`
    named = programs.named_files(scripts, [root for root in roots if root not in folders], texts)
    content |= {name: path for name, path in named.items() if path not in {*files, *content.values()}}
    hashed = {key: storage.sha256(str(value)) if isinstance(value, Path) else value for key, value in content.items()}
    return hashed, tuple(notes)


class Command(nn.Module):
    """A command as a network: its labels of volumes `[B, 1, H, W, D]` in [0, 1], one-hot and times CERTAIN."""

    takes_volumes = True

    def __init__(self, words: Sequence[str], num_classes: int, timeout: float, suffix: str = NIFTI[0]) -> None:
        super().__init__()
        self.words = tuple(words)
        self.num_classes = num_classes
        self.timeout = timeout
        self.suffix = suffix
        self.place = nn.Parameter(torch.zeros(0), requires_grad=False)  # says the device, which callers ask for

    def forward(self, images: Tensor, case: Case | None, adapter: InputAdapter) -> Tensor:
        """Returns logits `[B, K, H, W, D]` of images `[B, 1, H, W, D]` in [0, 1], volumes of `case`, whose file says
        grid and unit; `adapter` has the axes in which they are written. Raises UserError if the command fails, hangs or
        writes something else."""
        if case is None:
            raise UserError("expected a whole case for a command, got a window alone: use model.for_case(case)")
        labels = torch.stack([self._labels(image, case, adapter) for image in images.detach().cpu()])
        return (CERTAIN * F.one_hot(labels, self.num_classes).movedim(-1, 1)).to(images)

    def _labels(self, image: Tensor, case: Case, adapter: InputAdapter) -> Tensor:
        """Returns the labels `[H, W, D]` of a volume `[1, H, W, D]`."""
        ((low, high),) = case.native_ranges
        voxels = adapter.to_network_axes(image[None] * (high - low) + low)[0, 0].numpy()
        affine = case.affine @ _network_affine(adapter, image.shape[1:])
        with tempfile.TemporaryDirectory(prefix="freqbench-") as folder, _group(folder) as group:
            files = {key: Path(folder, key.strip("{}") + self.suffix) for key in (IMAGE, LABELS)}
            _write(files[IMAGE], voxels, affine)
            self._run(folder, group, files)
            read = self._read(files[LABELS], voxels.shape, affine)
        return adapter.from_network(torch.from_numpy(read)[None, None])[0, 0]

    def _run(self, folder: str, group: int, files: Mapping[str, Path]) -> None:
        words = [word.replace(IMAGE, str(files[IMAGE])).replace(LABELS, str(files[LABELS])) for word in self.words]
        output = Path(folder, "output")
        try:
            with output.open("wb") as stream:
                process = subprocess.Popen(
                    words, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, process_group=group
                )
        except OSError as error:
            raise UserError(f"{words[0]}: cannot be run: {one_line(error)}") from None
        try:
            code = process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            got = f"got none{_last_line(output)}: set timeout"
            raise UserError(f"{words[0]}: expected an end within {self.timeout:g} s, {got}") from None
        finally:
            process.kill()
            process.wait()
        if code:
            raise UserError(f"{words[0]}: expected exit code 0, got {code}{_last_line(output)}")
        if not files[LABELS].is_file():
            raise UserError(f"{words[0]}: expected a label map at {LABELS}, found none{_last_line(output)}")

    def _read(self, file: Path, shape: Sequence[int], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        try:
            written = _open_label_map(file)
            if written.shape != tuple(shape):  # before any voxel is read
                raise UserError(f"expected the image's {tuple(shape)} voxels, got {written.shape}")
            if not np.allclose(written.affine, affine, atol=1e-3):
                raise UserError("expected the image's grid, got another affine")
            values = written.read()
        except UserError as error:
            raise UserError(f"{self.words[0]}: {LABELS}: {error}: write labels on the grid of the image") from None
        except Exception as error:  # noqa: BLE001 (damaged bytes can make nibabel raise anything)
            kind = "NIfTI" if self.suffix in NIFTI else self.suffix
            raise UserError(f"{self.words[0]}: {LABELS}: expected a {kind} file, got {one_line(error, 120)}") from None
        with np.errstate(invalid="ignore"):  # NaN is refused below
            labels = values.astype(np.int64)
        if not ((labels == values) & (labels >= 0) & (labels < self.num_classes)).all():
            got = f"got {values.min():g} to {values.max():g}: set classes, and class_map if they are not the dataset's"
            raise UserError(f"{self.words[0]}: {LABELS}: expected whole numbers 0 to {self.num_classes - 1}, {got}")
        return labels


@contextmanager
def _group(folder: str) -> Iterator[int]:
    """Yields a process group for a command, all of which ends with the block. If this process dies in it, a guard in
    the group does that and removes the folder: no child of this process, as Ray kills a worker's children, and without
    its variables, by which the end of a driver finds the processes of its Ray."""
    quiet = subprocess.DEVNULL
    words = ["/bin/sh", "-c", _GUARD, folder]
    variables = {"PATH": os.environ.get("PATH", os.defpath)}
    shell = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=variables, process_group=0)
    shell.wait()  # it has left the guard behind
    try:
        yield shell.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()  # closes its input


def _words(path: str) -> list[str]:
    """Returns the words of a command, its program and its files with their whole paths."""
    first, *others = shlex.split(path)
    if (program := shutil.which(first)) is None:
        raise CheckpointError(f"{first}: expected a program, found none: install it, or give its path")
    split = map(_split_word, (program, *others))
    return [before + str(Path(file).absolute()) if file else before for before, file in split]


def _network_affine(adapter: InputAdapter, shape: Sequence[int]) -> npt.NDArray[np.float64]:
    """Returns the affine from voxels in the adapter's axes to those of a volume of this shape."""

    def places(ends: Sequence[int]) -> npt.NDArray[np.float64]:
        grid = torch.stack(torch.meshgrid(*(torch.tensor([0.0, end]) for end in ends), indexing="ij"))
        return adapter.to_network_axes(grid[None].double())[0].numpy()  # [3, 2, 2, 2]

    turn = np.eye(4)
    unit = places((1, 1, 1))
    turn[:3, 3] = places([size - 1 for size in shape])[:, 0, 0, 0]
    first = unit[:, 0, 0, 0]
    turn[:3, :3] = np.stack([unit[:, 1, 0, 0] - first, unit[:, 0, 1, 0] - first, unit[:, 0, 0, 1] - first], axis=1)
    return turn


def _last_line(output: Path) -> str:
    """Returns the last line that a command wrote, behind a separator; empty if it wrote none."""
    with output.open("rb") as stream:
        stream.seek(max(0, output.stat().st_size - LINE_BYTES))
        lines = stream.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    printable = "".join(letter if letter.isprintable() else " " for letter in last)
    return f": it last said {printable[:200]!r}" if last else ""


class _OpenedFile(NamedTuple):
    """A label map whose header was read."""

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]  # voxel to world millimetres (RAS+), `[4, 4]`
    read: Callable[[], npt.NDArray[Any]]  # returns its voxels `[H, W, D]`


def _write(path: Path, voxels: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]) -> None:
    """Writes voxels `[H, W, D]` with their affine (RAS+, millimetres) in the format of the file's name."""
    if path.name.endswith(NIFTI):
        import nibabel as nib

        written = nib.Nifti1Image(voxels, affine)
        written.set_qform(affine, 1)  # some tools read this form of the affine alone
        written.header.set_xyzt_units("mm")
        nib.save(written, path)
        return
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    grid = LPS @ affine
    sides = np.linalg.norm(grid[:3, :3], axis=0)
    image.SetSpacing(sides.tolist())
    image.SetDirection((grid[:3, :3] / sides).ravel().tolist())
    image.SetOrigin(grid[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(path))


def _open_label_map(path: Path) -> _OpenedFile:
    """Reads the header of a label map in the format of the file's name; raises whatever the format's library raises."""
    if path.name.endswith(NIFTI):
        import nibabel as nib

        image = nib.load(path)
        return _OpenedFile(image.shape, image.affine, lambda: np.asarray(image.dataobj))
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape = tuple(map(int, reader.GetSize()))
    size = len(reader.GetSize())
    affine = np.eye(4)
    if size == 3:
        affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
        affine[:3, 3] = reader.GetOrigin()
    channels = (reader.GetNumberOfComponents(),) if reader.GetNumberOfComponents() > 1 else ()
    return _OpenedFile((*shape, *channels), LPS @ affine, lambda: SimpleITK.GetArrayFromImage(reader.Execute()).T)


SOURCE = Source(
    facts=facts,
    network=network,
    sha256=_sha256,
    silent=lambda arch, args: ("timeout",),
    runs_code=True,
    is_known=True,
    has_path=False,
)
