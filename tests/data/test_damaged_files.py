"""Any damaged file of any format is read, or refused in one line that says what it is and what to do."""

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from freqbench.core.errors import DataError
from freqbench.data import image_files

from .downloads import LPS, VOXELS
from .itk_files import put_itk

FORMATS = (".nii", ".nii.gz", ".hdr", ".nrrd", ".mha", ".gipl", ".mgh", ".mgz")
SEEDS = range(20)
MOST_TAKEN = 256 * 2**20  # bytes of memory, for files of some 4 kB
HEADER = 348

pytestmark = pytest.mark.filterwarnings("error")  # of a library: it names no file

Damage = Callable[[bytes, np.random.Generator], bytes]


def put_file(path: Path) -> None:
    if path.suffix in (".mgh", ".mgz"):
        nibabel.save(nibabel.MGHImage(VOXELS, LPS), path)
    else:
        put_itk(path, VOXELS, LPS, packed=path.suffix == ".nrrd")


def flip(content: bytes, random: np.random.Generator) -> bytes:
    flipped = bytearray(content)
    for _ in range(random.integers(1, 9)):
        flipped[random.integers(min(len(flipped), HEADER))] ^= 1 << int(random.integers(8))
    return bytes(flipped)


def zero(content: bytes, random: np.random.Generator) -> bytes:
    start = int(random.integers(HEADER))
    return content[:start] + bytes(40) + content[start + 40 :]


def insert(content: bytes, random: np.random.Generator) -> bytes:
    start = int(random.integers(HEADER))
    return content[:start] + random.bytes(8) + content[start:]


# Each changes what a file holds, unpacked if it is packed as a whole.
INSIDE: dict[str, Damage] = {
    "bits of the header": flip,
    "zeros in the header": zero,
    "bytes too many": insert,
    "unpacked and short": lambda content, random: content[: random.integers(len(content))],
}
REFUSAL = re.compile(r"expected .+, (got|found) .+: .+|(an? |(not )?packed by gzip)[^:]+: .+")


def peak(begin: bool) -> int:
    """Bytes of memory: the most since the last begin, which starts to count anew."""
    if begin:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = re.findall(r"VmHWM:\s+([0-9]+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(line)


def refusals(path: Path) -> list[str]:
    """The lines that refuse a file, if it is not read; fails for any other end, and for much memory."""
    lines = list[str]()
    before = peak(begin=True)
    for read in (
        image_files.check_length,
        lambda path: image_files.read_image(image_files.read_header(path, multichannel=True)),
        lambda path: image_files.read_integers(image_files.read_header(path)),
    ):
        try:
            read(path)
        except DataError as error:
            lines.append(str(error))
    assert peak(begin=False) - before < MOST_TAKEN
    for line in lines:
        assert line.startswith(f"{path}: ")
        assert "\n" not in line
        assert REFUSAL.fullmatch(line.removeprefix(f"{path}: "))
    return lines


every_format = pytest.mark.parametrize("suffix", FORMATS)


@every_format
@pytest.mark.parametrize("kind", INSIDE)
def test_a_file_of_damaged_content_is_read_or_refused_in_a_line(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    put_file(path)
    is_packed = suffix.endswith("gz")
    sound = path.read_bytes()
    for seed in SEEDS:
        content = gzip.decompress(sound) if is_packed else sound
        content = INSIDE[kind](content, np.random.default_rng(seed))
        path.write_bytes(gzip.compress(content) if is_packed else content)
        refusals(path)


@every_format
# Each changes the file itself.
@pytest.mark.parametrize(
    ("kind", "damage"),
    {
        "truncated": lambda content, random: content[: random.integers(len(content))],
        "flipped anywhere": lambda content, random: bytes([*content[:-9], content[-9] ^ 4, *content[-8:]]),
        "zero bytes": lambda content, random: bytes(len(content)),
        "empty": lambda content, random: b"",
        "random": lambda content, random: random.bytes(len(content)),
        "a text": lambda content, random: b"Patient 7 moved, scan again.\nSee the other folder.\n" * 9,
        "gzip of gzip": lambda content, random: gzip.compress(gzip.compress(content)),
        "a packed HTML page": lambda content, random: gzip.compress(b"<html><body>Log in</body></html>"),
    }.items(),
)
def test_a_damaged_file_is_refused_in_a_line(tmp_path: Path, kind: str, damage: Damage, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    put_file(path)
    path.write_bytes(damage(path.read_bytes(), np.random.default_rng(0)))
    lines = refusals(path)
    assert lines or kind == "flipped anywhere"  # of raw voxels, nothing tells
    if kind == "a packed HTML page":
        what = "an HTML page" if "gz" in suffix else "packed by gzip, which"
        assert all(line.startswith(f"{path}: {what}") for line in lines)


@every_format
@pytest.mark.parametrize("other", FORMATS)
def test_a_file_of_another_format_s_name_is_refused_in_a_line(tmp_path: Path, suffix: str, other: str) -> None:
    path = tmp_path / f"b{other}"
    put_file(tmp_path / f"a{suffix}")
    path.write_bytes((tmp_path / f"a{suffix}").read_bytes())
    assert refusals(path) or suffix == other


@every_format
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (Path.mkdir, "expected a file, got a folder"),
        (os.mkfifo, "expected a file, got something else"),
        (lambda path: path.symlink_to("nowhere"), "expected a file, got nothing"),
        (lambda path: path.with_name("other").touch(), "expected a file, got nothing"),
    ],
    ids=["folder", "pipe", "broken link", "no file"],
)
def test_folder_pipe_or_link_is_refused(tmp_path: Path, suffix: str, make: Callable[[Path], object], text: str) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)
    assert all(text in line for line in refusals(path))
