"""Values that nobody means, in a tree, and what a command makes of them; FREQBENCH_FUZZ_EXAMPLES=2500 looks longer."""

import copy
import io
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from freqbench.cli import main

SECONDS = 60
MEMORY = 12 << 30
"""Bytes of addresses that a command may take: torch and its libraries have some of them."""

EXAMPLES = os.environ.get("FREQBENCH_FUZZ_EXAMPLES")
unhurried = settings(
    max_examples=int(EXAMPLES or 4),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

NUMBERS = (0, -1, 1, 2, 7, 2**31, 2**63, -(2**64), 10**12, 10**400, 0.0, 1e-320, 1e308, float("nan"), float("inf"))
TEXTS = ("", " ", "~", "~nosuchuser/x", "${HOME}", "${NOWHERE}", "../..", "/dev/null", "NaN", "1e999", "8/0", "٤/255")
TEXTS += ("eps/4", "9" * 5000, "a\x00b", "\u202e", "pgd", "DSC", "random:1", "s3://", "file:///", "zoo://phantom/unet")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the places of the values of a tree of dictionaries and lists, itself first."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def spoilt(draw: st.DrawFn, tree: Any, most: int = 3) -> Any:
    """A copy of a tree with some values replaced, removed, added, doubled or put in a list."""
    tree = {"": copy.deepcopy(tree)}
    for _ in range(draw(st.integers(1, most))):
        *above, key = draw(st.sampled_from([place for place in places(tree) if place]))
        parent = tree
        for step in above:
            parent = parent[step]
        kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add", "double", "wrap")))
        if kind == "replace" or (kind == "remove" and not above):
            parent[key] = draw(values)
        elif kind == "remove":
            del parent[key]
        elif kind == "wrap":
            parent[key] = [parent[key]] * draw(st.integers(0, 3))
        elif kind == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif isinstance(parent[key], dict):
            parent[key][draw(st.text(max_size=6))] = draw(values)
        elif isinstance(parent[key], list):
            parent[key].append(draw(values))
    return tree[""]


@contextmanager
def limits() -> Iterator[None]:
    """Within, what takes longer than SECONDS or more than MEMORY raises."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    (soft, hard) = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refused_or_done(*arguments: str) -> int:
    """Exit code of a command: 0, or 1 or 2 with a line that says why; anything else fails."""
    out = io.StringIO()
    err = io.StringIO()
    terminate = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, limits(), redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["bench.py", *arguments])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, terminate)
    said = err.getvalue()
    assert code in (0, 1, 2), (code, said)
    assert "Traceback" not in out.getvalue() + said
    assert code == 0 or said.strip() or out.getvalue().strip()
    assert all(len(line) < 4000 for line in said.splitlines()), "a line that nobody reads"
    return code


def assert_rows_are_numbers(out: Path) -> None:
    """Rows that are ok have no NaN and no infinity, but where a label has no class, of which the run warned."""
    for path in out.glob("records/*.parquet"):
        table = pq.read_table(path)
        is_ok = pc.equal(table["status"], "ok")
        has_class = pc.is_finite(table["dsc_foreground_clean"])
        ok = table.filter(pc.and_(is_ok, pc.coalesce(has_class, True)))
        for name, column in zip(ok.column_names, ok.columns, strict=True):
            if pa.types.is_floating(column.type):
                numbers = column.drop_null().to_numpy()
                assert np.isfinite(numbers).all(), (path, name, numbers)
        if len(table.filter(pc.and_(is_ok, pc.invert(pc.coalesce(has_class, True))))):
            assert any("foreground scores are undefined" in run.read_text() for run in out.glob("runs/*.json"))
