"""Whether the volumes that a store saved are whole."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from freqbench.core import storage
from freqbench.results import Store
from freqbench.results.findings import Check, Findings
from freqbench.results.fingerprints import mixed, text_numbers
from freqbench.results.soundness import Survey
from freqbench.results.volumes import SUFFIX, VOLUMES, whole

GZIP = 31  # zlib's word for a gzip stream, whose checksum it looks at
CHUNK = 2**24


def check_volumes(
    store: Store, job: Mapping[str, Any], survey: Survey, findings: Findings, with_volumes: bool
) -> Check:
    """Every good record of a job that saves volumes has a whole one; with `with_volumes`, each can be read to its end.

    Saved volumes carry no hash of their own; gzip's checksum says whether one is as it was written.
    """
    root = storage.join(store.root, VOLUMES)
    there = whole(root)
    spec = job.get("spec")
    if isinstance(spec, dict) and spec.get("save_adversarial") == "nifti":
        cells, cases = zip(*there, strict=True) if there else ((), ())
        known = mixed([text_numbers(cells), text_numbers(cases)])
        if lacking := int((survey.ok & ~np.isin(survey.volumes, known)).sum()):
            findings.wrong("volumes", f"{lacking} records have no whole volume, though the job saves them")
    if not there:
        return findings.check("volumes", "", "none are saved")
    if not with_volumes:
        return findings.check("volumes", "", f"{len(there)} are there; --volumes reads them to the end")
    count = 0
    for folder in sorted(there.values()):
        place = storage.join(root, folder)
        for name in storage.list_files(place, SUFFIX):
            count += 1
            if complaint := _complaint(storage.join(place, name)):
                findings.wrong("volumes", f"{VOLUMES}/{folder}/{name}: {complaint}")
    return findings.check("volumes", f"{count} files of {len(there)} volumes can be read to the end")


def _complaint(path: str) -> str:
    """What is wrong with a gzip file; empty where nothing is."""
    packed, stream = memoryview(storage.read_bytes(path)), zlib.decompressobj(GZIP)
    try:
        left: bytes | memoryview = packed
        while left and not stream.eof:
            stream.decompress(left, CHUNK)
            left = stream.unconsumed_tail
    except zlib.error as error:
        return str(error)
    return "" if stream.eof else "ends before its end"
