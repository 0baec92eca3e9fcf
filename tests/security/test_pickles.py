"""Pickles of a store or a checkpoint are never loaded, and no Parquet file that stands for more than it is."""

import gzip
import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from results.conftest import make_classes, make_record
from security.traps import Trap, line_of, works
from torch import nn

from freqbench.audit.verify import verify
from freqbench.core.errors import CheckpointError, DataError, UserError
from freqbench.core.plugins import trusting
from freqbench.data import image_files, nibabel_files
from freqbench.models import ModelEntry, resolve
from freqbench.models.checkpoints import files as checkpoint
from freqbench.results import Store, schema
from freqbench.results.schema import CLASSES
from freqbench.results.writer import to_rows
from freqbench.training.state import LAST, State

PACKAGE = Path(__file__).parents[2] / "freqbench"


def test_torch_and_numpy_load_no_pickles() -> None:
    """Ruff (TID251, S) refuses all else that can run what a file says, but at places behind guards."""
    unsafe = re.compile(r"weights_only=(?!True)|allow_pickle=(?!False)")
    assert [path for path in PACKAGE.rglob("*.py") if unsafe.search(path.read_text("utf-8"))] == []


@pytest.fixture
def sprung(tmp_path: Path) -> Iterator[Path]:
    """The file that a trap makes where it is loaded; fails at the end if it is there."""
    place = tmp_path / "sprung"
    assert works(place)
    yield place
    assert not place.exists()


def refused(path: Path, arch: str | None = "unet") -> str:
    with pytest.raises(CheckpointError) as caught:
        resolve(ModelEntry(name="m", arch=arch, checkpoint=str(path), roi=(32, 32, 16)), 3)
    return line_of(caught)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((".pt", "torch"), (".npz", "old torch"), (".pt", "torch, in an array")),
        *((".safetensors", "pickle"), (".pt", "numpy"), (".npz", "pickle")),
    ],
)
def test_a_checkpoint_runs_nothing_whatever_it_is_called(sprung: Path, tmp_path: Path, suffix: str, kind: str) -> None:
    trap = np.array([Trap(sprung)], dtype=object) if kind == "torch, in an array" else Trap(sprung)
    path = tmp_path / f"m{suffix}"
    content = {"state_dict": {"w": torch.ones(1)}, "trap": trap}
    with path.open("wb") as stream:
        if kind == "pickle":
            pickle.dump(content, stream)
        elif kind == "numpy":
            np.savez(stream, w=np.array([Trap(sprung)], dtype=object))
        else:
            torch.save(content, stream, _use_new_zipfile_serialization=kind != "old torch")
    assert refused(path)


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Conv3d(1, 3, 1)), path)


def _export(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Conv3d(1, 3, 1), (torch.rand(1, 1, 4, 4, 4),)), path)


