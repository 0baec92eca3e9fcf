"""Reads untrusted checkpoints as state dicts, and writes freqbench's own as safetensors with a training record. Files
are recognised by their content; torch's are read with `weights_only=True`, so that none can run code. Beside weights,
numpy scalars are read, numpy arrays and argparse options skipped."""

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor

from freqbench.core.documents import object_of
from freqbench.core.errors import CheckpointError, NoFileError, UnsafeError, UserError, one_line
from freqbench.core.files import storage
from freqbench.core.types import Outputs
from freqbench.models.entry import advice_on_classes
from freqbench.models.packaged import METADATA_KEY, ZOO, zoo_path

# Keys of the weights in a file that holds more: Lightning, MONAI, nnU-Net v1; torch's tutorials; nnU-Net v2; others.
_STATE_KEYS = ("state_dict", "model_state_dict", "network_weights", "model", "net")

# Names that torch's wrappers of a part of a network put between its own: compiled, sharded, checkpointed parts.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What a training keeps beside its network, by the first part of the name or as a lone number (SWA's n_averaged).
_BESIDE = re.compile(r"loss|criteri|metric|dice|iou|confmat|confusion|accura|auroc|n_averaged|num_updates|decay", re.I)

# Other types, such as int8 and bits8, hold parts of quantised weights.
_NUMBERS = re.compile(r"torch\.(bool|uint8|u?int(16|32|64)|bfloat16|float(16|32|64|8_\w+))")
_FRESH = (1.0, 0.25)  # scales of norms and slopes of PReLU before training
_LONGEST_HEADER = 10**8  # bytes of JSON that the library of safetensors takes
# First bytes of files that are often taken for checkpoints.
_OTHERS = {
    b"\x1f\x8b": "a gzip file: unpack it, and give the file inside",
    b"\x89HDF": "an HDF5 file, as Keras writes it: convert it to ONNX, and give arch: onnx",
    b"{": "JSON: give arch: meshnet if it is the model.json of TensorFlow.js",
    b"\x08": "what may be an ONNX file: give arch: onnx",
}
_EXPORTED = "an archive of torch.export", "torch.jit.trace(torch.export.load(FILE).module(), window)"
# Ends of names of parts that programs of torch alone have, with what the file is and how torch opens it.
_PROGRAMS = {
    "/constants.pkl": ("a TorchScript file", "torch.jit.load(FILE)"),
    "archive_format": _EXPORTED,
    "serialized_exported_program.json": _EXPORTED,
}
_REPEATED = 2**20  # bytes that a tensor may have by repeating its values (stride 0), as constant buffers do


def locate(checkpoint: str) -> str:
    """Returns the path or URI of a checkpoint; `zoo://DATASET/NAME` becomes the package's own file."""
    return str(zoo_path(checkpoint)) if checkpoint.startswith(ZOO) else checkpoint


def content_sha256(checkpoint: str) -> str:
    """Returns the SHA-256 of a checkpoint's file."""
    return storage.sha256(str(_local(checkpoint)))


