"""Files of `torch.save`, of unknown origin: weights and plain values out, and nothing that runs."""

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from freqbench.core.errors import CheckpointError

# Files written under numpy 1 name the first function by its old module.
_SAFE: list[Any] = [
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    np.dtype,
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
]


def read_torch(path: str, file: Path | io.BytesIO) -> Any:
    """What `torch.save` wrote, as weights and plain values alone.

    Args:
        path: where it is, for messages.
        file: its content.

    Raises:
        CheckpointError: not such a file, truncated, a pickle that asks for more, or one that unpacks to more than its
            own size.
    """
    try:
        is_zip = zipfile.is_zipfile(file)
        if is_zip:
            _refuse_bomb(path, file)
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
        raise CheckpointError(unreadable(path, error)) from None
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 (of damaged bytes a pickle makes whatever its opcodes meet)
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: expected weights, got a TorchScript file, which is a program: give arch: torchscript"
            ) from None
        raise CheckpointError(unreadable(path, error)) from None


def _refuse_bomb(path: str, file: Path | io.BytesIO) -> None:
    """torch writes its archives unpacked; in one that is a program, which is refused as such, code is packed."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        return
    size = file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(
            f"{path}: expected an archive as torch.save writes it, got one that unpacks to more than its size: "
            "save it again"
        )


def unreadable(path: str, error: Exception) -> str:
    """The line for a checkpoint that cannot be read."""
    reason = "" if isinstance(error, pickle.UnpicklingError) else " ".join(str(error).split())[:120]
    return f"{path}: not a checkpoint, or a truncated one{f' ({reason})' if reason else ''}: fetch or save it again"
