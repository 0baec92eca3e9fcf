"""Reads untrusted checkpoints as state dicts, and writes freqbench's own as safetensors with a training record.

Files are told apart by their content, not their name. What torch wrote is read with `weights_only=True`, safetensors by
their own library, so that no file can run code. Beside the weights, released checkpoints hold numpy scalars, which are
read, and numpy arrays and argparse options, which are skipped.
"""

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from freqbench.core import storage
from freqbench.core.documents import object_of
from freqbench.core.errors import CheckpointError, NoFileError, UserError, one_line, unknown
from freqbench.models.entry import advice_on_classes

_ZOO = Path(__file__).parents[1] / "zoo"

_METADATA_KEY = "freqbench"
# Keys of the weights in a file that holds more: Lightning, MONAI, nnU-Net v1; torch's tutorials; nnU-Net v2; many
# others.
_STATE_KEYS = ("state_dict", "model_state_dict", "network_weights", "model", "net")

# Prefixes of every key: data-parallel and compiled networks; the attribute of a Lightning or own module.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "ROG.")

# Other types, such as int8 and bits8, hold parts of quantised weights.
_NUMBERS = re.compile(r"torch\.(bool|uint8|u?int(16|32|64)|bfloat16|float(16|32|64|8_\w+))")
_LONGEST_HEADER = 10**8  # bytes of JSON that the library of safetensors takes
# First bytes of files that are often taken for checkpoints.
_OTHERS = {
    b"\x1f\x8b": "a gzip file: unpack it, and give the file inside",
    b"\x89HDF": "an HDF5 file, as Keras writes it: convert it to ONNX, and give arch: onnx",
    b"{": "JSON: give arch: meshnet if it is the model.json of TensorFlow.js",
    b"\x08": "what may be an ONNX file: give arch: onnx",
}
_REPEATED = 2**20  # bytes that a tensor may have by repeating its values (stride 0), as constant buffers do


def locate(checkpoint: str) -> str:
    """Returns the path or URI of a checkpoint; `zoo://DATASET/NAME` becomes the package's own file."""
    if not checkpoint.startswith("zoo://"):
        return checkpoint
    name = checkpoint.removeprefix("zoo://")
    if name not in zoo_names():
        raise CheckpointError(f"{checkpoint}: {unknown('zoo checkpoint', name, zoo_names())}")
    return str(_ZOO / f"{name}.safetensors")


def zoo_names() -> list[str]:
    """Lists the checkpoints that the package carries, as `DATASET/NAME`."""
    return sorted(path.relative_to(_ZOO).with_suffix("").as_posix() for path in _ZOO.glob("*/*.safetensors"))


def content_sha256(checkpoint: str) -> str:
    """Returns the SHA-256 of a checkpoint's file."""
    return storage.sha256(str(_local(checkpoint)))


def weights_sha256(path: str) -> str:
    """Returns the SHA-256 of a checkpoint's weights alone: names, types, shapes and values."""
    return _weights_sha256(path, content_sha256(path))


@cache
def _weights_sha256(path: str, content: str) -> str:
    """Computes the hash once for each content of the file."""
    return state_sha256(read_state_dict(path))