def _former_export(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")


SCRIPT, EXPORT = "torch.jit.load(FILE)", "torch.jit.trace(torch.export.load(FILE).module(), window)"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("arch", ["unet", None])
@pytest.mark.parametrize(
    ("save", "kind", "opened"),
    [
        (_script, "a TorchScript file", SCRIPT),
        (_export, "an archive of torch.export", EXPORT),
        (_former_export, "an archive of torch.export", EXPORT),
    ],
)
def test_a_program_is_never_opened(
    tmp_path: Path,
    save: Callable[[Path], None],
    kind: str,
    opened: str,
    arch: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its line has the way out: an ONNX file, which holds no code."""
    path = tmp_path / "m.pt2"
    save(path)
    monkeypatch.setattr(torch, "load", None)
    way = f'torch.onnx.export({opened}, (window,), "net.onnx", dynamo=False, opset_version=17), and give arch: onnx'
    with trusting():
        assert refused(path, arch) == f"{path}: expected weights, got {kind}, which is a program: export it by {way}"


def test_an_nnunet_folder_runs_nothing(sprung: Path, tmp_path: Path) -> None:
    (tmp_path / "fold_0").mkdir()
    for name in ("plans.json", "dataset.json"):
        (tmp_path / name).write_text("{}")
    torch.save({"network_weights": {}, "trap": Trap(sprung)}, tmp_path / "fold_0" / "checkpoint_final.pth")
    assert "a pickle that asks for" in refused(tmp_path, "nnunet")


def test_a_bundle_runs_nothing(sprung: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "models").mkdir()
    expression = f"$__import__('pathlib').Path({str(sprung)!r}).touch()"
    (tmp_path / "configs" / "inference.json").write_text(json.dumps({"network_def": expression}))
    torch.save({"trap": Trap(sprung)}, tmp_path / "models" / "model.pt")
    with pytest.raises(UserError, match="needs --trust-code") as caught:
        resolve(ModelEntry(name="m", bundle=str(tmp_path)), 3)
    line_of(caught)


def test_a_training_s_last_state_runs_nothing(sprung: Path, tmp_path: Path) -> None:
    torch.save({"identity": "i", "trap": Trap(sprung)}, tmp_path / LAST)
    net = nn.Conv3d(1, 1, 1)
    with pytest.raises(CheckpointError, match="a pickle that asks for") as caught:
        State(net=net, optimizer=torch.optim.AdamW(net.parameters())).restore(str(tmp_path), "i")
    line_of(caught)


@pytest.mark.parametrize("in_memory", [False, True])
def test_an_archive_that_unpacks_to_more_is_refused_unread(tmp_path: Path, in_memory: bool) -> None:
    """One of torch.save with its entries deflated, the first tensor grown by zeros."""
    torch.save({"w": torch.ones(4)}, tmp_path / "plain.pt")
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(tmp_path / "plain.pt") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry) + bytes(2**22 if entry.filename.endswith("data/0") else 0))
    assert path.stat().st_size < 2**14
    with pytest.raises(CheckpointError, match="got one that unpacks to more than its size") as caught:
        checkpoint.read_torch("m.pt", io.BytesIO(path.read_bytes()) if in_memory else path)
    line_of(caught)


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """An archive whose directory names one entry a hundred times unpacks to a hundred times its size."""
    torch.save({"w": torch.ones(2**14)}, tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt", "a") as file:
        (large,) = [entry for entry in file.infolist() if entry.filename.endswith("data/0")]
        for number in range(100):
            again = zipfile.ZipInfo(f"{large.filename}_{number}")
            for name in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(again, name, getattr(large, name))
            file.filelist.append(again)
        file._didModify = True  # type: ignore[attr-defined]
    assert "unpacks to more than its size" in refused(tmp_path / "m.pt")


def safetensors(header: Any, data: bytes = bytes(4), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(safetensors({}, length=2**40), id="header beyond the file"),
        pytest.param(
            safetensors({"w": {"dtype": "F32", "shape": [2**30], "data_offsets": [0, 2**32]}}),
            id="data beyond the file",
        ),
        pytest.param(
            safetensors({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}), id="shape that is not its data"
        ),
        pytest.param(safetensors(b"\x80\x04."), id="no header"),
    ],
)
def test_safetensors_that_lie_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    assert "not a checkpoint, or a truncated one" in refused(tmp_path / "m.safetensors")


def test_a_checkpoint_names_no_class_to_import(tmp_path: Path) -> None:
    metadata = {"arch": "booby:Trap", "args": {}}
    checkpoint.save_checkpoint(tmp_path / "m.safetensors", {"w": torch.ones(1)}, metadata, half=False)
    with (
        trusting(),
        pytest.raises(UserError, match="trained as booby:Trap, code of another package, which a job must name itself"),
    ):
        resolve(ModelEntry(name="m", checkpoint=str(tmp_path / "m.safetensors")), 3)


def test_a_table_s_own_types_run_nothing(sprung: Path, tmp_path: Path) -> None:
    """Arrow's old extension types are pickles in a field's metadata, and pandas' index stands in the schema's."""
    serialized = pickle.dumps(Trap(sprung))
    marks = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": serialized}
    fields = [field.with_metadata(marks) for field in schema.ROWS]
    hostile = pa.schema(fields, metadata={**(schema.ROWS.metadata or {}), b"pandas": serialized})
    (tmp_path / "records").mkdir()
    pq.write_table(hostile.empty_table(), tmp_path / "records" / "a.parquet")
    Store(str(tmp_path)).records().to_pandas()


def nifti_of(shape: tuple[int, ...], data: bytes) -> bytes:
    """A header that promises a shape, and some data."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    header.set_sform(np.eye(4), 1)
    return bytes(header.binaryblock) + bytes(4) + data


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(1000, 1000, 1000), (20_000, 20_000, 20_000)])
def test_volume_that_promises_more_than_it_holds_takes_no_memory(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("voxels were read")

    content = nifti_of(shape, bytes(100))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "__array__", never)
    with pytest.raises(DataError) as caught:
        image_files.read_image(nibabel_files.read_header(path))
    line_of(caught)
    with pytest.raises(DataError) as caught:
        nibabel_files.read_packed(gzip.compress(content), "a.nii.gz")
    line_of(caught)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b", gzip.compress(b""), gzip.compress(bytes(400)), pickle.dumps(1)],
    ids=["nothing", "a beginning", "nothing packed", "zeros packed", "pickle"],  # gzip writes the time into its bytes
)
def test_a_saved_volume_that_is_none_is_one_line(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^a\.nii\.gz: expected a volume") as caught:
        nibabel_files.read_packed(content, "a.nii.gz")
    line_of(caught)


LONG = "x" * 2_000_000
ROWS = 60
Write = Callable[[Path, pa.Table], None]


def _of(make: Callable[[int], pa.Array], column: str = "caution", step: int = 10, **how: object) -> Write:
    """Writes a column of `make(rows)` in row groups of some rows each."""

    def write(path: Path, table: pa.Table) -> None:
        values = make(len(table))
        at = table.schema.get_field_index(column)
        changed = table.set_column(at, pa.field(column, values.type), values)
        pq.write_table(changed, path, row_group_size=step, compression="zstd", **how)

    return write


def _copies(rows: int) -> pa.Array:
    return pa.array([LONG] * rows)


def _classes(rows: int, count: int = 300, **columns: pa.Array) -> pa.Array:
    own = schema.ROWS.field(CLASSES).type.value_type
    offsets = pa.array(range(0, count * rows + 1, count), pa.int32())
    parts = [columns.get(each.name, pa.nulls(count * rows, each.type)) for each in own]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(parts, fields=list(own)))


