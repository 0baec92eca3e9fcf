"""Reads NIfTI-1, NIfTI-2 and FreeSurfer's MGH files by nibabel; what it repairs or does not check is checked here."""

import gzip
import io
import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError
from freqbench.core.types import triple
from freqbench.data import headers
from freqbench.data.headers import Header

PAIR = ".hdr"  # a header with its voxels in `.img` beside it
SUFFIXES = (".nii.gz", ".nii", PAIR)
MGH = (".mgz", ".mgh")
PACKED = (".gz", ".mgz")
LONGEST_HEADER = 540  # bytes, of NIfTI-2
# Units of the codes of `xyzt_units`, and their millimetres; lengths without a unit count as millimetres.
UNITS = {0: ("no unit", 1.0), 1: ("metres", 1e3), 2: ("millimetres", 1.0), 3: ("micrometres", 1e-3)}
# Hears of nibabel's repairs of headers, which name no file: faults that matter are refused here.
UNHEARD = logging.Logger("freqbench.unheard", logging.CRITICAL + 1)


def parts(path: Path) -> tuple[str, ...]:
    """Returns the name of the file with the voxels, in the folder of the header at `path`; none if they follow it."""
    return (path.with_suffix(".img").name,) if path.suffix == PAIR else ()


def read_header(path: Path, multichannel: bool = False) -> Header:
    """Reads and checks the header at `path`, of several channels only if `multichannel`; see
    `image_files.Reader.read_header`."""
    return _header(path, _spec(path), multichannel)


