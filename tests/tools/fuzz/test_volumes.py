"""Any volume: its header and its voxels may hold anything."""

import gzip
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from data.itk_files import put_itk
from hypothesis import given
from hypothesis import strategies as st
from tiny_job import small, write
from tools.fuzz.hostile_values import assert_rows_are_numbers, refused_or_done, unhurried

from freqbench.core.errors import DataError
from freqbench.data import image_files

pytestmark = pytest.mark.integration

SHAPE = (20, 18, 16)
HEADER = nibabel.Nifti1Header.template_dtype
FIELDS = sorted(HEADER.names or ())
LENGTH = HEADER.itemsize
floats = st.floats(width=32) | st.sampled_from((0.0, -1.0, 1e-3, 1e3, 1e30))


def volume(seed: int, is_label: bool) -> bytes:
    """An uncompressed NIfTI-1 file."""
    generator = np.random.default_rng(seed)
    voxels = np.zeros(SHAPE, np.uint8) if is_label else generator.normal(40, 60, SHAPE).astype(np.float32)
    voxels[5:15, 5:14, 4:12] = 1 if is_label else 150
    return nibabel.Nifti1Image(voxels, np.diag([1.5, 1.5, 2, 1])).to_bytes()


@st.composite
def headers(draw: st.DrawFn, content: bytes) -> bytes:
    """The file with some fields of its header overwritten, in the kind that they have."""
    header = np.frombuffer(content[:LENGTH], HEADER).copy()
    for name in draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)):
        kind, shape = header.dtype[name].base, header.dtype[name].shape
        if kind.kind == "f":
            header[name].flat[draw(st.integers(0, int(np.prod(shape, dtype=int)) - 1))] = draw(floats)
        elif kind.kind in "iu":
            limits = np.iinfo(kind)
            number = draw(st.integers(int(limits.min), int(limits.max)) | st.sampled_from((0, 1, 2, 3, 4)))
            header[name].flat[draw(st.integers(0, int(np.prod(shape, dtype=int)) - 1))] = number
        else:
            header[name] = draw(st.binary(max_size=kind.itemsize))
    return header.tobytes() + content[LENGTH:]


@st.composite
def bodies(draw: st.DrawFn, content: bytes) -> bytes:
    """The file with voxels overwritten, cut, or with more behind its end."""
    kind = draw(st.sampled_from(("voxels", "cut", "more", "header alone")))
    if kind == "cut":
        return content[: draw(st.integers(0, len(content) - 1))]
    if kind == "more":
        return content + draw(st.binary(max_size=50))
    if kind == "header alone":
        return content[:LENGTH]
    place = draw(st.integers(LENGTH + 4, len(content) - 4))
    return content[:place] + draw(st.binary(min_size=1, max_size=4)) + content[place + 4 :]


def files(is_label: bool) -> st.SearchStrategy[bytes]:
    sound = volume(0, is_label)
    return st.just(sound) | headers(sound) | bodies(sound)


TEXTS = (
    b"-1",
    b"0",
    b"4294967296",
    b"nan",
    b"1e308",
    b"\n",
    b"=",
    b":",
    b"LIST",
    b"%d",
    b"\0",
    b"True",
    b"raw",
    b"gzip",
)


@st.composite
def text_headers(draw: st.DrawFn) -> tuple[str, bytes]:
    """The name of a NRRD, MetaImage or GIPL file, and its content with a few places of the header overwritten."""
    suffix, packed = draw(st.sampled_from((".nrrd", ".mha", ".gipl"))), draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder:
        put_itk(Path(folder, f"a{suffix}"), np.arange(480, dtype=np.int16).reshape(6, 8, 10), packed=packed)
        content = Path(folder, f"a{suffix}").read_bytes()
    for _ in range(draw(st.integers(1, 4))):
        place, length = draw(st.integers(0, 400)), draw(st.integers(0, 6))
        content = content[:place] + draw(st.sampled_from(TEXTS) | st.binary(max_size=3)) + content[place + length :]
    return suffix, content


@unhurried
@given(file=text_headers())
def test_a_file_of_another_format_is_read_or_refused_in_a_line(file: tuple[str, bytes]) -> None:
    suffix, content = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{suffix}")
        path.write_bytes(content)
        try:
            image_files.check_length(path)
            assert np.isfinite(image_files.read_image(image_files.read_header(path, multichannel=True))).all()
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017 (most files are refused)


@unhurried
@given(image=files(False), label=files(True), is_packed=st.booleans(), spacing=st.sampled_from((None, [1.5, 1.5, 2])))
def test_volume_is_refused_in_line_or_gives_numbers(image: bytes, label: bytes, is_packed: bool, spacing: Any) -> None:
    folder = Path(tempfile.mkdtemp())
    end = "nii.gz" if is_packed else "nii"
    try:
        for name, content in (("image", image), ("label", label)):
            (folder / f"{name}.{end}").write_bytes(gzip.compress(content) if is_packed else content)
        listed = {"test": [{"image": f"./image.{end}", "label": f"./label.{end}"}]}
        (folder / "dataset.json").write_text(json.dumps(listed))
        dataset = {"name": "d", "loader": "decathlon", "root": str(folder), "labels": 2, "spacing": spacing}
        job = write(folder, small(datasets=[dataset], metrics=["dsc", "hd95", "ssim"]))
        refused_or_done("run", job, "--out", str(folder / "out"), "--engine", "serial")
        assert_rows_are_numbers(folder / "out")
    finally:
        shutil.rmtree(folder)