def state_sha256(weights: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of weights: names, types, shapes and values."""
    hasher = hashlib.sha256()
    for key, value in sorted(weights.items()):
        hasher.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        hasher.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


@partial(storage.once_each_content, content_of=content_sha256)
def weights_sha256(path: str) -> str:
    """Returns the SHA-256 of the weights alone of the checkpoint at `path`: names, types, shapes and values."""
    return state_sha256(read_state_dict(path))


def read_metadata(path: str) -> dict[str, Any]:
    """Returns the metadata that `save_checkpoint` stored in a file (path, URI or `zoo://DATASET/NAME`), else an empty
    mapping. Raises CheckpointError if the file does not exist, or is a damaged safetensors file."""
    local = _local(path)
    if not is_safetensors(local):
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(local, framework="pt") as stream:
            text = (stream.metadata() or {}).get(METADATA_KEY, "{}")
        return object_of(text, "metadata")
    except (SafetensorError, UserError) as error:
        raise CheckpointError(_unreadable(path, error)) from None


def save_checkpoint(
    path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any], half: bool
) -> None:
    """Writes the weights of a bare network and their metadata atomically, as one safetensors file.

    Args:
        path: file or URI to write, whose name ends in `.safetensors`.
        state_dict: the weights by their names.
        metadata: JSON values, which `read_metadata` returns.
        half: True: floating-point tensors are stored as float16; they are float32 again when loaded.

    Raises CheckpointError for another name, or a weight that is not finite (in float16 beyond 65504).
    """
    from safetensors.torch import save

    if not str(path).endswith(".safetensors"):
        raise CheckpointError(f"{path}: expected a name that ends in .safetensors")
    tensors = {}
    for key, value in state_dict.items():
        stored = value.detach().cpu().contiguous()
        # Copies: safetensors refuses two keys that share one tensor (tied layers).
        tensors[key] = stored.half() if half and stored.is_floating_point() else stored.clone()
        if not tensors[key].isfinite().all():
            raise CheckpointError(f"{path}: expected finite weights, but {key} is not: nothing was written")
    storage.write_atomic(str(path), save(tensors, metadata={METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)}))


def read_content(path: str) -> Any:
    """Returns the content of a checkpoint, on the CPU: weights, and its framework's further values. `path` is a file,
    URI or `zoo://DATASET/NAME`. Raises CheckpointError for a file that is missing, truncated or no checkpoint, or a
    pickle that asks for more."""
    local = _local(path)
    if not is_safetensors(local):
        # torch.load goes by this one suffix.
        return read_torch(path, io.BytesIO(local.read_bytes()) if local.suffix == ".safetensors" else local)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(local)
    except SafetensorError as error:
        raise CheckpointError(_unreadable(path, error)) from None


class Placed(NamedTuple):
    """Weights under their network's names, with the places of the file that they were in."""

    weights: dict[str, Tensor]  # by the network's names, and those that the network does not have
    prefix: str = ""  # what the file puts before each of the names
    beside: tuple[str, ...] = ()  # names left out: a loss's buffers, a metric's state, another network
    key: str = ""  # the file's key that holds them; empty at its top

    @property
    def whole_prefix(self) -> str:
        """The prefix with the key before it, which tells equal sets under two keys apart."""
        return f"{self.key}.{self.prefix}" if self.key else self.prefix

    @property
    def note(self) -> str | None:
        """One line on what was left out, or taken off every name; None: nothing."""
        behind = f"read behind {self.prefix}" if self.prefix else ""
        few = f"{len(self.beside)} tensors beside the network left out"
        return ", ".join(filter(None, [behind, f"{few} (first: {self.beside[0]})" if self.beside else ""])) or None


def read_placed(path: str, wanted: Mapping[str, Tensor], prefix: str | None = None) -> Placed:
    """Returns the weights of a checkpoint, on the CPU, under the names of a network, whatever prefix they have in the
    file and whatever lies beside them.

    Args:
        path: file, URI or `zoo://DATASET/NAME`.
        wanted: the network's names and shapes (meta will do).
        prefix: what the names of the set to take begin with in the file; None: the set that fits best.

    Raises CheckpointError as `read_content` and `check_sound`, and for two sets that fit equally well and differ, such
    as a teacher's beside a student's.
    """
    found = list[Placed]()
    for key, tensors in sets_of(path):
        found.extend(_placements(key, tensors, wanted))
    if prefix is not None:
        chosen = [each for each in found if prefix in (each.prefix, each.whole_prefix)]
        if not chosen:
            have = ", ".join(dict.fromkeys(repr(each.prefix) for each in found)) or "no weights of the network"
            wrong = f"expected one that names of the network have, got {prefix!r}"
            raise CheckpointError(f"{path}: prefix: {wrong}: {have}")
        found = chosen
    if not found:
        return Placed(read_state_dict(path, as_written=True))
    fits = [_fit(each.weights, wanted) for each in found]
    best, *others = [each for each, fit in zip(found, fits, strict=True) if fit == max(fits)]
    names = wanted.keys() & best.weights.keys()
    others = [each for each in others if not _are_equal(best.weights, each.weights, names)]
    if others and 2 * max(fits)[0] > len(wanted):
        sets = (best, *others)
        differ = len({each.prefix for each in sets}) == len(sets)
        choices = " or ".join(f"prefix: {each.prefix if differ else each.whole_prefix!r}" for each in sets)
        got = f"got {len(sets)} that differ (a teacher's, or an average of the training's): state {choices}"
        raise CheckpointError(f"{path}: expected one set of weights that fits the network, {got}")
    check_sound(path, best.weights)
    return best


def _fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[int, int]:
    """Counts how many of the network's names are there, and how many of them have its shape."""
    shared = wanted.keys() & found.keys()
    return len(shared), sum(found[key].shape == wanted[key].shape for key in shared)


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor], names: Iterable[str]) -> bool:
    """True if two sets have the same tensors under these names of the first."""
    return all(name in other and torch.equal(one[name], other[name]) for name in names)