def read_voxels(header: Header, kind: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Returns all voxels `[H, W, D, C]` of the file of `header` as numbers of a `kind`, scaled by slope and intercept;
    reads to gzip's checksum at the end."""
    with _open_stream(header.place.file) as stream:
        voxels = _voxels(stream, _spec(header.path), kind)
        if header.place.packing:
            all(stream.read(2**20) for _ in range(headers.MAX_BYTES // 2**20))
    return voxels.reshape(*header.shape, header.fourth)


def read_packed(content: bytes, path: str) -> npt.NDArray[np.float32]:
    """Returns the voxels of a `.nii.gz` in memory (`content`), channels on a fourth axis; refuses a damaged one after
    `path`."""
    begin = f"{path}: expected a volume that was saved, got an unreadable one"
    with _refusal(begin), gzip.open(io.BytesIO(content)) as stream:
        spec = _nifti_header(path, stream.read(LONGEST_HEADER))
        header = _header(Path(path), spec, multichannel=True)
        headers.check_room(path, header.num_voxels, header.num_bytes, len(content) * headers.MOST_PACKED)
        return _voxels(stream, spec, np.float32)


def _open_stream(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.name.endswith(PACKED) else path.open("rb")


def _voxels(stream: gzip.GzipFile | io.BufferedReader, spec: Any, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    from nibabel.arrayproxy import ArrayProxy

    return np.asanyarray(ArrayProxy(stream, spec), dtype=kind)


def _refusal(begin: str, advice: str = "fetch the file again") -> AbstractContextManager[None]:
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    return headers.refusal(begin, advice, (*headers.FAULTS, HeaderDataError, WrapStructError))


def _spec(path: Path) -> Any:
    what = "an MGH" if path.suffix in MGH else "a NIfTI"
    with _refusal(f"{path}: expected {what} file, got an unreadable header"), _open_stream(path) as stream:
        return (_mgh_header if path.suffix in MGH else _nifti_header)(path, stream.read(LONGEST_HEADER))


def _mgh_header(path: Path, begin: bytes) -> Any:
    from nibabel.freesurfer.mghformat import MGHHeader, data_type_codes

    spec = MGHHeader(begin, check=False)
    version = int(spec["version"])
    kind = int(spec["type"])
    if version != 1 or kind not in data_type_codes.value_set("code"):
        got = f"got version {version} and type {kind}: convert it by mri_convert"
        raise DataError(f"{path}: expected an MGH file of version 1 with real numbers, {got}")
    if not any(begin[28:30]):  # nibabel fills directions in
        got = "got goodRASFlag 0: fix it, such as by mri_convert with -iid, -ijd, -ikd"
        raise DataError(f"{path}: expected a header that states the directions of its axes, {got}")
    return spec


def _nifti_header(path: Path | str, begin: bytes) -> Any:
    from nibabel import AnalyzeHeader, Nifti1Header, Nifti1Pair, Nifti2Header, Nifti2Pair

    is_pair = str(path).endswith(PAIR)
    kinds = (Nifti1Pair.header_class, Nifti2Pair.header_class) if is_pair else (Nifti1Header, Nifti2Header)
    kind = next((kind for kind in kinds if kind.may_contain_header(begin)), None)
    if kind is None and is_pair and AnalyzeHeader.may_contain_header(begin):
        advice = "convert it by a tool that knows them"
        rest = f"which does not state the directions of its axes, and readers take different ones: {advice}"
        raise DataError(f"{path}: expected a NIfTI file, got Analyze 7.5, {rest}")
    if kind is None:
        raise ValueError("its first bytes are not those of NIfTI")
    spec = kind(begin[: kind.sizeof_hdr], check=False)
    sides = spec["pixdim"][1:4].copy()
    start = spec.get_data_offset()
    if spec.is_single and start < spec.single_vox_offset:
        got = f"got a vox_offset of {start}: fix the header"
        raise DataError(f"{path}: expected voxels from byte {spec.single_vox_offset} on, behind the header, {got}")
    spec.check_fix(logger=UNHEARD)
    spec.get_slope_inter()
    if spec["sform_code"] == 0 and not (sides > 0).all():
        raise DataError(f"{path}: expected sides above 0, got {headers.spell(sides)} in pixdim, and no sform: fix it")
    return spec


def _header(path: Path, spec: Any, multichannel: bool) -> Header:
    (file,) = parts(path) or (path.name,)
    code = 2
    guess = ""
    if path.suffix not in MGH:
        code = int(spec["xyzt_units"]) % 8
        guess = _guess(path, spec)
    if code not in UNITS:
        raise DataError(f"{path}: expected a unit of length in xyzt_units (0 to 3), got {code}: fix the header")
    unit, length = UNITS[code]
    place = headers.place_behind(spec.get_data_offset(), path.parent / file, path.name.endswith(PACKED))
    header = headers.header_of(
        path,
        spec.get_data_shape(),
        spec.get_data_dtype(),
        spec.get_best_affine(),
        (unit, length, "xyzt_units"),
        multichannel,
        unfilled="sform, qform and unit" if guess and not code else "",
        guess=guess,
        place=place,
    )
    stated = triple(float(side) * length for side in spec.get_zooms()[:3])  # ITK takes these
    return replace(
        header,
        stated=stated if np.allclose(stated, header.spacing, rtol=1e-3) else None,
        stored=header.stored if spec.get_slope_inter() in ((None, None), (1, 0)) else "float32",
    )


def _guess(path: Path, spec: Any) -> str:
    """Returns the guess of a NIfTI header's missing directions; refuses a header whose sform and qform differ."""
    with _refusal(f"{path}: expected a rotation as qform, got none", "fix the header"):
        sform = spec.get_sform(coded=True)[0]
        qform = spec.get_qform(coded=True)[0]
        headers.check_invertible(path, spec.get_best_affine())
    if sform is None and qform is None:
        return f"{headers.NO_DIRECTIONS}left, anterior and superior, as nibabel does"
    if sform is not None and qform is not None:
        sides, others = (np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform))
        along = (sform[:3, :3] * qform[:3, :3]).sum(axis=0) / (sides * others)  # the cosine between the two, an axis
        if not (np.isclose(sides, others, rtol=0.01, atol=0) & (along > 0.5)).all():
            raise DataError(
                f"{path}: expected the same grid of sform and qform, got {_grid_text(sform)} and {_grid_text(qform)} "
                f"({UNITS.get(int(spec['xyzt_units']) % 8, ('no unit',))[0]}): set the code of the wrong one to 0"
            )
    return ""


def _grid_text(affine: npt.NDArray[np.float64]) -> str:
    from nibabel.orientations import aff2axcodes

    return f"{headers.spell(headers.spacing_of(affine))} {''.join(map(str, aff2axcodes(affine)))}"
