"""Recognises the loader for a folder, and lists by name what the folder lacks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from freqbench.core import config, documents
from freqbench.core.errors import DataError, UserError
from freqbench.core.files import storage
from freqbench.data import DATASETS, dicom, image_files
from freqbench.data.file_names import RATER, Pairing, classes_in, pairings
from freqbench.data.labels import few
from freqbench.data.loaders.decathlon import Decathlon, PublishedSplit, is_averaged
from freqbench.data.loaders.dicom import DEPTH as DEPTH_OF_SLICES
from freqbench.data.loaders.dicom import DicomFolders
from freqbench.data.loaders.folder import ListedFolder, Survey, expand_variables, read_object
from freqbench.data.loaders.msd import TASKS
from freqbench.data.loaders.nnunet_raw import NnunetRaw
from freqbench.data.loaders.pairs import ALL
from freqbench.data.patients import counted_patients
from freqbench.data.scans import ImageFiles

READ = 20  # label maps that are read for their values
DEPTH = 4  # of folders in which files are looked for by their names
DICOM_DEPTH = DEPTH_OF_SLICES + 2  # below `images/CASE`
LISTED = 50_000  # files of a folder that are looked at
LOOKED_INTO = 100  # folders of a folder without a layout: each costs some 30 looks at the disk
# The split that a job line proposes: the first of these with a complete case.
PREFERRED = ("validation", "test", "val", "training", "train")
_named = partial(few, most=40)
ORGANS = ("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas")


@dataclass(frozen=True)
class LayoutKind:
    """A known layout, and the files that identify it."""

    title: str
    sign: str  # the files that identify it, in words
    here: tuple[str, ...] | Callable[[Path], bool]  # patterns, of which one is enough; or a test of the folder
    loader: str  # of DATASETS
    keys: Callable[[Path], dict[str, Any]] = lambda _: {}  # further keys of the loader for this folder, beside its root
    all_cases: Mapping[str, Any] = field(default_factory=dict)  # keys that include cases which the job line leaves out

    def fits(self, folder: Path) -> bool:
        """True if a folder has this layout."""
        return self.here(folder) if callable(self.here) else any(any(folder.glob(name)) for name in self.here)


def _find_pairing(folder: Path) -> Pairing | None:
    """Returns how names pair a folder's images and label maps, if values say that these are label maps."""
    files = storage.list_tree(str(folder), DEPTH)[:LISTED] if folder.is_dir() else []
    found = pairings([path for path in files if path.endswith(image_files.SUFFIXES)])
    return next((pairing for pairing in found if all(map(classes_in, _some(folder, pairing.masks)))), None)


def _patterns(folder: Path) -> dict[str, Any]:
    """Returns patterns and number of classes for a job line; raises UserError if names do not tell the channels."""
    if (pairing := _find_pairing(folder)) is None or not pairing.image:
        several = ", ".join(pairing.unused) if pairing else "none"
        advice = "write `loader: pairs` with `image`, patterns in the order of the network's channels, and `label`"
        rest = f"or channels called by their modality, got {several}: {advice}"
        raise UserError(f"{folder}: expected one image beside each label map, {rest}")
    image = pairing.image[0] if len(pairing.image) == 1 else list(pairing.image)
    rater = {"rater": ALL} if RATER in pairing.label else {}
    return {"image": image, "label": pairing.label, **rater, **_found_classes(_some(folder, pairing.masks))}