def state_sha256(weights: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of weights: names, types, shapes and values."""
    hasher = hashlib.sha256()
    for key, value in sorted(weights.items()):
        hasher.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        hasher.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def read_metadata(path: str) -> dict[str, Any]:
    """Returns the metadata that `save_checkpoint` stored: arch, args, roi, training and more; else an empty mapping.

    `path` is a path, URI or `zoo://DATASET/NAME`. Raises CheckpointError if the file does not exist, or is a damaged
    safetensors file.
    """
    local = _local(path)
    if not is_safetensors(local):
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(local, framework="pt") as stream:
            text = (stream.metadata() or {}).get(_METADATA_KEY, "{}")
        return object_of(text, "metadata")
    except (SafetensorError, UserError) as error:
        raise CheckpointError(_unreadable(path, error)) from None


def save_checkpoint(
    path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any], half: bool
) -> None:
    """Writes the weights of a bare network and their metadata (JSON values) atomically, as one safetensors file.

    With `half`, floating-point tensors are stored as float16; they are float32 again when loaded. Raises
    CheckpointError for a name that does not end in `.safetensors`, or a weight that is not finite (in float16 beyond
    65504).
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
    record = json.dumps(dict(metadata), sort_keys=True)
    storage.write_atomic(str(path), save(tensors, metadata={_METADATA_KEY: record}))


def read_content(path: str) -> Any:
    """Returns all that a checkpoint holds, on the CPU: weights, and what its framework wrote beside them.

    Raises CheckpointError for a missing file, a file that is no checkpoint, a truncated one, or a pickle that asks for
    more than weights.
    """
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


def read_state_dict(
    path: str, wanted: Collection[str] | None = None, keys: Sequence[str] = _STATE_KEYS
) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint, on the CPU, under the network's names.

    Raises as `read_content` and `check_sound` do.

    Args:
        path: file with a bare state dict, or with one under one of `keys`.
        wanted: the network's keys, from which `strip_prefix` tells an author's prefix from a name of the network's;
            without them only `module.` is removed.
        keys: places where the framework puts the weights.
    """
    _, content = unwrap(read_content(path), keys)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        places = " or ".join(filter(None, [", ".join(keys[:-1]), keys[-1]]))
        raise CheckpointError(f"{path}: expected a state dict, at the top or under {places}, got {_describe(content)}")
    weights = {str(key): value for key, value in content.items()}
    check_sound(path, weights)
    return strip_prefix(weights, [key.removeprefix("module.") for key in weights] if wanted is None else wanted)


def check_sound(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuses, by its name, a tensor that no network can compute with; integers are allowed, as for counters."""
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
        raise CheckpointError(
            f"{path}: {key}: expected a dense tensor of finite numbers, got {got}: save float32 weights of a training "
            "that did not diverge"
        )


def unwrap(content: Any, keys: Sequence[str] = _STATE_KEYS) -> tuple[str | None, Any]:
    """Returns the key of the weights in a checkpoint's content (None for the top level), and the weights."""
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


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with {', '.join(sorted(map(str, content))[:5])}" if content else "an empty mapping"
    return f"a {type(content).__name__}"


class _Passed:
    """Replaces numpy arrays, which cannot be built safely from untrusted bytes, and argparse's options."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# Files written under numpy 1 name functions by their old module.
_SAFE: list[Any] = [
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    np.dtype,
    *((_Passed, f"numpy.{core}.multiarray._reconstruct") for core in ("_core", "core")),
    (_Passed, "numpy.ndarray"),
    (_Passed, "argparse.Namespace"),
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
]


def read_torch(path: str, file: Path | io.BytesIO) -> Any:
    """Returns what `torch.save` wrote, weights and plain values only; `path` is for messages.

    Raises CheckpointError for any other file, one that is truncated or unpacks to more than its size, or a pickle that
    asks for more.
    """
    try:
        is_zip = zipfile.is_zipfile(file)
        if is_zip:
            _refuse_bomb(path, file)
        elif isinstance(file, Path):
            _refuse_others(path, file)
        if isinstance(file, io.BytesIO):
            file.seek(0)
        with torch.serialization.safe_globals(_SAFE):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip and isinstance(file, Path))
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        if unsafe:
            raise CheckpointError(
                f"{path}: refused, as it is a pickle that asks for {unsafe[1]}, which could run code: "
                "save its state dict alone"
            ) from None
        raise CheckpointError(_unreadable(path, error)) from None
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 (damaged bytes can make a pickle raise anything)
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: expected weights, got a TorchScript file, which is a program: give arch: torchscript"
            ) from None
        raise CheckpointError(_unreadable(path, error)) from None


def _refuse_bomb(path: str, file: Path | io.BytesIO) -> None:
    """Refuses an archive that unpacks to more than its size, as torch writes archives uncompressed.

    Skips TorchScript programs, whose code is compressed: `read_torch` refuses them as such.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        return
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(
            f"{path}: expected a checkpoint, got a ZIP archive of {len(names)} files (first: "
            f"{one_line(names[0])[:80] if names else 'none'}): unpack it, and give the file inside"
        )
    size = file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(
            f"{path}: expected an archive as torch.save writes it, got one that unpacks to more than its size: "
            "save it again"
        )


def _refuse_others(path: str, file: Path) -> None:
    """Refuses a file that begins as no checkpoint does, and says what to do with it."""
    with file.open("rb") as stream:
        head = stream.read(4)
    for sign, advice in _OTHERS.items():
        if head.startswith(sign):
            raise CheckpointError(f"{path}: expected a checkpoint, got {advice}")


def _unreadable(path: str, error: Exception) -> str:
    reason = "" if isinstance(error, pickle.UnpicklingError) else one_line(error)[:120]
    return f"{path}: not a checkpoint, or a truncated one{f' ({reason})' if reason else ''}: fetch or save it again"


def strip_prefix(found: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Removes the prefixes that wrappers and authors' modules put before every key, in any order and number.

    A prefix comes off only if all keys carry it, and only as many come off as match the most keys of the network
    (`wanted`): the keys of MONAI's UNet themselves begin with `model.`.
    """
    theirs = set(wanted)
    _, keys = max(stripped(found), key=lambda candidate: len(theirs.intersection(candidate[1])))  # the first of equals
    return dict(zip(keys, found.values(), strict=True))


def stripped(found: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each prefix that all keys share, the empty one first, with the keys without it."""
    before, keys = "", list(found)
    yield before, keys
    while prefix := next((p for p in _PREFIXES if keys and all(key.startswith(p) for key in keys)), None):
        before, keys = before + prefix, [key.removeprefix(prefix) for key in keys]
        yield before, keys


def check_fit(
    name: str, path: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], num_classes: int
) -> None:
    """Refuses, in one line, a checkpoint whose keys, shapes or integers are not its network's (meta will do)."""
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    shared = [key for key in wanted if key in found]
    misshapen = [key for key in shared if wanted[key].shape != found[key].shape]
    for key in shared:
        if wanted[key].is_floating_point() and not found[key].is_floating_point():
            raise CheckpointError(
                f"{name}: checkpoint {path}: {key}: expected {wanted[key].dtype}, got {found[key].dtype}: save float32 "
                "weights"
            )
    if not (missing or unexpected or misshapen):
        return
    classes = _other_classes([(wanted[key].shape, found[key].shape) for key in misshapen], num_classes)
    if classes is not None and not missing and not unexpected:
        advice = advice_on_classes(classes, num_classes)
        raise CheckpointError(f"{name}: checkpoint has {classes} output classes, dataset wants {num_classes}: {advice}")
    shapes = [f"{key}: {tuple(found[key].shape)} for {tuple(wanted[key].shape)}" for key in misshapen]
    counts = ", ".join(
        f"{len(keys)} {kind}" + (f" (first: {keys[0]})" if keys else "")
        for keys, kind in ((missing, "keys missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
    )
    raise CheckpointError(f"{name}: checkpoint {path} does not fit: {counts}. Check arch, args and migration")


def _other_classes(shapes: Iterable[tuple[torch.Size, torch.Size]], num_classes: int) -> int | None:
    """Returns the checkpoint's classes if only their number differs: `num_classes` here, one other number there."""
    pairs = chain.from_iterable(zip_longest(ours, theirs) for ours, theirs in shapes)
    lengths = {(ours, theirs) for ours, theirs in pairs if ours != theirs}
    if len(lengths) != 1:
        return None
    ((ours, theirs),) = lengths
    return theirs if ours == num_classes else None
