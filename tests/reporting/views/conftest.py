"""Records as views get them, and the classes of records."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import pytest
from reporting.conftest import Frame

from freqbench.analysis.strength import checked
from freqbench.analysis.tables import current
from freqbench.results import CLASS_RECORDS, KEY, to_table


@pytest.fixture
def shown(records: Frame) -> Frame:
    """Rows to the frame that views get."""
    return lambda *rows: current(checked(records(*rows)))


@pytest.fixture
def coded() -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The same frame with its texts as categoricals, of which source and target share theirs."""

    def convert(frame: pd.DataFrame) -> pd.DataFrame:
        texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name].dtype)]
        texts = [name for name in texts if name not in ("finished_at", "left_out")]
        frame = frame.astype(dict.fromkeys(texts, "category"))
        models = pd.CategoricalDtype(sorted({*frame["source_model"], *frame["target_model"], "never seen"}))
        return frame.astype({"source_model": models, "target_model": models})

    return convert


@pytest.fixture
def classes() -> Frame:
    """A record and its classes, `name=(dsc, dsc_clean)` from class 0 on, to a frame of class records."""

    def make(*records: tuple[Mapping[str, Any], Mapping[str, tuple[float, float]]]) -> pd.DataFrame:
        rows = []
        for record, scores in records:
            for index, (name, (dsc, clean)) in enumerate(scores.items()):
                row = dict.fromkeys(column.name for column in CLASS_RECORDS) | {key: record[key] for key in KEY}
                row |= {"run_id": record["run_id"], "finished_at": record["finished_at"]}
                rows.append(row | {"class_index": index, "class_name": name, "dsc": dsc, "dsc_clean": clean})
        return to_table(CLASS_RECORDS, rows).to_pandas()

    return make