def sets_of(path: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yields the sets of tensors in the checkpoint at `path`, each with its key: the usual keys, any other, and "" for
    its top.
    Names of torch's wrappers (`_orig_mod.` of torch.compile) are taken off. Raises as `read_content`."""
    content = read_content(path)
    if not isinstance(content, Mapping):
        return
    places = [key for key in content if isinstance(content[key], Mapping)]
    sets = [(str(key), dict(_tensors(content[key]))) for key in sorted(places, key=lambda key: key not in _STATE_KEYS)]
    sets.append(("", {str(key): value for key, value in content.items() if isinstance(value, Tensor)}))
    for key, tensors in sets:
        bare = {_WRAPPERS.sub("", name): value for name, value in tensors.items()}
        if tensors:
            yield key, bare if len(bare) == len(tensors) else tensors


def _tensors(content: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of nested mappings by their names, parts joined by dots."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{before}{key}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{before}{key}.")


def _placements(place: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[Placed]:
    """Yields the sets of tensors behind each prefix that makes names into those of the network, the best first; `place`
    is the file's key that holds them."""
    counts = Counter[str]()
    for key in tensors:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", key))]
        counts.update(key[:at] for at in starts if key[at:] in wanted)
    parts = {key.partition(".")[0] for key in wanted}
    for prefix, _ in sorted(counts.items(), key=lambda item: (-item[1], len(item[0]))):
        weights = dict[str, Tensor]()
        beside = []
        for key, value in tensors.items():
            name = key.removeprefix(prefix)
            first = name.partition(".")[0]
            is_own = key.startswith(prefix) and (first in parts or not (value.ndim == 0 or _BESIDE.search(first)))
            is_copy = first not in parts and any(other.startswith(f"{prefix}{first}.") for other in counts)
            if is_own and not is_copy:
                weights[name] = value
            else:
                beside.append(key)
        yield Placed(weights, prefix, tuple(beside), place)


def read_state_dict(path: str, keys: Sequence[str] = _STATE_KEYS, as_written: bool = False) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint, on the CPU.

    Args:
        path: file, URI or `zoo://DATASET/NAME` with a bare state dict, or with one under one of `keys`.
        keys: places where frameworks put the weights.
        as_written: True: names stay as they are; else they lose the `module.` of a data-parallel network.

    Raises as `read_content` and `check_sound`.
    """
    _, content = unwrap(read_content(path), keys)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        places = " or ".join(filter(None, [", ".join(keys[:-1]), keys[-1]]))
        got = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            got = f"a mapping with {', '.join(sorted(map(str, content))[:5])}" if content else "an empty mapping"
        raise CheckpointError(f"{path}: expected a state dict, at the top or under {places}, got {got}")
    weights = {str(key): value for key, value in content.items()}
    check_sound(path, weights)
    return weights if as_written else {key.removeprefix("module."): value for key, value in weights.items()}


def check_sound(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuses, by its name, a tensor of `tensors` that no network can compute with; integers are allowed, as for
    counters. `path` is for messages."""
    for key, value in tensors.items():
        if value.is_meta:
            got = "one without values (meta)"
        elif value.layout != torch.strided or value.is_nested:
            got = f"a sparse or nested one ({value.layout})"
        elif value.is_complex():
            got = f"a complex one ({value.dtype})"
        elif value.is_quantized or not _NUMBERS.fullmatch(str(value.dtype)):
            got = f"a quantised one ({value.dtype})"
        elif value.nbytes > max(value.untyped_storage().nbytes(), _REPEATED):
            got = f"one of {value.nbytes:,} bytes that repeats the {value.untyped_storage().nbytes():,} of its file"
        elif bad := int(value.numel() - value.float().isfinite().sum()):
            got = f"{bad} of {value.numel()} values that are NaN, infinite or beyond float32"
        else:
            continue
        advice = "save float32 weights of a training that did not diverge"
        raise CheckpointError(f"{path}: {key}: expected a dense tensor of finite numbers, got {got}: {advice}")


def unwrap(content: Any, keys: Sequence[str] = _STATE_KEYS) -> tuple[str | None, Any]:
    """Returns that of `keys` under which the weights are in a checkpoint's content (None for the top level), and the
    weights."""
    for key in keys:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return key, content[key]
    return None, content


def _local(checkpoint: str) -> Path:
    try:
        return storage.fetch(locate(checkpoint))
    except NoFileError as error:
        raise CheckpointError(str(error)) from None


def is_safetensors(file: Path) -> bool:
    """True if a file begins as safetensors do: the length of a header in 8 bytes, then its JSON object."""
    with file.open("rb") as stream:
        head = stream.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER


class _Passed:
    """Replaces numpy arrays, which cannot be built safely from untrusted bytes, and argparse's options."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# Files written under numpy 1 name functions by their old module.
_SAFE: list[Any] = [
    (scalar, "numpy._core.multiarray.scalar"),
    (scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    (_Passed, "numpy._core.multiarray._reconstruct"),
    (_Passed, "numpy.core.multiarray._reconstruct"),
    (_Passed, "numpy.ndarray"),
    (_Passed, "argparse.Namespace"),
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
]


def require_weights(path: str, file: Path | io.BytesIO) -> None:
    """Refuses a `file` that is a program that torch saved, and says how to export it; reads the names of its parts
    alone. `path` is for messages."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise CheckpointError(_unreadable(path, error)) from None
    for end, (kind, opened) in _PROGRAMS.items():
        if any(name.endswith(end) for name in names):
            export = f'torch.onnx.export({opened}, (window,), "net.onnx", dynamo=False, opset_version=17)'
            got = f"got {kind}, which is a program: export it by {export}, and give arch: onnx"
            raise CheckpointError(f"{path}: expected weights, {got}")


def read_torch(path: str, file: Path | io.BytesIO) -> Any:
    """Returns the weights and plain values of a file of `torch.save`; `path` is for messages. Raises CheckpointError
    for any other file, one that is truncated or unpacks to more than its size, or a pickle that asks for more."""
    try:
        require_weights(path, file)
        if is_zip := zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if not any(name.endswith("data.pkl") for name in names):
                raise CheckpointError(
                    f"{path}: expected a checkpoint, got a ZIP archive of {len(names)} files (first: "
                    f"{one_line(names[0])[:80] if names else 'none'}): unpack it, and give the file inside"
                )
            size = file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())
            if sum(entry.file_size for entry in entries) > size:
                got = "got one that unpacks to more than its size: save it again"
                raise CheckpointError(f"{path}: expected an archive as torch.save writes it, {got}")
        elif isinstance(file, Path):
            with file.open("rb") as stream:
                head = stream.read(4)
            for sign, advice in _OTHERS.items():
                if head.startswith(sign):
                    raise CheckpointError(f"{path}: expected a checkpoint, got {advice}")
        if isinstance(file, io.BytesIO):
            file.seek(0)
        with torch.serialization.safe_globals(_SAFE):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip and isinstance(file, Path))
    except pickle.UnpicklingError as error:
        if unsafe := re.search(r"GLOBAL ([\w.]+)", str(error)):
            rest = "which could run code: save its state dict alone"
            raise UnsafeError(f"{path}: refused, as it is a pickle that asks for {unsafe[1]}, {rest}") from None
        raise CheckpointError(_unreadable(path, error)) from None
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 (damaged bytes can make a pickle raise anything)
        raise CheckpointError(_unreadable(path, error)) from None


