"""Lists saved volumes of stores for the viewer, packs the files that a browser reads, and picks glimpses."""

import base64
import gzip
import hashlib
import io
import math
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from freqbench.analysis.groups import is_counted, is_white_box, join_files
from freqbench.analysis.scores import FOREGROUND
from freqbench.core import names
from freqbench.core.documents import object_of
from freqbench.core.errors import DataError, UserError
from freqbench.core.files import storage
from freqbench.data import nibabel_files
from freqbench.reporting.colors import class_colors
from freqbench.results import volumes
from freqbench.results.glimpses import paths_of, read
from freqbench.results.volumes import RegionsOfLabels

FOLDER = "volumes"
INT16 = 32767
MOST_BYTES = 8_000_000  # of the glimpses of a page
PACKING = 6  # of 9: higher levels pack an attack's noise no better
Part = dict[str, Any]
Regions = Mapping[str, RegionsOfLabels]
_KINDS: Mapping[str, str] = {"clean": volumes.ON_CLEAN, "adversarial": volumes.ON_ADVERSARIAL}


def write_volumes(
    records: pd.DataFrame,
    classes: pd.DataFrame,
    stores: Sequence[str],
    folder: str,
    regions: Regions,
    most: int | None = None,
) -> Part:
    """Writes the saved volumes of records as scripts below a folder, for a page that is opened from disk; removes those
    of former calls. Each is `volumes/KEY.js`, a call with the file's bytes, KEY a hash of its content, so that a clean
    volume is written once. Real numbers are rounded to 16-bit steps of 1/32767 of [0, 1], or of their largest magnitude
    if that is more.

    Args:
        records: after `tables.current`; only rows with saved volumes count.
        classes: columns of CLASS_RECORDS, for the names of classes.
        stores: their roots, folders or URIs.
        folder: that of the page, likewise.
        regions: of each label by dataset, as of `contents.regions_of`.
        most: bytes that the attacked volumes may have in the stores, the largest drops first; None: all are written.

    Returns:
        The argument of `freqbenchViewer.open`.
    """
    keys: dict[str, str] = {}  # key of each file of a store
    sizes: dict[str, int] = {}
    rounding = 0.0

    def key(place: str, name: str) -> str:
        nonlocal rounding
        path = storage.join(place, name)
        if path not in keys:
            content, error = browser_file(storage.read_bytes(path), path)
            rounding = max(rounding, error)
            digest = hashlib.blake2b(content, digest_size=8).hexdigest()
            script = _beginning(digest) + base64.b64encode(content) + b'")\n'
            keys[path] = digest
            sizes[digest] = len(script)
            target = storage.join(folder, FOLDER, f"{digest}.js")
            if not storage.exists(target):
                storage.write_atomic(target, script)
        return keys[path]

    note = ""
    if most is not None:
        records, note = _strongest(records, stores, most)
    rows = _saved_rows(records, stores)
    class_names = _class_names(classes[classes["cell_id"].isin(rows["cell_id"])])
    cases = []
    faults = []
    for _, group in rows.groupby(["cell_id", "case_key"], sort=False, observed=True):
        store, _ = group["file"].iloc[0]
        try:
            cases.append(_case(group, class_names, stores[store], key))
        except (UserError, FileNotFoundError) as fault:
            faults.append(str(fault))
    left_out = f"{len(faults)} saved volumes are left out; the first: {faults[0]}" if faults else ""
    _remove_former(storage.join(folder, FOLDER), sizes)
    return {
        "base": f"{FOLDER}/",
        "colors": class_colors(),
        "score": FOREGROUND,
        "regions": regions,
        "cases": cases,
        "notes": [text for text in (left_out, note) if text],
        "bytes": sum(sizes.values()),
        "rounding": rounding,
    }


def _class_names(classes: pd.DataFrame) -> dict[str, Any]:
    """Returns the names of classes, by cell and number."""
    named = classes.drop_duplicates(["cell_id", "class_index"]).astype({"class_name": str}).set_index("class_index")
    groups = named.groupby("cell_id", observed=True)["class_name"]
    return {str(cell): of_cell.to_dict() for cell, of_cell in groups}


def _remove_former(folder: str, keys: Collection[str]) -> None:
    """Removes the scripts of volumes with other keys from a folder, and no other file."""
    for name in storage.list_files(folder, ".js"):
        path = storage.join(folder, name)
        key = name.removesuffix(".js")
        begin = _beginning(key)
        if key not in keys and storage.read_range(path, 0, len(begin)) == begin:
            storage.remove(path)


def browser_file(content: bytes, path: str) -> tuple[bytes, float]:
    """Makes the `content` of a packed NIfTI file small for a page; returns it and its rounding, in units of intensity.
    DataError, with the file's `path`: damaged or not finite."""
    import nibabel

    voxels = nibabel_files.read_packed(content, path)
    with gzip.open(io.BytesIO(content)) as stream:
        header = nibabel.Nifti1Header.from_fileobj(stream)
    if header.get_data_dtype().kind in "bui":
        return content, 0.0
    if not np.isfinite(voxels).all():
        raise DataError(f"{path}: expected finite intensities, got NaN or infinite ones: run the case again")
    slope = max(1.0, float(np.abs(voxels).max())) / INT16
    image = nibabel.Nifti1Image(np.rint(voxels / slope).astype(np.int16), header.get_best_affine())
    image.header.set_slope_inter(slope, 0)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=PACKING, mtime=0), slope / 2


def _beginning(key: str) -> bytes:
    return f'freqbenchVolume("{key}","'.encode()