def _long_names(rows: int) -> pa.Array:
    return _classes(rows, 1, class_name=_copies(rows))


def _blocks(rows: int) -> pa.Array:
    return pa.array([LONG.encode()] * rows, pa.binary(len(LONG)))


def _many_rows(path: Path, table: pa.Table) -> None:
    pq.write_table(table.take([0] * 30_000), path, compression="zstd")


SPELLINGS: dict[str, tuple[Write, str]] = {
    "copies of a text": (_of(_copies), r"expected at most \d+ MiB in memory from a file of its size, got \d+"),
    "copies in a numbers' column": (_of(_copies, "dsc"), r"expected at most \d+ MiB in memory"),
    "packed texts": (_of(_copies, use_dictionary=False), r"expected at most \d+ MiB in memory"),
    "texts by their difference": (
        _of(_copies, use_dictionary=False, column_encoding={"caution": "DELTA_BYTE_ARRAY"}),
        "caution: expected a value a row in a usual encoding, got something else",
    ),
    "lists": (_of(lambda rows: pa.array([[1.0] * 10**5] * rows), "dsc"), "expected the columns .* 2, got no dsc"),
    "classes": (_of(_classes, CLASSES), "classes.list.element.class_index: expected at most 256 values a row"),
    "copies of a class's name": (_of(_long_names, CLASSES), r"expected at most \d+ MiB in memory"),
    "blocks": (_of(_blocks), "caution: expected a value a row"),
    "copies of a row": (_many_rows, r"expected at most \d,\d{3} rows in a file of its size, got 30,000"),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    rows = [make_record(minute, case_key=f"case{minute}") for minute in range(ROWS)]
    store.writer("run0", interval_s=0).add(rows, list(map(make_classes, rows)))
    return store


@pytest.mark.parametrize("what", SPELLINGS)
def test_swelling_file_is_refused_unread(store: Store, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, complaint = SPELLINGS[what]
    (path,) = (Path(store.root) / "records").iterdir()
    write(path, pq.read_table(path))
    assert path.stat().st_size < 2**20
    former = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(UserError, match=complaint) as caught:
            store.class_records() if "class" in what else store.records()
    finally:
        pa.set_memory_pool(former)
    assert "freqbench did not write it: restore it, or move it away" in str(caught.value)
    assert pool.max_memory() < 2**26


def test_verify_refuses_classes_with_copies_of_a_text(store: Store) -> None:
    store.write_job({"index": {"cells": []}})
    (path,) = (Path(store.root) / "records").iterdir()
    _of(_long_names, CLASSES)(path, pq.read_table(path))
    assert "MiB in memory from a file of its size" in verify(store)[0].text


def test_the_rows_of_one_write_of_a_run_are_read(tmp_path: Path) -> None:
    row = make_record()
    (tmp_path / "records").mkdir()
    pq.write_table(to_rows([row], [make_classes(row, 256)]).take([0] * 5000), tmp_path / "records/run0-000000.parquet")
    assert len(Store(str(tmp_path)).class_records()) == 256
