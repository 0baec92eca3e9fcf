"""Fetches the networks of the browser tool brainchop, and the T1 volume that it opens with, by commit and SHA-256.
Masoud, Hu and Plis, JOSS 2023, doi 10.21105/joss.05098; MIT. A path `brainchop://NAME` names one of FILES."""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path

from freqbench.core.errors import MissingDataError, UserError, one_line, unknown
from freqbench.core.files import downloads, filesystems

SCHEME = "brainchop://"
COMMIT = "4c87885f3a2a8835e260d521dcec922b58d91d41"
ADDRESS = f"https://raw.githubusercontent.com/neuroneural/brainchop/{COMMIT}/public"
T1 = "t1_crop.nii.gz"

FILES: Mapping[str, Mapping[str, str]] = {  # SHA-256 of the volume's file, and of the files in each network's folder
    T1: {T1: "9f5708dd1980fe0017ad70f63d895bae66bd9f5487eb1c38d129591116113613"},
    "model5_gw_ae": {
        "model.json": "7aabd59933bd3528f120107165f5dd577c5b749cf91fc2f949987d7bc620ce59",
        "group1-shard1of1.bin": "ca0d1b8ff72f8719d9525acaf9a1f1cb66dbb173b4ee1d7540f99e022cf4bfd8",
    },
    "model11_gw_ae": {
        "model.json": "09d1afa152a907a545ce814842613559fbfe2bfdaab0bc8708ea79cd3e17229c",
        "group1-shard1of1.bin": "7f93edb82252cdc59e3faf3ae5a27622bc748d02db64df2cf429ad807891c261",
    },
    "model20chan3cls": {
        "model.json": "53932edad5330073bbac906049a31b84a2ca3d8c65d658feea848130004b984b",
        "model.bin": "aecc03e3db596bfffab0ea1143f0848dbf4da4e317e04ef202986c6888cd467f",
    },
    "model18cls": {
        "model.json": "57346ac8b66ebe8d92296b1cf9988143be4949b6ef9695a790ef3d7fba3fb81b",
        "model.bin": "725096439f64ece1ca45ec3c5115c9fa6004f6538cac3032b85966d3772b605e",
    },
    "model30chan18cls": {
        "model.json": "d28521c0965e452c371314e4b5b4dcef7b19aa91241b17ef894ac24952139701",
        "model.bin": "7039651d91c4cee0b7b1ddfe93fe2f5cb9b71d99f5a126fdef407e2a36bb52d4",
    },
}


def local(uri: str) -> Path:
    """Returns the volume's file or a network's folder in the node's cache, by its `uri`, `brainchop://NAME`; missing
    files come from FREQBENCH_DATA, else from ADDRESS unless FREQBENCH_OFFLINE is set. Raises MissingDataError, or
    UserError for an unknown name."""
    name = uri.removeprefix(SCHEME)
    if name not in FILES:
        raise UserError(f"{uri}: {unknown('file of brainchop', name, FILES)}")
    folder = downloads.fetch_pinned(uri, FILES[name], partial(_get, name))
    return folder / T1 if name == T1 else folder


def _get(name: str, file: str, target: Path) -> str:
    """Copies or fetches a file to `target`; returns where it was."""
    place = file if name == T1 else f"{name}/{file}"
    data = os.environ.get("FREQBENCH_DATA")
    if data:
        source = f"{data}/brainchop/{place}"
        fs, inner = filesystems.filesystem_of(source)
        with suppress(FileNotFoundError), filesystems.explain_errors(source, fs):
            fs.get_file(inner, str(target))
            return source
    address = f"{ADDRESS}/{place}" if name == T1 else f"{ADDRESS}/models/{place}"
    if downloads.is_offline():
        problem = "FREQBENCH_OFFLINE is set"
    else:
        try:
            downloads.fetch_web(address, target)
            return address
        except (OSError, HTTPException) as error:
            problem = one_line(error)
    raise MissingDataError(
        f"{SCHEME}{name}: set FREQBENCH_DATA (now {data or 'not set'}) to a folder that holds brainchop/{place}, or "
        f"run once with internet access: expected one of them, found neither; tried {address} ({problem})"
    )
