"""What is wrong with a folder, its headers or its voxels is one line that names the file."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from freqbench.core.errors import DataError

from .conftest import SHAPE, Folder, volume

Spoil = Callable[[Folder], object]


def _list(**changes: object) -> Spoil:
    def spoil(folder: Folder) -> None:
        folder.listed.update(changes)
        folder.save()

    return spoil


def _claim_shape(shape: tuple[int, int, int]) -> Spoil:
    """A header that promises more than the file holds."""

    def spoil(folder: Folder) -> None:
        path = folder.root / "imagesTr/b.nii.gz"
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[42:48] = np.array(shape, "<i2").tobytes()
        path.write_bytes(gzip.compress(bytes(content)))

    return spoil


def _shifted() -> np.ndarray:
    affine = np.eye(4)
    affine[0, 3] = 2
    return affine


def _rgb() -> np.ndarray:
    return np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


def _flat_affine(path: Path) -> None:
    header = nibabel.load(path).header
    header["srow_z"] = 0
    nibabel.save(nibabel.Nifti1Image(volume()[0], None, header), path)


# What spoils the folder, then what the error says after the folder's path.
IN_REFS: dict[str, tuple[Spoil, str]] = {
    "no list": (lambda f: (f.root / "dataset.json").unlink(), "dataset.json, found none: check `root` and `list`"),
    "no JSON": (
        lambda f: (f.root / "dataset.json").write_text("{"),
        "/dataset.json: expected a JSON list of cases, got no JSON:",
    ),
    "other split": (
        lambda f: (f.listed.pop("validation"), _list(validatoin=[])(f)),
        "unknown split 'validation'. Did you mean 'validatoin'? Known: training, validatoin",
    ),
    "empty split": (
        _list(validation=[]),
        "expected cases in split validation, got none: choose one of ['training', 'validation']",
    ),
    "no label": (
        _list(validation=[{"image": "imagesTr/a.nii.gz"}]),
        "expected a label map for imagesTr/a.nii.gz, got none: choose a labelled split",
    ),
    "no image": (_list(validation=[{"label": "x"}]), "expected {image, label} or an image's name, got {'label': 'x'}"),
    "twice": (
        lambda f: _list(validation=f.listed["validation"][:1] * 2)(f),
        "expected each case of validation once, got a twice: remove one",
    ),
    "same content": (
        lambda f: (f.write("a", *volume()), f.write("c", *volume())),
        "/dataset.json: expected different cases, got a and c with the same files: remove one",
    ),
    "missing image": (
        lambda f: (f.root / "imagesTr/b.nii.gz").unlink(),
        "/imagesTr/b.nii.gz: expected the image of case b, found no file: check `root` and the list",
    ),
    "missing label": (
        lambda f: (f.root / "labelsTr/b.nii.gz").unlink(),
        "/labelsTr/b.nii.gz: expected the label map of case b, found no file",
    ),
    "empty file": (
        lambda f: (f.root / "imagesTr/b.nii.gz").write_bytes(b""),
        "/imagesTr/b.nii.gz: expected a NIfTI file, got an unreadable header:",
    ),
    "torn gzip header": (
        lambda f: (f.root / "imagesTr/b.nii.gz").write_bytes((f.root / "imagesTr/b.nii.gz").read_bytes()[:60]),
        "/imagesTr/b.nii.gz: expected a NIfTI file, got an unreadable header:",
    ),
    "other name": (
        _list(validation=[{"image": "dataset.json", "label": "labelsTr/a.nii.gz"}]),
        "/dataset.json: expected a name that ends in .nii or .nii.gz, got 'dataset.json': convert the file",
    ),
    "4D label": (
        lambda f: f.put("labelsTr/b.nii.gz", np.zeros((*SHAPE, 2), np.float32)),
        "/labelsTr/b.nii.gz: expected a 3D volume, got shape (12, 10, 8, 2): split it into one file a volume",
    ),
    "5D": (
        lambda f: f.put("imagesTr/b.nii.gz", np.zeros((*SHAPE, 1, 2), np.float32)),
        "/imagesTr/b.nii.gz: expected a 3D volume, got shape (12, 10, 8, 1, 2): split it into one file a volume, chan",
    ),
    "other channels": (
        lambda f: f.put("imagesTr/b.nii.gz", np.zeros((*SHAPE, 2), np.float32)),
        "/imagesTr/b.nii.gz: expected as many channels as a.nii.gz has, 1, got 2: give every case the same",
    ),
    "no voxels": (_claim_shape((12, 0, 8)), "/imagesTr/b.nii.gz: expected"),
    "other shape": (
        lambda f: f.put("labelsTr/b.nii.gz", np.zeros((12, 10, 7), np.uint8)),
        "/labelsTr/b.nii.gz: expected the shape (12, 10, 8) of b.nii.gz, got (12, 10, 7): give the label map",
    ),
    "other place": (
        lambda f: f.put("labelsTr/b.nii.gz", volume()[1], _shifted()),
        "/labelsTr/b.nii.gz: expected the orientation and origin of b.nii.gz, got a grid up to 2 mm away: resample",
    ),
    "too large": (
        _claim_shape((30000, 30000, 30)),
        "/imagesTr/b.nii.gz: expected a volume of at most 8 GiB as float32, got (30000, 30000, 30): check the header",
    ),
    "colours": (
        lambda f: f.put("imagesTr/b.nii.gz", _rgb()),
        "/imagesTr/b.nii.gz: expected real numbers, got [('R', 'u1'), ('G', 'u1'), ('B', 'u1')]",
    ),
    "flat affine": (
        lambda f: _flat_affine(f.root / "imagesTr/b.nii.gz"),
        "/imagesTr/b.nii.gz: expected an invertible affine, got [[1.0,",
    ),
}


@pytest.mark.parametrize("name", IN_REFS)
def test_refused_before_anything_is_computed(folder: Folder, name: str) -> None:
    spoil, text = IN_REFS[name]
    spoil(folder)
    with pytest.raises(DataError) as error:
        folder.dataset().refs()
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"split": "validation[0:30:2]"}, "small: expected a split like validation or validation[0:30], got 'valid"),
        ({"split": "validation[7:9]"}, "expected cases in split validation[7:9], got none"),
        ({"cases": 4}, "small: expected at most 3 `cases`, got 4: ask for fewer"),
        ({"cases": ["aa"]}, "small: unknown case 'aa'. Did you mean 'a'? Known: a, b, c"),
        ({"cases": ["a", "a"]}, "small: expected each of `cases` once, got 'a' twice: remove one"),
        (
            {"root": "${FREQBENCH_NOT_SET}/x"},
            "small: ${FREQBENCH_NOT_SET}/x: expected the environment variable FREQBENCH_NOT_SET, found none: set it",
        ),
        ({"spacing": (0.0005, 0.0005, 1)}, "/imagesTr/a.nii.gz: expected a resampled volume of at most 8 GiB"),
    ],
)
def test_arguments_refused_before_anything_is_computed(folder: Folder, arguments: dict[str, object], text: str) -> None:
    with pytest.raises(DataError) as error:
        folder.dataset(**arguments).refs()
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("listed", [None, {"0": "background"}, {"1": "a", "2": "b"}, ["background", "a"]])
def test_list_without_class_names_is_refused(folder: Folder, listed: object) -> None:
    _list(labels=listed)(folder)
    with pytest.raises(DataError, match="expected `labels` with the names of classes 0, 1, "):
        _ = folder.dataset().num_classes


def _voxel(path: str, value: float) -> Spoil:
    """One voxel of an image or label map set to a value."""

    def spoil(folder: Folder) -> None:
        voxels = nibabel.load(folder.root / path).get_fdata()
        voxels[4, 4, 4] = value
        folder.put(path, voxels.astype(np.float32))

    return spoil


def _torn(folder: Folder) -> None:
    path = folder.root / "imagesTr/b.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def _short(folder: Folder) -> None:
    whole = gzip.decompress((folder.root / "imagesTr/b.nii.gz").read_bytes())
    (folder.root / "imagesTr/b.nii").write_bytes(whole[:-100])
    folder.listed["validation"][1]["image"] = "imagesTr/b.nii"
    folder.save()


def _flipped_bits(folder: Folder) -> None:
    path = folder.root / "imagesTr/b.nii.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 255
    path.write_bytes(bytes(content))


IN_LOAD: dict[str, tuple[Spoil, str]] = {
    "torn gzip": (_torn, "/imagesTr/b.nii.gz: expected 960 voxels, got damaged or truncated data:"),
    "short": (_short, "/imagesTr/b.nii: expected 960 voxels, got damaged or truncated data:"),
    "bad checksum": (_flipped_bits, "/imagesTr/b.nii.gz: expected 960 voxels, got damaged or truncated data: CRC"),
    "NaN": (
        _voxel("imagesTr/b.nii.gz", np.nan),
        "/imagesTr/b.nii.gz: expected finite intensities, got 1 NaN or infinite: mend or drop the case",
    ),
    "constant": (
        lambda f: f.put("imagesTr/b.nii.gz", np.full(SHAPE, 7, np.int16)),
        "/imagesTr/b.nii.gz: expected an image, got the same intensity 7 everywhere: drop the case",
    ),
    "fraction": (
        _voxel("labelsTr/b.nii.gz", 0.5),
        "/labelsTr/b.nii.gz: expected integers from 0 as labels, got 0.5 (1 such voxels): give the label map",
    ),
    "negative": (_voxel("labelsTr/b.nii.gz", -1), "expected integers from 0 as labels, got -1 (1 such voxels)"),
    "class beyond": (
        _voxel("labelsTr/b.nii.gz", 3),
        "/labelsTr/b.nii.gz: expected labels 0 to 2, got 3: name all classes in `labels`",
    ),
}


@pytest.mark.parametrize("name", IN_LOAD)
def test_voxels_refused(folder: Folder, name: str) -> None:
    spoil, text = IN_LOAD[name]
    spoil(folder)
    dataset = folder.dataset()
    with pytest.raises(DataError) as error:
        dataset.load(dataset.refs()[1])
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("intensity", "text"),
    [
        ({"window": [500, 600]}, "/imagesTr/a.nii.gz: expected intensities above 500, got none: widen the window"),
        (
            {"percentile": [1, 20]},
            "expected contrast between the percentile bounds 1 and 20, got the intensity 0 at both: widen `intensity`",
        ),
    ],
)
def test_intensity_that_leaves_nothing_is_refused(folder: Folder, intensity: object, text: str) -> None:
    dataset = folder.dataset(intensity=intensity)
    with pytest.raises(DataError) as error:
        dataset.load(dataset.refs()[0])
    assert text in str(error.value)


def test_every_label_that_fits_is_taken(folder: Folder) -> None:
    """The other side of the limits: class 2 of three, and a trailing axis of length 1."""
    image, label = volume()
    folder.write("b", image[..., None], label[..., None])
    dataset = folder.dataset(cases=("b",))
    assert dataset.load(dataset.refs()[0]).label.max() == 2


def test_list_may_lie_elsewhere(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere: Path = tmp_path_factory.mktemp("lists") / "mine.json"
    elsewhere.write_text(json.dumps(folder.listed))
    (folder.root / "dataset.json").unlink()
    assert len(folder.dataset(list=str(elsewhere)).refs()) == 3
