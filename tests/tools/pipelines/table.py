"""Measures, into reports/pipelines/alike.csv, the share of voxels that freqbench labels as nnunetv2 and MONAI do."""

import csv
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests"))

from pipelines import bundles, plans  # noqa: E402 (of the tests)

from freqbench.core.plugins import trusting  # noqa: E402 (after the path)

OUT = ROOT / "reports" / "pipelines" / "alike.csv"


def rows(root: Path) -> Iterator[dict[str, Any]]:
    """One for each configuration: shares of the file's voxels, and the greatest difference between the inputs."""
    for number, plan in enumerate(plans.PLANS):
        folder, raw = plans.written(plan, root / f"plan{number}")
        theirs = plans.by_nnunetv2(folder, raw, plan.folds)
        ours = plans.by_freqbench(folder, raw)
        exact, rounded, ties = plans.wanted(plan, theirs)
        yield {
            "toolchain": f"nnunetv2 {version('nnunetv2')}",
            "configuration": plan.name,
            **alike(ours.labels, exact, ties),
            "toolchain_alike_in_float16": float((exact == rounded).mean()),
            "input_differs_by": float(np.abs(ours.in_their_axes(ours.seen).numpy() - theirs.data).max()),
        }
    for number, words in enumerate(bundles.PIPELINES):
        bundle, data = bundles.written(words, root / f"bundle{number}")
        with trusting(words.needs_trust):
            of_monai = bundles.by_monai(words, data)
            own = bundles.by_freqbench(words, bundle, data)
        yield {
            "toolchain": f"monai {version('monai')}",
            "configuration": words.name,
            **alike(own.labels, of_monai.labels, of_monai.ties),
            "toolchain_alike_in_float16": "",
            "input_differs_by": float((own.in_their_axes(own.seen) - of_monai.image).abs().max()),
        }


def alike(labels: plans.Array, wanted: plans.Array, ties: plans.Array) -> dict[str, Any]:
    same = labels == wanted
    counts = {"voxels": same.size, "classes": len(np.unique(wanted)), "ties": int(ties.sum())}
    return {**counts, "alike": float(same.mean()), "alike_off_ties": float(same[~ties].mean())}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    OUT.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        made = []
        for row in rows(Path(root)):
            print(row, flush=True)
            made.append({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    with OUT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, made[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(made)
