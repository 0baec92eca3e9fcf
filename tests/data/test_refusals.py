"""A fault of a folder, its headers or its voxels is one line that names the file."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from .conftest import Folder, first_case, refused
from .downloads import SHAPE, volume

Spoil = Callable[[Folder], object]
ENDINGS = ".nii.gz, .nii, .hdr, .nrrd, .nhdr, .mha, .mhd, .gipl.gz, .gipl, .mgz, .mgh"
LIST = "dataset.json"
IMAGE = "imagesTr/b.nii.gz"
LABEL = "labelsTr/b.nii.gz"
SHIFTED = np.eye(4)
SHIFTED[0, 3] = 2
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def _list(**changes: object) -> Spoil:
    return lambda folder: folder.list(**changes)


def _without(path: str) -> Spoil:
    return lambda folder: (folder.root / path).unlink()


def _in_place_of(path: str, make: Callable[[Path], None]) -> Spoil:
    return lambda folder: (_without(path)(folder), make(folder.root / path))


def _put(path: str, voxels: npt.NDArray[Any], affine: Any = None) -> Spoil:
    return lambda folder: folder.put(path, voxels, affine)


def _zeros(path: str, *shape: int) -> Spoil:
    return _put(path, np.zeros(shape, np.float32))


def _rewritten(path: str, change: Callable[[bytes], bytes]) -> Spoil:
    return lambda folder: (folder.root / path).write_bytes(change((folder.root / path).read_bytes()))


def _header(**fields: Any) -> Spoil:
    def change(content: bytes) -> bytes:
        whole = bytearray(gzip.decompress(content))
        for name, value in fields.items():
            kind, offset, *_ = nibabel.nifti1.header_dtype.fields[name]
            stored = np.asarray(value, kind.base.newbyteorder("<")).tobytes()
            whole[offset : offset + len(stored)] = stored
        return gzip.compress(bytes(whole))

    return _rewritten(IMAGE, change)


# What spoils the folder, then the file that the error names, and how it goes on.
@pytest.mark.parametrize(
    ("spoil", "file", "text"),
    {
        "no list": (
            _without(LIST),
            LIST,
            ": expected the JSON list of cases, found no file: check `root` and the list",
        ),
        "no JSON": (_rewritten(LIST, lambda _: b"{"), LIST, ": not readable as JSON: "),
        "other split": (
            lambda folder: (folder.listed.pop("validation"), folder.list(validatoin=[])),
            LIST,
            ": unknown split 'validation'. Did you mean 'validatoin'? Known: training, validatoin",
        ),
        "empty split": (_list(validation=[]), LIST, ": expected cases in split validation, got none: fill the list"),
        "no label": (
            _list(validation=[{"image": "imagesTr/a.nii.gz"}]),
            LIST,
            ": expected a label map for imagesTr/a.nii",
        ),
        "no image": (
            _list(validation=[{"label": "x"}]),
            LIST,
            ": expected {image, label} or an image's name, got {'label",
        ),
        "twice": (
            lambda folder: folder.list(validation=folder.listed["validation"][:1] * 2),
            LIST,
            ": expected each case of validation once, got a twice: drop it",
        ),
        "same content": (
            lambda folder: (folder.write("a", *volume()), folder.write("c", *volume())),
            LIST,
            ": expected different cases, got a and c with the same files: remove one",
        ),
        "missing image": (
            _without(IMAGE),
            IMAGE,
            ": expected the image of case b, found no file: check `root` and the li",
        ),
        "missing label": (_without(LABEL), LABEL, ": expected the label map of case b, found no file"),
        "a pipe as image": (_in_place_of(IMAGE, os.mkfifo), IMAGE, ": expected the image of case b, found no file"),
        "a folder as label": (
            _in_place_of(LABEL, Path.mkdir),
            LABEL,
            ": expected the label map of case b, found no file",
        ),
        "empty file": (_rewritten(IMAGE, lambda _: b""), IMAGE, ": expected a NIfTI file, got an unreadable header:"),
        "other name": (
            _list(validation=[{"image": LIST, "label": LABEL}]),
            LIST,
            f": expected a name that ends in {ENDINGS}, got 'dataset.json': convert the file",
        ),
        "4D label": (
            _zeros(LABEL, *SHAPE, 2),
            LABEL,
            ": expected a 3D volume, got shape (12, 10, 8, 2): split it into on",
        ),
        "2D": (
            _zeros(IMAGE, 12, 10),
            IMAGE,
            ": expected a 3D volume, got shape (12, 10): add a third axis of length 1,",
        ),
        "channel first": (
            _zeros(LABEL, 1, *SHAPE),
            LABEL,
            ": expected a 3D volume, got shape (1, 12, 10, 8): move its first axis behind the others, as (12, 10",
        ),
        "5D": (
            _zeros(IMAGE, *SHAPE, 1, 2),
            IMAGE,
            ": expected a 3D volume, got shape (12, 10, 8, 1, 2): split it into on",
        ),
        "other channels": (
            _zeros(IMAGE, *SHAPE, 2),
            IMAGE,
            ": expected as many channels as a.nii.gz has, 1, got 2: give",
        ),
        "no voxels": (_header(dim=(3, 12, 0, 8)), IMAGE, ": expected"),
        "other shape": (
            _zeros(LABEL, 12, 10, 7),
            LABEL,
            ": expected the shape (12, 10, 8) of b.nii.gz, got (12, 10, 7):",
        ),
        "other place": (
            _put(LABEL, volume()[1], SHIFTED),
            LABEL,
            ": expected the orientation and origin of b.nii.gz, got a grid up to 2 mm away: resample",
        ),
        "too large": (
            _header(dim=(3, 30000, 30000, 30)),
            IMAGE,
            ": expected a volume of at most 8 GiB as float32, got (",
        ),
        "colours": (
            _put(IMAGE, np.zeros(SHAPE, RGB)),
            IMAGE,
            ": expected real numbers, got [('R', 'u1'), ('G', 'u1'), ",
        ),
        "flat affine": (_header(srow_z=[0] * 4), IMAGE, ": expected an invertible affine, got [[1.0,"),
        "NaN affine": (_header(srow_x=[np.nan] * 4), IMAGE, ": expected an invertible affine, got [[nan,"),
        "infinite affine": (_header(srow_x=[np.inf, 0, 0, 0]), IMAGE, ": expected an invertible affine, got [[inf,"),
        **{
            name: (_header(sform_code=0, pixdim=[1, *sides]), IMAGE, f": expected sides above 0, got {got} in pix")
            for name, sides, got in (
                ("no sides", (0, 0, 0), "0 x 0 x 0"),
                ("negative side", (1, -2, 1), "1 x -2 x 1"),
                ("NaN side", (1, 1, np.nan), "1 x 1 x nan"),
            )
        },
        "no rotation": (
            _header(qform_code=1, quatern_b=5),
            IMAGE,
            ": expected a rotation as qform, got none: w2 should b",
        ),
        "two sizes": (
            _header(qform_code=1, pixdim=(1, 5, 5, 5)),
            IMAGE,
            ": expected the same grid of sform and qform, got 1 x 1 x 1 RAS and 5 x 5 x 5 RAS (no unit): set the",
        ),
        "two directions": (
            _header(qform_code=1, quatern_b=1),
            IMAGE,
            ": expected the same grid of sform and qform, got 1 x 1 x 1 RAS and 1 x 1 x 1 RPI (no unit): set the",
        ),
        "voxels within the header": (
            _header(vox_offset=0),
            IMAGE,
            ": expected voxels from byte 352 on, behind the header, got a vox_offset of 0: fix the header",
        ),
        "no such unit": (
            _header(xyzt_units=5),
            IMAGE,
            ": expected a unit of length in xyzt_units (0 to 3), got 5: fix",
        ),
        "metres": (
            _header(xyzt_units=1),
            IMAGE,
            ": expected voxels of 0.0001 to 100 mm a side, got 1000 x 1000 x 1000 mm",
        ),
        "micrometres without a unit": (
            _header(srow_x=[1000, 0, 0, 0], srow_y=[0, 1000, 0, 0], srow_z=[0, 0, 1000, 0]),
            IMAGE,
            ": expected voxels of 0.0001 to 100 mm a side, got 1000 x 1000 x 1000 mm, as the header gives 1000",
        ),
    }.values(),
)
def test_a_spoilt_folder_is_refused_before_anything_is_computed(
    folder: Folder, spoil: Spoil, file: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(folder)
    refused(f"/{file}{text}", folder.dataset().refs)
    assert caplog.messages == []  # of nibabel, which names no file


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"split": "validation[0:30:2]"}, "small: expected a split like validation or validation[0:30], got 'valid"),
        ({"split": "validation[-:]"}, "small: expected a split like validation or validation[0:30], got 'valid"),
        ({"split": f"validation[:{'9' * 5000}]"}, "small: expected a split like validation or validation[0:30], got"),
        ({"split": "validation[7:9]"}, "expected cases in split validation[7:9], got none"),
        ({"cases": 4}, "small: expected at most 3 `cases`, got 4: take fewer"),
        ({"cases": ["aa"]}, "small: unknown case 'aa'. Did you mean 'a'? Known: a, b, c"),
        ({"cases": ["a", "a"]}, "small: expected each of `cases` once, got 'a' twice: remove one"),
        ({"root": "${NOT_SET}/x"}, "small: ${NOT_SET}/x: expected the environment variable NOT_SET, found none: set i"),
    ],
)
def test_wrong_arguments_are_refused_first(folder: Folder, arguments: dict[str, object], text: str) -> None:
    refused(text, folder.dataset(**arguments).refs)


@pytest.mark.parametrize("listed", [None, {"0": "background"}, {"1": "a", "2": "b"}, ["background", "a"]])
def test_list_without_class_names_is_refused(folder: Folder, listed: object) -> None:
    folder.list(labels=listed)
    refused("expected `labels` with the names of labels 0 (background), 1, ", lambda: folder.dataset().classes)


def _voxel(path: str, value: float) -> Spoil:
    def spoil(folder: Folder) -> None:
        voxels = nibabel.load(folder.root / path).get_fdata()
        voxels[4, 4, 4] = value
        folder.put(path, voxels.astype(np.float32))

    return spoil


def _short(folder: Folder) -> None:
    (folder.root / "imagesTr/b.nii").write_bytes(gzip.decompress((folder.root / IMAGE).read_bytes())[:-100])
    folder.listed["validation"][1]["image"] = "imagesTr/b.nii"
    folder.list()


def _bad_checksum(content: bytes) -> bytes:
    return content[:-6] + bytes([content[-6] ^ 255]) + content[-5:]


@pytest.mark.parametrize(
    ("spoil", "file", "text"),
    {
        "torn gzip": (
            _rewritten(IMAGE, lambda content: content[:-200]),
            IMAGE,
            "960 voxels, got damaged or truncated dat",
        ),
        "short": (_short, "imagesTr/b.nii", "960 voxels, got damaged or truncated data:"),
        "no end": (_header(vox_offset=float("inf")), IMAGE, "a NIfTI file, got an unreadable header: cannot"),
        "offset": (_header(vox_offset=1e30), IMAGE, "960 voxels, got damaged or truncated data: at most"),
        "bad checksum": (_rewritten(IMAGE, _bad_checksum), IMAGE, "960 voxels, got damaged or truncated data: CRC"),
        "NaN": (_voxel(IMAGE, np.nan), IMAGE, "finite intensities, got 1 NaN or infinite: fix or drop the case"),
        "constant": (
            _put(IMAGE, np.full(SHAPE, 7, np.int16)),
            IMAGE,
            "an image, got the same intensity 7 everywhere: dro",
        ),
        "fraction": (
            _voxel(LABEL, 0.5),
            LABEL,
            "integers from 0 as labels, got 0.5 at voxel (4, 4, 4) (1 such voxels): give the label map",
        ),
        "negative": (_voxel(LABEL, -1), LABEL, "integers from 0 as labels, got -1 at voxel (4, 4, 4) (1 such voxels)"),
        "class beyond": (_voxel(LABEL, 3), LABEL, "labels 0 to 2, got 3 (1 voxels): name all classes in `labels`"),
    }.values(),
)
def test_damaged_voxels_are_refused(folder: Folder, spoil: Spoil, file: str, text: str) -> None:
    spoil(folder)
    dataset = folder.dataset()
    refused(f"/{file}: expected {text}", lambda: dataset.load(dataset.refs()[1]))


def test_repairs_of_headers_by_nibabel_are_not_logged(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    _header(sizeof_hdr=0)(folder)
    dataset = folder.dataset()
    dataset.load(dataset.refs()[1])
    assert caplog.messages == []
    nibabel.load(folder.root / IMAGE)
    assert "sizeof_hdr should be 348; set sizeof_hdr to 348" in caplog.messages


@pytest.mark.parametrize(
    ("intensity", "text"),
    [
        ({"window": [500, 600]}, "/imagesTr/a.nii.gz: expected intensities above 500, got none: widen"),
        ({"percentile": [1, 20]}, "contrast between the percentile bounds 1 and 20, got the intensity 0 at both: wide"),
    ],
)
def test_intensity_that_leaves_nothing_is_refused(folder: Folder, intensity: object, text: str) -> None:
    dataset = folder.dataset(intensity=intensity)
    refused(text, lambda: first_case(dataset))


def test_fitting_labels_are_taken_from_any_list(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The other side of the limits: class 2 of three, and a trailing axis of length 1."""
    elsewhere: Path = tmp_path_factory.mktemp("lists") / "mine.json"
    elsewhere.write_text(json.dumps(folder.listed))
    (folder.root / LIST).unlink()
    image, label = volume()
    folder.write("b", image[..., None], label[..., None])
    dataset = folder.dataset(cases=("b",), list=str(elsewhere))
    assert first_case(dataset).label.max() == 2


@pytest.mark.parametrize(
    ("affine", "says"), [(None, True), (np.diag([1.0, 1, 1, 1]), False), (np.diag([1.0, 1, 5, 1]), False)]
)
def test_a_header_that_nobody_filled_is_said(folder: Folder, affine: Any, says: bool) -> None:
    """The file of a tool that knows the voxels alone: nibabel without an affine states neither form nor unit."""
    image, label = volume(seed=1)
    for kind, voxels in (("imagesTr", image), ("labelsTr", label)):
        nibabel.save(nibabel.Nifti1Image(voxels, affine), folder.root / kind / "a.nii.gz")
    dataset = folder.dataset(cases=1)
    (ref,) = dataset.refs()
    assert any("a header that nobody filled" in line for line in dataset.faults(ref, dataset.space)) == says
