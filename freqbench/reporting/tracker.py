"""Logs the means of a store's cells to TensorBoard: a run of its own a cell and target, in its table of settings."""

import importlib.util
import math

from freqbench.analysis.frames import found_records
from freqbench.core import storage
from freqbench.core.errors import UserError
from freqbench.metrics import METRICS
from freqbench.reporting.contents import keys_of
from freqbench.results import Store

FOLDER = "tensorboard"
SETTINGS = ("dataset", "source_model", "target_model", "attack", "variant", "threat_model", "budget", "seed", "params")
MEANS = tuple(column for metric in METRICS.values() for column in metric.columns)


def require(out: str) -> None:
    """Raise a UserError where TensorBoard is not installed, or does not reach the store."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--log tensorboard: expected the package tensorboard, got none: pip install 'freqbench[tensorboard]'"
        )
    if not storage.is_local(out):
        raise UserError(f"--log tensorboard: expected --out as a folder of this machine, got {out}: leave --log out")


def log(out: str) -> str:
    """Write the mean of each score over the cases that have one, at a step of their number; returns the folder.

    Rows without scores are left out, and so are cells that have none.
    """
    from torch.utils.tensorboard import SummaryWriter

    store, folder = Store(out), f"{storage.local_path(out)}/{FOLDER}"
    _, records = found_records([store], keys_of([store.job()]), (*SETTINGS, *MEANS), may_be_empty=True)
    good = records[records["status"] == "ok"]
    for (cell_id, _), cell in good.groupby(["cell_id", "target_model_id"], observed=True):
        means = {name: float(value) for name, value in cell[list(MEANS)].mean().items() if math.isfinite(value)}
        first = cell.iloc[0]
        settings = {name: _plain(first[name]) for name in SETTINGS}
        name = f"{first['attack']}-{first['source_model']}-{first['target_model']}-{cell_id}"
        with SummaryWriter(f"{folder}/{name}") as writer:
            writer.add_hparams(settings, means, run_name=".", global_step=len(cell))
    return folder


def _plain(value: object) -> str | float:
    return float(value) if isinstance(value, int | float) else str(value)
