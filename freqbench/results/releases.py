"""Releases of the software that made rows: a table with rows of several has a line for it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from freqbench.core.machine import MOVE_NUMBERS
from freqbench.core.terminal import amount

MOST_KINDS = 4  # of rows that the line counts
Origin = tuple[str | None, str]  # a row's `releases` and `run_id`


def parse_releases(text: str | None) -> dict[str, str]:
    """Returns the releases in a row's `releases` by distribution.

    >>> parse_releases("monai 1.6.0, torch 2.13.0"), parse_releases(None)
    ({'monai': '1.6.0', 'torch': '2.13.0'}, {})
    """
    parts = (part.rpartition(" ") for part in (text or "").split(", "))
    return {name: release for name, _, release in parts if name}


def code_text(code: Mapping[str, Any] | None) -> str:
    """Names the commit of freqbench in a run's `code`."""
    if not code:
        return "unknown"
    return f"{str(code.get('commit'))[:12]}{', with files changed' if code.get('dirty') else ''}"


def mixture(rows: Mapping[Origin, int], runs: Iterable[Mapping[str, Any]]) -> str | None:
    """Returns a line on rows, counted by origin, of several releases or commits; rows that say none have their run's,
    of `runs`."""
    of_run = {run["run_id"]: run for run in runs}
    kinds: list[tuple[dict[str, str], int]] = []
    releases = defaultdict[str, set[str]](set)
    for (text, run_id), count in rows.items():
        run = of_run.get(run_id, {})
        ran = run.get("versions") or {}
        used = parse_releases(text) or {name: str(ran[name]) for name in MOVE_NUMBERS if name in ran}
        if run.get("code"):
            used["freqbench"] = f"{used.get('freqbench', '')} at {code_text(run['code'])}".strip()
        elif run_id not in of_run:
            used.pop("freqbench", None)
        kinds.append((used, count))
        for name, release in used.items():
            releases[name].add(release)
    mixed = sorted(name for name in releases if len(releases[name]) > 1)
    counts: Counter[str] = Counter()
    for used, count in kinds:
        counts[" and ".join(f"{name} {used[name]}" for name in mixed if name in used)] += count
    counts.pop("", None)
    if not counts:
        return None
    told = [f"{amount(count, 'row')} with {text}" for text, count in counts.most_common(MOST_KINDS)]
    told += [f"{len(counts) - MOST_KINDS} more kinds"] if len(counts) > MOST_KINDS else []
    advice = "a difference between them may be the software's; the same job into a new store makes all rows with one"
    return f"rows of several releases: {'; '.join(told)}: {advice}"
