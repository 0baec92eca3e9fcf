"""Any job: refused in a line or carried out, within a minute, and no row of NaN."""

import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from attacks.examples import CLASSES, SETTINGS
from hypothesis import given
from hypothesis import strategies as st
from tiny_job import JOB, SHAPE, small
from tools.fuzz.hostile_values import assert_rows_are_numbers, refused_or_done, spoilt, unhurried, values

pytestmark = pytest.mark.integration

FULL: dict[str, Any] = {
    **JOB,
    "seeds": [0],
    "targets": "all",
    "precision": "fp32",
    "window_batch": 1,
    "case_timeout": None,
    "save_adversarial": "none",
    "resources": {"threads": 1, "workers": 1, "gpus_per_worker": 0},
}
"""Every key of a job that there is."""
DATASET = {"name": "phantom", "shape": SHAPE, "cases": 1, "split": "test", "intensity": {"window": [-175, 250]}}
PACKAGED = {name: entry for name, entry in SETTINGS.items() if name != "walk"}


@st.composite
def attacks(draw: st.DrawFn) -> dict[str, Any]:
    """An attack with one parameter that may be anything."""
    name = draw(st.sampled_from(sorted(PACKAGED)))
    parameter = draw(st.sampled_from([field.name for field in fields(CLASSES[name])]))
    return {"name": name, **PACKAGED[name], parameter: draw(values)}


jobs = st.one_of(
    spoilt(FULL),
    spoilt(small(datasets=[DATASET]), most=1),
    attacks().map(lambda entry: small(attacks=[entry])),
    st.text(max_size=200),
    values,
)


@unhurried
@given(content=jobs)
def test_a_job_is_refused_in_a_line_or_gives_numbers(content: Any) -> None:
    folder = Path(tempfile.mkdtemp())
    job = folder / "job.yaml"
    out = folder / "out"
    try:
        job.write_text(content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True))
        if refused_or_done("plan", str(job), "--out", str(out)) == 0:
            refused_or_done("run", str(job), "--out", str(out), "--engine", "serial", "--limit-cases", "1")
            assert_rows_are_numbers(out)
    finally:
        shutil.rmtree(folder)