def _unreadable(path: str, error: Exception) -> str:
    reason = "" if isinstance(error, pickle.UnpicklingError) else one_line(error, 120)
    return f"{path}: not a checkpoint, or a truncated one{f' ({reason})' if reason else ''}: fetch or save it again"


def look_untrained(weights: Mapping[str, Tensor]) -> bool:
    """True if every scale of a norm and slope of a PReLU among `weights` is that of a fresh network; False if there is
    none."""
    scales = [tensor for name, tensor in weights.items() if name.endswith("weight") and tensor.dim() == 1]
    return bool(scales) and all(float(scale[0]) in _FRESH and bool((scale == scale[0]).all()) for scale in scales)


def check_fit(
    name: str, path: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], num_classes: int, head: Outputs
) -> None:
    """Raises CheckpointError for a checkpoint whose keys, shapes or integers are not its network's.

    Args:
        name: the model's, for messages.
        path: the checkpoint's, for messages.
        wanted: the network's names and shapes (meta will do).
        found: the checkpoint's weights, as the network has them.
        num_classes: outputs of the network that the dataset wants.
        head: how they are classes, for the advice on another number.
    """
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    misshapen = {}
    for key, own in wanted.items():
        there = found.get(key, own)
        if own.is_floating_point() and not there.is_floating_point():
            got = f"got {there.dtype}: save float32 weights"
            raise CheckpointError(f"{name}: checkpoint {path}: {key}: expected {own.dtype}, {got}")
        if own.shape != there.shape:
            misshapen[key] = own.shape, there.shape
    if not (missing or unexpected or misshapen):
        return
    pairs = (zip_longest(*both) for both in misshapen.values())
    lengths = {(ours, theirs) for ours, theirs in chain.from_iterable(pairs) if ours != theirs}
    ours, classes = next(iter(lengths)) if len(lengths) == 1 else (None, None)
    if ours == num_classes and classes and not missing and not unexpected:
        advice = advice_on_classes(classes, num_classes, head)
        raise CheckpointError(f"{name}: checkpoint has {classes} output classes, dataset wants {num_classes}: {advice}")
    shapes = [f"{key}: {tuple(there)} for {tuple(own)}" for key, (own, there) in misshapen.items()]
    counts = ", ".join(
        f"{len(keys)} {kind}" + (f" (first: {keys[0]})" if keys else "")
        for keys, kind in ((missing, "keys missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
    )
    raise CheckpointError(f"{name}: checkpoint {path} does not fit: {counts}. Check arch, args and migration")