def _some(folder: Path, paths: Sequence[str]) -> list[str]:
    """Returns READ of the paths at most, spread over all, below the folder."""
    return [str(folder / path) for path in paths[:: -(-len(paths) // READ) or 1]]


def _found_classes(paths: Sequence[str]) -> dict[str, Any]:
    """Returns `labels`, their number in these label maps, and a `label_map` if they are not 0, 1, ..., as BraTS' 4."""
    found = {0}
    for path in paths:
        found.update(classes_in(path))
    values = sorted(found)
    moved = {value: k for k, value in enumerate(values) if value != k}
    return {"labels": max(2, len(values)), **({"label_map": moved} if moved else {})}


def _content(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; empty for another file, and without one."""
    try:
        return read_object(str(path), "a list") if path.is_file() else {}
    except DataError:
        return {}


def _list_of(folder: Path) -> str | None:
    """Returns the name of a folder's JSON list of cases: `dataset.json`, or the first with entries that name images."""
    names = ["dataset.json", *sorted(path.name for path in folder.glob("[!.]*.json"))[:LOOKED_INTO]]
    return next((name for name in names if _entries(_content(folder / name))), None)


def _entries(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the entries of all lists that name images."""
    entries = []
    for lines in content.values():
        if isinstance(lines, list):
            entries += [line for line in lines if isinstance(line, dict) and "image" in line]
    return entries


def _list_keys(folder: Path) -> dict[str, Any]:
    """Returns keys for a list: its name, a fold if its entries have some, and the classes if it does not name them."""
    name = _list_of(folder) or "dataset.json"
    keys: dict[str, Any] = {} if name == "dataset.json" else {"list": name}
    content = _content(folder / name)
    lines = _entries(content)
    if any(isinstance(line.get("fold"), int) for line in lines):
        keys["fold"] = 0
    if lines and "labels" not in content:
        dataset = Decathlon.model_validate({"name": "x", "root": str(folder), "labels": 2, **keys})
        maps = []
        for survey in _surveys(dataset):
            maps += [scan.map for scan in survey.scans if isinstance(scan, ImageFiles) and scan.map]
        keys |= _found_classes(_some(folder, list(filter(storage.exists, maps))))
    return keys


def _surveys(dataset: ListedFolder, with_labels: bool = False) -> list[Survey]:
    """Returns a survey of each split that has cases."""
    return [dataset.survey(split, with_labels) for split, cases in dataset.splits().items() if cases]


def _structures(case: Path) -> list[str]:
    return sorted(image_files.stem(path.name) for path in case.glob("segmentations/*.nii.gz"))


def _classes(folder: Path) -> dict[str, Any]:
    """Returns keys for cases of TotalSegmentator: structures, abdominal organs if there are any, and `modality: mr`."""
    cases = sorted(folder.glob("s[0-9]*/segmentations"))
    there = max((_structures(case.parent) for case in cases), key=len, default=[])
    is_mr = any(folder.glob("s[0-9]*/mri.nii.gz")) and not any(folder.glob("s[0-9]*/ct.nii.gz"))
    classes = [name for name in ORGANS if name in there] or there[:5] or list(ORGANS)
    return {**({"modality": "mr"} if is_mr else {}), "classes": classes}


def _images_of(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file() and path.name.endswith(image_files.SUFFIXES))


def _is_nnunet(folder: Path) -> bool:
    """True if `dataset.json` has nnU-Net's keys, or images end in a channel's number and label maps do not."""
    content = _content(folder / "dataset.json")
    listed = [*of.values()] if isinstance(of := content.get("dataset"), dict) else []
    if "file_ending" in content or any(isinstance(files, dict) and "images" in files for files in listed):
        return True
    image = next(iter(_images_of(folder, "imagesTr/*_0000.*")), None)
    return image is not None and not (folder / "labelsTr" / image.name).exists()


def _has_dicom_labels(folder: Path) -> bool:
    """True if a folder has a segmentation of a series, or contours."""
    return any(scan.has_label for scan in DicomFolders(name="x", root=str(folder)).scans.values())


def _is_task(folder: Path) -> bool:
    """True if a folder has the name of a task of the Decathlon."""
    return folder.name in TASKS


def _is_listed(folder: Path) -> bool:
    """True if a folder has a list of cases, or the folders of one without label maps of several raters."""
    if _list_of(folder) or (folder / "dataset.json").exists():
        return True
    if not (folder / "imagesTr").exists():
        return False
    pairing = _find_pairing(folder)
    return pairing is None or RATER not in pairing.label


def _is_paired(folder: Path) -> bool:
    """True if names pair a folder's images and label maps."""
    return _find_pairing(folder) is not None


def _is_scans(place: Path) -> bool:
    """True if a place is an image, or a folder with one."""
    return place.name.endswith(image_files.SUFFIXES) if place.is_file() else any(_images_of(place, "[!.]*"))


def _is_dicom(folder: Path) -> bool:
    """True if a folder has a DICOM file at some depth."""
    return any(dicom.files.is_dicom(folder / name) for name in _names_below(folder))


TOTALSEGMENTATOR = LayoutKind(
    "TotalSegmentator",
    "s0000/ct.nii.gz and s0000/segmentations",
    ("s[0-9][0-9][0-9][0-9]/ct.nii.gz", "s[0-9][0-9][0-9][0-9]/mri.nii.gz", "s[0-9][0-9][0-9][0-9]/segmentations"),
    "totalsegmentator",
    keys=_classes,
)
NNUNET_RAW = LayoutKind(
    "raw folder of nnU-Net",
    "imagesTr/case_0000.nii.gz and labelsTr/case.nii.gz",
    _is_nnunet,
    "nnunet_raw",
    keys=lambda folder: {"fold": 0} if (folder / "splits_final.json").exists() else {},
)
BTCV = LayoutKind(
    "BTCV as downloaded",
    "RawData/Training/img/img0001.nii.gz",
    (
        "RawData/Training/img/img*.nii.gz",
        "Training/img/img*.nii.gz",
        "img/img*.nii.gz",
        "RawData/Training/img/avg*.nii*",
        "Training/img/avg*.nii*",
        "img/avg*.nii*",
        "averaged-*/avg*.nii*",
        "averaged-*/DET*_avg*.nii*",
    ),
    "synapse",
)
ACDC = LayoutKind(
    "ACDC as downloaded",
    "training/patient001/patient001_frame01.nii.gz",
    ("database/training/patient[0-9]*", "training/patient[0-9]*", "patient[0-9]*/patient[0-9]*_frame*.nii.gz"),
    "acdc",
)
AMOS = LayoutKind(
    "AMOS",
    "imagesTr/amos_0001.nii.gz",
    ("imagesTr/amos_*.nii.gz", "imagesVa/amos_*.nii.gz"),
    "amos",
    all_cases={"modality": "all"},
)
BTCV_AS_DECATHLON = LayoutKind(
    "Synapse (BTCV) in the Decathlon layout",
    "imagesTr/img0001.nii.gz",
    ("imagesTr/img[0-9]*.nii.gz", "imagesTr/avg*.nii.gz"),
    "synapse",
)
ACDC_AS_DECATHLON = LayoutKind(
    "ACDC in the Decathlon layout",
    "imagesTr/patient001_frame01.nii.gz",
    ("imagesTr/patient[0-9]*_frame*.nii.gz",),
    "acdc",
)
DECATHLON_TASK = LayoutKind(
    "task of the Medical Segmentation Decathlon",
    "a folder called Task09_Spleen or so",
    _is_task,
    "msd",
    keys=lambda folder: {"task": folder.name},
)
DECATHLON = LayoutKind(
    "folder in the layout of the Decathlon",
    "dataset.json, another JSON list of cases, or imagesTr",
    _is_listed,
    "decathlon",
    keys=_list_keys,
)
PAIRS = LayoutKind(
    "images and label maps that names pair",
    "case.nii.gz and case_seg.nii.gz, case/imaging.nii.gz and case/segmentation.nii.gz, or images and labels",
    _is_paired,
    "pairs",
    keys=_patterns,
)
SCANS = LayoutKind(
    "scans without label maps",
    "scan.nii.gz",
    _is_scans,
    "images",
    keys=lambda _: {"reference": "prediction"},
)
DICOM = LayoutKind(
    "DICOM series",
    "images/case with the slices of a series, and labels/case.dcm, a SEG",
    _is_dicom,
    "dicom",
    keys=lambda folder: {} if _has_dicom_labels(folder) else {"reference": "prediction"},
)
KINDS = (  # in the order in which they are looked for
    TOTALSEGMENTATOR,
    NNUNET_RAW,
    BTCV,
    ACDC,
    AMOS,
    BTCV_AS_DECATHLON,
    ACDC_AS_DECATHLON,
    DECATHLON_TASK,
    DECATHLON,
    PAIRS,
    SCANS,
    DICOM,
)
AGREEMENT_NOTE = (
    "no label maps: attacks move a model away from its own clean prediction (reference: prediction), which shows how "
    "stable it is, not whether it is right; each file or series counts as a scan; give `labels`, the number of the "
    "model's classes or their names, if its file does not state them"
)


def _kind_of(folder: Path) -> LayoutKind | None:
    return next((kind for kind in KINDS if kind.fits(folder)), None)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A folder's layout, its job entry and its problems."""

    title: str
    loader: str
    entry: dict[str, Any]  # entry of a job file's `datasets`
    surveys: tuple[Survey, ...]  # one per split
    problems: tuple[str, ...]  # one line per missing or damaged thing
    notes: tuple[str, ...]  # one line per thing that is present but unused

    @property
    def job_line(self) -> str:
        """Line for `datasets` of a job file (YAML)."""
        return documents.yaml_item(self.entry)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yields findings as pairs of a name and a line."""
        yield "layout", self.title
        yield "loader", self.loader
        yield "job line", self.job_line
        for survey in self.surveys:
            complete = f"{len(survey.complete)} of {survey.num_cases} cases are complete (by their headers)"
            yield survey.split, complete + (f"; {counted_patients(survey.patients)}" if survey.patients else "")
        yield from (("note", note) for note in self.notes)
        yield from (("problem", problem) for problem in self.problems)


def recognise(root: str, with_labels: bool = False) -> Layout:
    """Recognises a local folder's loader and reads all headers; refuses other folders.

    Args:
        root: the folder, or an image file; `~` and environment variables are filled in.
        with_labels: true if label maps are read too, which takes long.
    """
    folder = _folder_at(root)
    _require_volumes(folder)
    kind = _kind_of(folder)
    if kind is None:
        raise UserError(f"{folder}: expected {_unknown(folder)}")
    loader = DATASETS[kind.loader]
    name = kind.loader if issubclass(loader, PublishedSplit) else image_files.stem(str(folder))
    entry = {"name": name, "root": str(folder), **kind.keys(folder)}
    dataset = config.validate({**entry, **kind.all_cases}, loader, where=str(folder))
    if not isinstance(dataset, ListedFolder):
        raise TypeError(f"{kind.loader}: expected a loader of listed folders")
    surveys = []
    problems = []
    notes = [AGREEMENT_NOTE] if dataset.reference == "prediction" else []
    try:
        surveys = _surveys(dataset, with_labels)
        if dataset.reference == "label":  # else its classes are the model's
            notes += dataset.notes  # refuses a list without class names
    except DataError as error:
        problems.append(str(error))
    for survey in surveys:
        notes += survey.notes
        problems += _survey_problems(survey, folder)
    problems += _kind_problems(dataset, folder)
    if kind.loader not in ("images", "nnunet_raw", "pairs", "dicom"):  # which take all that they find
        notes += _left_out(surveys, folder)
    notes += _guesses(kind, entry, folder)
    if not problems:
        patients = chain.from_iterable(survey.patients for survey in surveys)
        notes += dataset.remarks([*patients])
    complete = [survey.split for survey in surveys if survey.complete]
    proposed = next((split for split in PREFERRED if split in complete), dataset.split)
    return Layout(
        title=kind.title,
        loader=kind.loader,
        entry={**entry, "loader": kind.loader, "split": proposed},
        surveys=tuple(surveys),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _folder_at(root: str) -> Path:
    """Returns the local folder or file that `--data` names; raises UserError for another place."""
    path = expand_variables(root, "--data")
    if not storage.is_local(path):
        raise UserError(f"{path}: expected a folder of this machine, got a URI: copy it, or plan a job that names it")
    folder = Path(storage.local_path(path))
    if not (folder.is_dir() or folder.is_file()):
        raise UserError(f"{folder}: expected a folder or an image file, found none: check --data")
    return folder.resolve()  # a link to itself, which is no folder, does not resolve


def _unknown(folder: Path) -> str:
    """Returns the words on a folder or file without a layout: what was expected, what is there, and what to give."""
    if folder.is_file():
        return "a folder or an image file, got another file: convert it"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    folders = [name for name in names if (folder / name).is_dir()]
    below = []
    for name in folders[:LOOKED_INTO]:
        if kind := _kind_of(folder / name):
            below.append(f"{name} ({kind.title})")
    if below:
        hint = "give one of its folders: " + ", ".join(below)
    else:
        hint = "looked for " + "; ".join(f"{kind.title}: {kind.sign}" for kind in KINDS)
    there = few(names, 3) or "nothing"
    return f"the folder of a dataset, got one with {there}: {hint}"


def _survey_problems(survey: Survey, folder: Path) -> Iterator[str]:
    """Yields a line per missing or damaged thing of a split."""
    split = survey.split
    unlabelled = survey.unlabelled
    if files := [path.removeprefix(f"{folder}/") for path in survey.missing]:
        yield f"{split}: {len(files)} files are missing: {_named(files)}"
    if unlabelled and len(unlabelled) < survey.num_cases:  # without any label map it is a test set
        yield f"{split}: {len(unlabelled)} images have no label map: {_named(unlabelled)}"
    yield from survey.faults


def _left_out(surveys: Sequence[Survey], folder: Path) -> Iterator[str]:
    """Yields lines on splits without label maps, and on images beside those that the list names."""
    listed: set[Path] = set()
    for survey in surveys:
        if len(survey.unlabelled) == survey.num_cases:
            yield f"{survey.split}: no label maps, so its cases need `reference: prediction`"
        for scan in survey.scans:
            listed.update(map(Path, scan.files()))
    present: set[Path] = set()
    for parent in {path.parent for path in listed}:
        if parent.name.startswith("im"):
            present.update(_images_of(parent, "[!.]*"))
    further = [str(path.relative_to(folder)) for path in sorted(present - listed) if not is_averaged(path.name)]
    if further:
        yield f"the list does not name: {_named(further)}"


def _guesses(kind: LayoutKind, entry: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Yields lines on conclusions from names and values, and on other loaders that fit the folder."""
    if kind.loader == "pairs" and (pairing := _find_pairing(folder)):
        rest = f"and by the few whole values of the {READ} that were read at most: give `labels` their names"
        yield f"{pairing.label} are label maps by their names, {rest}"
        if len(pairing.image) > 1:
            yield f"channels are in the order of `image`: {', '.join(pairing.image)}: it must be that of the training"
        if pairing.unused:
            yield f"not used: {', '.join(pairing.unused)}"
        if RATER in pairing.label:
            yield "{rater} is a rater or version of a label map: `rater: NAME` takes one, `rater: all` a case of each"
    if kind.loader == "decathlon":
        if "fold" in entry:
            yield "entries of training have a fold: fold 0 is the split validation, the others are training"
        if "labels" in entry:
            yield f"the list names no classes: {entry['labels']} by the label maps that were read: give `labels` names"
    if kind.loader in ("synapse", "acdc", "amos", "msd") and (folder / "dataset.json").exists():
        yield f"dataset.json fits too: {kind.loader} was taken by the names; loader: decathlon reads what the list says"


def _names_below(folder: Path) -> Sequence[str]:
    """Returns the files of a folder at any depth where DICOM may lie."""
    return storage.list_tree(str(folder), DICOM_DEPTH)[:LISTED] if folder.is_dir() else []


def _require_volumes(folder: Path) -> None:
    """Raises UserError for a file or folder with volumes in other formats alone."""
    names = _names_below(folder) if folder.is_dir() else [folder.name]
    if any(name.endswith(image_files.SUFFIXES) for name in names):
        return
    for name in names:
        suffix = Path(name).suffix.lower()
        file = folder / name if folder.is_dir() else folder
        is_dicom = suffix in ("", ".dcm", ".ima", ".dicom") and dicom.files.is_dicom(file)
        if is_dicom and folder.is_dir():
            return
        if is_dicom or (suffix in image_files.OTHER_FORMATS and suffix not in dicom.files.NO_SLICES):
            convert = image_files.OTHER_FORMATS[".dcm" if is_dicom else suffix]
            got = f"got {'DICOM' if is_dicom else suffix} files such as {name}: {convert}"
            raise UserError(f"{folder}: expected volumes in {', '.join(image_files.SUFFIXES)}, {got}")


def _kind_problems(dataset: ListedFolder, folder: Path) -> Iterator[str]:
    if isinstance(dataset, NnunetRaw):
        try:
            unlabelled = dataset.unlabelled_cases()
        except DataError:
            return  # reported already: `dataset.json` is wrong
        if unlabelled:
            yield f"imagesTr: {len(unlabelled)} images have no label map in labelsTr: {_named(unlabelled)}"
    if dataset.loader == "totalsegmentator":  # the survey checks the structures of the job line alone
        there = {case: set(_structures(case)) for case in sorted(folder.glob("s[0-9]*")) if case.is_dir()}
        everything = set().union(*there.values()) - set(_classes(folder)["classes"])
        for case, structures in there.items():
            if lacking := sorted(everything - structures):
                yield f"{case.name}: {len(lacking)} masks are missing that other cases have: {_named(lacking)}"
    is_btcv = dataset.loader == "synapse"
    if is_btcv and (averaged := sorted(path.name for path in folder.rglob("*.nii*") if is_averaged(path.name))):
        yield (
            f"{len(averaged)} files are averages over volumes, not the scans of the split: {_named(averaged)}: "
            f"fetch RawData.zip, with img0001.nii.gz and label0001.nii.gz, from {dataset.homepage}"
        )