def _strongest(records: pd.DataFrame, stores: Sequence[str], most: int) -> tuple[pd.DataFrame, str]:
    """Selects saved volumes that lost most white-box, of `most` bytes at most; says what is not among them."""
    rows = _saved_rows(records, stores)
    drops = (rows["dsc_foreground_clean"] - rows["dsc_foreground"]).where(is_white_box(rows)).astype(float)
    rows = rows.assign(drop=drops).sort_values("drop", ascending=False, kind="stable")
    volumes_of = rows.drop_duplicates(["cell_id", "case_key"])
    kept: list[tuple[str, str]] = []
    for cell, case, (store, place) in volumes_of[["cell_id", "case_key", "file"]].itertuples(index=False, name=None):
        most -= storage.size(storage.join(stores[store], volumes.VOLUMES, place, volumes.ADVERSARIAL))
        if most < 0:
            break
        kept.append((cell, case))
    note = f"{len(kept)} of {len(volumes_of)} volumes, the largest drops; report --format html --volumes shows all."
    wanted = pd.MultiIndex.from_frame(records[["cell_id", "case_key"]]).isin(kept)
    return records[wanted], note if len(kept) < len(volumes_of) else ""


def _saved_rows(records: pd.DataFrame, stores: Sequence[str]) -> pd.DataFrame:
    """Selects the rows whose volumes are saved; `file` is the number of the first store with them, and their folder."""
    files: dict[tuple[str, str], tuple[int, str]] = {}
    for number, store in reversed([*enumerate(stores)]):
        saved = volumes.whole(storage.join(store, volumes.VOLUMES))
        files |= {key: (number, folder) for key, folder in saved.items()}
    rows = join_files(records[is_counted(records)], files)
    seeds = rows.groupby(["dataset", "case_id", "source_model", "label"], observed=True)["seed"].transform("nunique")
    labels = rows["label"].astype(str)
    rows = rows.assign(label=labels.where(seeds < 2, labels + " seed=" + rows["seed"].astype("Int64").astype(str)))
    return rows.sort_values(["dataset", "case_id", "source_model", "label", "target_model"], kind="stable")


def _case(group: pd.DataFrame, class_names: Mapping[str, Any], store: str, key: Callable[[str, str], str]) -> Part:
    """Makes the entry of one saved volume from its rows, one per target; UserError for files that cannot be read."""
    row = group.iloc[0]
    place = storage.join(store, volumes.VOLUMES, row["file"][1])
    names.require_inside(store, place)
    files = storage.list_files(place, volumes.SUFFIX)
    for name in (*files, volumes.FACTS):
        names.require_inside(store, storage.join(place, name))
    if missing := {volumes.CLEAN, volumes.ADVERSARIAL} - set(files):
        raise DataError(f"{place}: expected {' and '.join(sorted(missing))}, found none: run the case again")
    path = storage.join(place, volumes.FACTS)
    stated = volumes.volume_facts(object_of(storage.read_bytes(path), path), path)
    keys = {name: key(place, name) for name in files}
    labels = class_names.get(str(row["cell_id"]), {})
    scores = group[["target_model", "dsc_foreground_clean", "dsc_foreground"]].itertuples(index=False, name=None)
    dice: dict[str, list[float | None]] = {}  # on the clean and the adversarial volume
    for model, *pair in scores:
        dice[str(model)] = [None if math.isnan(score) else float(score) for score in pair]
    shown = {
        "clean": keys[volumes.CLEAN],
        "adversarial": keys[volumes.ADVERSARIAL],
        "label": keys.get(volumes.LABEL),
        "predictions": _predictions(keys, dice),
    }
    return {
        "dataset": str(row["dataset"]),
        "case": str(row["case_id"]),
        "attack": str(row["label"]),
        "source": str(row["source_model"]),
        "files": shown,
        "class_names": [labels.get(index, f"class {index}") for index in range(int(row["num_classes"]))],
        "dsc": dice,
        "ranges": stated.native_ranges,
        "unit": stated.unit,
    }


def _predictions(keys: Mapping[str, str], models: Iterable[str]) -> dict[str, dict[str, str | None]]:
    """Returns the keys of predictions by model and kind; none of a model whose name in files is another's too."""
    of_targets = volumes.predictions(keys)
    names = [model.partition("#")[0] for model in models]
    found = {}
    for model, name in zip(models, names, strict=True):
        if name in of_targets and names.count(name) == 1:
            files = of_targets[name]
            found[model] = {kind: keys.get(files.get(file, "")) for kind, file in _KINDS.items()}
    return found


def shown_glimpses(records: pd.DataFrame, stores: Sequence[str]) -> list[Part]:
    """Returns the glimpse of each white-box row of the summary that has one, the largest drops first, MOST_BYTES at
    most: of seeds or stores the case that lost most. `row` of the records is the place of each in the summary."""
    files = ChainMap(*map(paths_of, stores))  # the first store's win
    rows = join_files(records, files)
    rows = rows[is_white_box(rows) & (rows["status"] == "ok")]
    drops = 100 * (rows["dsc_foreground_clean"] - rows["dsc_foreground"]).astype(float)
    rows = rows.assign(drop=drops).sort_values("drop", ascending=False, kind="stable").drop_duplicates("row")
    names = dict(zip(records["target_model_id"], records["target_model"], strict=True))
    shown: list[Part] = []
    room = MOST_BYTES
    for row, case, drop, path in rows[["row", "case_id", "drop", "file"]].itertuples(index=False, name=None):
        if seen := read(path, names):
            room -= len(seen.planes)
            if room < 0:
                break
            about = {"row": int(row), "case": str(case), "drop": round(drop, 2), "words": seen.words}
            shown.append(about | {"slice": dict(seen)})
    return shown
