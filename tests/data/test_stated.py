"""Files say what they mean: names of segments, whole numbers, axes; files that are no images, what they are."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

import freqbench as fb
from freqbench.core.types import IGNORED
from freqbench.data import image_files
from freqbench.job.schema import build_dataset

from .conftest import refused
from .downloads import volume
from .itk_files import spoil

NAMES = ("background", "liver", "tumour")
SEED = 3
SEGMENTED = "a.seg.nrrd"


def put_segments(
    folder: Path, label: np.ndarray, names: dict[str, int], first: tuple[int, int, int] = (0, 0, 0), **more: str
) -> None:
    """Writes a label map as 3D Slicer does, from a first voxel of the image on."""
    image = SimpleITK.GetImageFromArray(label.T)
    image.SetOrigin((-float(first[0]), -float(first[1]), float(first[2])))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    for number, (name, value) in enumerate(names.items()):
        for key, text in {"Name": name, "LabelValue": str(value), "Layer": "0", **more}.items():
            image.SetMetaData(f"Segment{number}_{key}", text)
    SimpleITK.WriteImage(image, str(folder / SEGMENTED), True)


def put_image(path: Path, voxels: np.ndarray) -> None:
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(path)


def labelled(folder: Path, **settings: object) -> np.ndarray:
    files = (folder / "a.nii.gz", folder / SEGMENTED)
    plain = {"intensity": "minmax", "crop_foreground": False}
    return np.asarray(fb.Case.from_file(*files, **plain, **settings).label)[0]


@pytest.fixture
def label(tmp_path: Path) -> np.ndarray:
    """The label map of a volume that lies in the folder as a.nii.gz."""
    voxels, made = volume(SEED)
    put_image(tmp_path / "a.nii.gz", voxels)
    return made


def test_segments_are_the_classes_of_their_names(tmp_path: Path, label: np.ndarray) -> None:
    for values in ({"liver": 1, "tumour": 2}, {"Liver": 2, "Tumour": 1}, {"tumour": 7, "liver": 30}):
        numbers = np.zeros_like(label)
        for name, value in values.items():
            numbers[label == NAMES.index(name.lower())] = value
        put_segments(tmp_path, numbers, values)
        np.testing.assert_array_equal(labelled(tmp_path, labels=NAMES), label)


def test_ignored_labels_beside_named_segments_do_not_count(tmp_path: Path, label: np.ndarray) -> None:
    label[0, 0, 0] = 9
    put_segments(tmp_path, label, {"liver": 1, "tumour": 2})
    np.testing.assert_array_equal(labelled(tmp_path, labels=NAMES, ignore=[9]), np.where(label == 9, IGNORED, label))


def test_names_that_are_no_class_leave_the_numbers(tmp_path: Path, label: np.ndarray) -> None:
    put_segments(tmp_path, label, {"Segment_1": 1, "Segment_2": 2})
    np.testing.assert_array_equal(labelled(tmp_path, labels=NAMES), label)


def test_names_that_contradict_the_job_are_refused(tmp_path: Path, label: np.ndarray) -> None:
    put_segments(tmp_path, label, {"liver": 1, "vessel": 2})
    refused("called liver, tumour, got 'vessel' (label 2)", lambda: labelled(tmp_path, labels=NAMES))
    put_segments(tmp_path, label, {"liver": 1, "tumour": 2})
    mapped = {"labels": NAMES, "label_map": {1: 2, 2: 1}}
    refused("label 1 to be liver, as the file names its segment", lambda: labelled(tmp_path, **mapped))
    put_segments(tmp_path, label, {"liver": 1, "vessel": 2})
    np.testing.assert_array_equal(labelled(tmp_path, labels=NAMES[:2], label_map={2: 0}), np.where(label == 1, 1, 0))


def test_a_part_of_the_grid_is_placed_on_the_image(tmp_path: Path, label: np.ndarray) -> None:
    label[:2] = 0
    label[:, -1:] = 0
    put_segments(tmp_path, label[2:, :-1], {"liver": 1, "tumour": 2}, first=(2, 0, 0))
    np.testing.assert_array_equal(labelled(tmp_path, labels=NAMES), label)
    put_segments(tmp_path, label[2:, :-1], {"liver": 1, "tumour": 2}, first=(3, 0, 0))
    refused("expected the shape", lambda: labelled(tmp_path, labels=NAMES))


def put_layers(folder: Path, layers: Sequence[np.ndarray], segments: Sequence[tuple[str, int, int]]) -> None:
    """Writes layers of segments (name, value, layer) as 3D Slicer does, along a first axis of kind `list`."""
    stored = np.stack(layers).astype(np.uint8)
    lines = [
        *("NRRD0004", "type: unsigned char", "dimension: 4", "space: left-posterior-superior", "encoding: gzip"),
        *(f"sizes: {' '.join(map(str, stored.shape))}", "kinds: list domain domain domain"),
        *("space directions: none (-1,0,0) (0,-1,0) (0,0,1)", "space origin: (0,0,0)"),
    ]
    for number, (name, value, layer) in enumerate(segments):
        fields = {"ID": f"Segment_{number + 1}", "Name": name, "LabelValue": value, "Layer": layer}
        lines.extend(f"Segment{number}_{key}:={text}" for key, text in fields.items())
    (folder / SEGMENTED).write_bytes("\n".join([*lines, "", ""]).encode() + gzip.compress(stored.tobytes(order="F")))


def test_segments_of_several_layers_make_one_label_map(tmp_path: Path, label: np.ndarray) -> None:
    """Values repeat between layers, as Slicer counts in each from 1."""
    layers = [label == 2, label == 1]
    segments = [("tumour", 1, 0), ("Liver", 1, 1)]
    put_layers(tmp_path, layers, segments)
    np.testing.assert_array_equal(labelled(tmp_path, labels=NAMES), label)
    image_files.check_length(tmp_path / SEGMENTED)
    header = image_files.read_header(tmp_path / SEGMENTED)
    np.testing.assert_array_equal(image_files.read_integers(header), np.array([0, 2, 1])[label])


def test_layers_of_a_part_of_the_grid_are_placed_on_the_image(tmp_path: Path, label: np.ndarray) -> None:
    part = label[2:, :, 1:]
    put_layers(tmp_path, [part == 1, 5 * (part == 2)], [("liver", 1, 0), ("tumour", 5, 1)])
    spoil(tmp_path / SEGMENTED, b"space origin: (0,0,0)", b"space origin: (-2,0,1)")
    np.testing.assert_array_equal(labelled(tmp_path, labels=NAMES), label)
    np.testing.assert_array_equal(labelled(tmp_path, labels=NAMES, label_map={1: 1, 5: 2}), label)


def test_overlapping_segments_are_refused_with_both_names(tmp_path: Path, label: np.ndarray) -> None:
    put_layers(tmp_path, [label > 0, 2 * (label == 2)], [("liver", 1, 0), ("tumour", 2, 1)])
    first = tuple(map(int, np.argwhere(label == 2)[0]))
    count = int((label == 2).sum())
    text = f"got 'liver' and 'tumour' at voxel {first} ({count} such voxels)"
    refused(text, lambda: labelled(tmp_path, labels=NAMES))
    header = image_files.read_header(tmp_path / SEGMENTED)
    refused(text, lambda: image_files.read_integers(header))
    np.testing.assert_array_equal(labelled(tmp_path, labels=["background", "organ"], label_map={1: 1, 2: 1}), label > 0)
    np.testing.assert_array_equal(labelled(tmp_path, labels=NAMES[:2], label_map={"other": "background"}), label > 0)


def test_segments_that_overlap_are_regions_where_job_states_some(tmp_path: Path, label: np.ndarray) -> None:
    put_layers(tmp_path, [label > 0, label == 2], [("whole", 1, 0), ("core", 1, 1)])
    codes = labelled(tmp_path, regions={"whole": [1, 2], "core": [2]})
    np.testing.assert_array_equal(codes, np.array([0, 1, 3])[label])


@pytest.mark.parametrize(
    ("segments", "text"),
    [
        (
            [("liver", 1, 0), ("tumour", 1, 2)],
            "expected segments in layers 0 to 1, as the file has 2, got '2' for 'tum",
        ),
        ([("liver", 1, 0), ("tumour", 3, 1)], "expected segments' values in layer 1, got 1: save it"),
        ([("liver", 1, 0), ("vessel", 1, 1)], "expected segments called liver, tumour, got 'vessel' (label 2)"),
        ([("one", 1, 0), ("two", 1, 1)], "expected segments called liver, tumour, got 'one' (label 1)"),
        ([], "expected a 3D volume, got shape (12, 10, 8, 2)"),
    ],
)
def test_unexplained_layers_are_refused(tmp_path: Path, label: np.ndarray, segments: list[object], text: str) -> None:
    put_layers(tmp_path, [label == 1, label == 2], segments)
    refused(text, lambda: labelled(tmp_path, labels=NAMES))


def test_plan_says_that_names_decide(tmp_path: Path, label: np.ndarray) -> None:
    put_segments(tmp_path, label, {"tumour": 1, "liver": 2})
    files = {"image": "{case}.nii.gz", "label": "{case}.seg.nrrd", "labels": list(NAMES)}
    dataset = build_dataset({"name": "d", "loader": "pairs", "root": str(tmp_path), **files}, "job")
    assert dataset.refs()
    line = "d: a.seg.nrrd: its segments become the classes of their names, whatever their numbers"
    assert line in [*dataset.remarks(["a"])]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", [np.uint32, np.float64])
def test_labels_of_many_digits_stay_whole(tmp_path: Path, suffix: str, kind: type) -> None:
    values = np.array([0, 2**24, 2**24 + 1, 312782546, 312782550])
    label = np.random.default_rng(SEED).choice(values, (6, 5, 4)).astype(kind)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(label.T), str(tmp_path / f"a{suffix}"))
    read = image_files.read_integers(image_files.read_header(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(read, label)
    assert read.dtype.kind in "iu"


STRANGERS = {
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "an HTML page": (b"\n<!DOCTYPE html><html>Log in</html>", "fetch the file itself"),
    "a JSON document": (b'{"error": "no such file"}', "fetch the file itself"),
    "an XML document": (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "fetch the file itself"),
    "a ZIP archive": (b"PK\x03\x04\x14\x00", "unpack it"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n", "convert it to NIfTI"),
}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".hdr", ".nrrd", ".mha", ".gipl", ".mgh", ".mgz"])
@pytest.mark.parametrize("what", STRANGERS)
def test_a_file_that_is_no_image_is_called_what_it_is(tmp_path: Path, what: str, suffix: str) -> None:
    content, advice = STRANGERS[what]
    (tmp_path / f"a{suffix}").write_bytes(content)
    for ask in (image_files.read_header, image_files.check_length):
        refused(f"a{suffix}: {what}", lambda ask=ask: ask(tmp_path / f"a{suffix}"))
        refused(advice, lambda ask=ask: ask(tmp_path / f"a{suffix}"))


def test_a_wrong_ending_is_told_with_the_right_one(tmp_path: Path) -> None:
    put_image(tmp_path / "a.nii", volume(SEED)[0])
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(content)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(content))
    refused("rename it to plain.nii", lambda: image_files.read_header(tmp_path / "plain.nii.gz"))
    refused("rename it to packed.nii.gz", lambda: image_files.read_header(tmp_path / "packed.nii"))


def test_a_broken_link_is_told_with_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").symlink_to("../.git/annex/objects/k/MD5E-s1")
    refused("found a link to ../.git/annex", lambda: fb.Case.from_file(tmp_path / "a.nii.gz", intensity="minmax"))
