"""Pickles of a store or a checkpoint are never loaded: by the package's calls, and by files that try."""

import ast
import gzip
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from security.traps import Trap, line_of, works
from torch import nn

from freqbench.core.errors import CheckpointError, DataError, UserError
from freqbench.core.plugins import trusting
from freqbench.data import image_files, nibabel_files
from freqbench.models import ModelEntry, resolve
from freqbench.models.checkpoints import files as checkpoint
from freqbench.results import Store
from freqbench.results.schema import RECORDS, arrow_schema
from freqbench.training.state import LAST, State

PACKAGE = Path(__file__).parents[2] / "freqbench"
# Functions that can run what a file says, and where each may stand; `torch.load` and `numpy.load` by argument.
GUARDED = {
    "pickle.Unpickler": {"metrics/weights.py"},  # restricted to arrays, of content whose hash is pinned
    "torch.jit.load": {"models/sources/frozen.py"},  # behind require_trust
    "torch.export.load": {"models/sources/frozen.py"},
    "eval": {"attacks/core/declared.py"},  # of expressions in the package's own files, which an import would run too
    # The first behind require_trust, the others of names in a table of the package's own.
    "importlib.import_module": {
        *("core/plugins.py", "__init__.py", "attacks/__init__.py", "models/__init__.py"),
        "pipelines/nnunet.py",  # modules of nnunetv2, written there
    },
    "pkgutil.resolve_name": {
        "cli/catalogue.py",
        "core/files/storage.py",  # of `names.OWN_PROTOCOLS`
        "metrics/__init__.py",
        "models/networks/architectures.py",
        "models/networks/construction.py",
        "models/networks/inferring.py",
        "models/sources/nnunet.py",
        "pipelines/monai.py",
    },
}
NEVER = (
    *("torch.hub.load", "torch.package.PackageImporter", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("pandas.read_pickle", "os.system", "__import__", "exec", "runpy.run_path", "runpy.run_module"),
)
HARMLESS = {"pickle.UnpicklingError"}  # of all names of pickle, which is full of readers: `_loads`, `_Unpickler`
FOREIGN = {"_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle", "ray.cloudpickle"}


@lru_cache
def trees() -> dict[str, tuple[ast.AST, ...]]:
    """All nodes of every file of the package."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): (*ast.walk(ast.parse(path.read_text())),) for path in files}


def uses() -> Iterator[tuple[str, str]]:
    """Every name that the package reads, called or not: file and dotted name.

    A name is that of the library, however the file imports it: `np.load` is `numpy.load`, and so is `load` where it is
    taken from numpy.
    """
    for file, nodes in trees().items():
        originals = imported(nodes)
        for node in nodes:
            if isinstance(node, ast.Attribute | ast.Name):
                yield file, original(node, originals)


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of the package: dotted name, as in `uses`, and node."""
    for nodes in trees().values():
        originals = imported(nodes)
        yield from ((original(node.func, originals), node) for node in nodes if isinstance(node, ast.Call))


def runs_files(used: str) -> bool:
    """True for a name that can run what a file says."""
    return used in GUARDED or used in NEVER or (used.startswith("pickle.") and used not in HARMLESS)


def imported(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Names of libraries, by the names under which a file imports them."""
    originals = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            originals |= {alias.asname: alias.name for alias in node.names if alias.asname}
        if isinstance(node, ast.ImportFrom):
            originals |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return originals


def original(called: ast.expr, originals: Mapping[str, str]) -> str:
    first, dot, rest = ast.unparse(called).partition(".")
    return f"{originals.get(first, first)}{dot}{rest}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import pickle as p\np.load(x)", "pickle.load"),
        ("from pickle import loads\nloads(x)", "pickle.loads"),
        ("from importlib import import_module as take\ntake(x)", "importlib.import_module"),
        ("import numpy as np\nnp.load(x)", "numpy.load"),
        ("import os\nos.system(x)", "os.system"),
        ("import pickle\nread = partial(pickle.loads)", "pickle.loads"),
        ("from pickle import Unpickler as U\nclass Reader(U): pass", "pickle.Unpickler"),
        ("import pickle\npickle._Unpickler(x)", "pickle._Unpickler"),
    ],
)
def test_a_function_has_the_name_of_its_library(text: str, name: str) -> None:
    """The text is parsed and never run."""
    nodes = [*ast.walk(ast.parse(text))]
    names = {original(node, imported(nodes)) for node in nodes if isinstance(node, ast.Attribute | ast.Name)}
    assert name in names
    assert runs_files(name) or name == "numpy.load", "that has a test of its own"


@pytest.mark.integration
def test_names_that_run_a_file_stand_only_behind_guards() -> None:
    """Handed on counts as called."""
    places: dict[str, set[str]] = {}
    for file, used in uses():
        if runs_files(used):
            places.setdefault(used, set()).add(file)
    assert places == GUARDED


def test_torch_and_numpy_load_no_pickles() -> None:
    wanted = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
    places = [(called, node) for called, node in calls() if called in wanted]
    assert len(places) >= 2
    assert len(places) == sum(used in wanted for _, used in uses()), (
        "one is handed on, where its arguments are not seen"
    )
    for called, node in places:
        key, value = wanted[called]
        given = {word.arg: word.value for word in node.keywords}
        assert isinstance(given.get(key), ast.Constant), ast.unparse(node)
        assert given[key].value is value, ast.unparse(node)  # type: ignore[attr-defined]


def handed_on(nodes: Iterable[ast.AST]) -> set[str]:
    """Modules of readers that stand for themselves, as in `getattr(pickle, name)`, where no name of theirs is seen."""
    nodes = [*nodes]
    originals = imported(nodes)
    owners = {node.value for node in nodes if isinstance(node, ast.Attribute)}
    owners |= {node.args[0] for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr"}
    names = {original(node, originals) for node in nodes if isinstance(node, ast.Name) and node not in owners}
    return names & {used.rpartition(".")[0] for used in (*GUARDED, *NEVER)}


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("import pickle as p\nread = getattr(p, name)", {"pickle"}),
        ("import pickle\nq = pickle\nq.UnpicklingError", {"pickle"}),
        ("import yaml\nyaml.safe_load(x)", set()),
        ("import os\nhasattr(os, name)", set()),
    ],
)
def test_a_module_of_readers_that_is_handed_on_is_seen(text: str, modules: set[str]) -> None:
    assert handed_on(ast.walk(ast.parse(text))) == modules


def test_no_module_of_readers_is_handed_on() -> None:
    assert {file: handed_on(nodes) for file, nodes in trees().items() if handed_on(nodes)} == {}


def test_pickle_libraries_are_not_imported() -> None:
    hidden = {"pickle": {"load", "loads"}, "torch": {"load"}, "numpy": {"load"}, "yaml": {"load", "unsafe_load"}}
    for file, nodes in trees().items():
        for node in nodes:
            if isinstance(node, ast.Import):
                assert not FOREIGN & {alias.name for alias in node.names}, file
            if isinstance(node, ast.ImportFrom):
                assert node.module not in FOREIGN, file
                is_own = str(node.module).startswith("freqbench")
                assert is_own or node.names[0].name != "*", f"{file}: names of a star cannot be followed"
                assert not hidden.get(str(node.module), set()) & {alias.name for alias in node.names}, file


@pytest.fixture
def sprung(tmp_path: Path) -> Iterator[Path]:
    """The file that a trap makes where it is loaded; fails at the end if it is there."""
    place = tmp_path / "sprung"
    assert works(place)
    yield place
    assert not place.exists()


def refused(path: Path, arch: str = "unet") -> str:
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
    path, content = tmp_path / f"m{suffix}", {"state_dict": {"w": torch.ones(1)}, "trap": trap}
    with path.open("wb") as stream:
        if kind == "pickle":
            pickle.dump(content, stream)
        elif kind == "numpy":
            np.savez(stream, w=np.array([Trap(sprung)], dtype=object))
        else:
            torch.save(content, stream, _use_new_zipfile_serialization=kind != "old torch")
    assert refused(path)


@pytest.mark.parametrize("arch", ["torchscript", "torch_export"])
def test_a_program_is_not_opened_without_trust(tmp_path: Path, arch: str) -> None:
    torch.jit.script(nn.Conv3d(1, 3, 1)).save(str(tmp_path / "m.pt"))
    with pytest.raises(UserError, match="needs --trust-code"):
        resolve(ModelEntry(name="m", arch=arch, checkpoint=str(tmp_path / "m.pt"), roi=(8, 8, 8)), 3)
    assert "TorchScript file, which is a program" in refused(tmp_path / "m.pt")


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
            swell = 2**22 if entry.filename.endswith("data/0") else 0
            new.writestr(entry.filename, old.read(entry) + bytes(swell))
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


LYING = {
    "header beyond the file": safetensors({}, length=2**40),
    "data beyond the file": safetensors({"w": {"dtype": "F32", "shape": [2**30], "data_offsets": [0, 2**32]}}),
    "shape that is not its data": safetensors({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}),
    "no header": safetensors(b"\x80\x04."),
}


@pytest.mark.parametrize("content", LYING.values(), ids=LYING)
def test_safetensors_that_lie_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    assert "not a checkpoint, or a truncated one" in refused(tmp_path / "m.safetensors")


def test_a_checkpoint_names_no_class_to_import(tmp_path: Path) -> None:
    checkpoint.save_checkpoint(
        tmp_path / "m.safetensors", {"w": torch.ones(1)}, {"arch": "booby:Trap", "args": {}}, half=False
    )
    with (
        trusting(),
        pytest.raises(UserError, match="trained as booby:Trap, code of another package, which a job must name itself"),
    ):
        resolve(ModelEntry(name="m", checkpoint=str(tmp_path / "m.safetensors")), 3)


def test_a_table_s_own_types_run_nothing(sprung: Path, tmp_path: Path) -> None:
    """Arrow's old extension types are pickles in a field's metadata, and pandas' index stands in the schema's."""
    serialized = pickle.dumps(Trap(sprung))
    marks = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": serialized}
    schema = arrow_schema(RECORDS)
    fields = [field.with_metadata(marks) for field in schema]
    hostile = pa.schema(fields, metadata={**(schema.metadata or {}), b"pandas": serialized})
    (tmp_path / "records").mkdir()
    pq.write_table(hostile.empty_table(), tmp_path / "records" / "a.parquet")
    Store(str(tmp_path)).records().to_pandas()


def nifti_of(shape: tuple[int, ...], data: bytes) -> bytes:
    """A header that promises a shape, and some data."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header.set_sform(np.eye(4), 1)
    return bytes(header.binaryblock) + bytes(4) + data


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(1000, 1000, 1000), (20_000, 20_000, 20_000)])
def test_volume_that_promises_more_than_it_holds_takes_no_memory(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("voxels were read")

    content, path = nifti_of(shape, bytes(100)), tmp_path / f"a{suffix}"
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
