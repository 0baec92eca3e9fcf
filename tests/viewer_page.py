"""A store with saved volumes, and a page around the viewer alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from tiny_job import JOB, execute, small

from freqbench.analysis.tables import current
from freqbench.results import Store

DIST = Path(__file__).parent.parent / "freqbench" / "reporting" / "page" / "dist"
VIEWER = DIST.parent / "viewer"

# As strict as the page's: nothing from a network, no eval.
POLICY = "default-src 'none'; script-src 'unsafe-inline' file:; connect-src 'none'; style-src 'none'; img-src data:"

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark"><title>volumes</title><body><div id="here"></div>
<script src="viewer.js"></script>
<script>window.viewer = freqbenchViewer.open(document.getElementById("here"), {manifest})</script>"""


def make_store(folder: Path) -> str:
    """Two models, two attacks, one case of 24x20x16 voxels."""
    attacks = [{"name": "fgsm", "eps": "8/255"}, {"name": "gn", "std": "8/255"}]
    execute(small(models=JOB["models"], attacks=attacks, save_adversarial="nifti"), folder)
    return str(folder)


def rows_of(store: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records as the reports have them, and class records."""
    stored = Store(store)
    return current(stored.records().to_pandas()), stored.class_records().to_pandas()


def write_page(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The page's address."""
    (folder / "viewer.js").write_bytes((DIST / "viewer.js").read_bytes())
    text = json.dumps(manifest).replace("<", "\\u003c")
    (folder / "index.html").write_text(_PAGE.format(policy=POLICY, manifest=text))
    return (folder / "index.html").as_uri()
