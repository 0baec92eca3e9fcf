"""Makes the page's data: one JSON object of columns of coded texts and short numbers: `web/data.schema.json`."""

import json
import math
from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain, starmap
from typing import Any

import numpy as np
import pandas as pd

from freqbench.analysis import certificates
from freqbench.analysis.frames import added_scores, added_texts, caption_of, joined_classes
from freqbench.analysis.groups import budget_texts, by_dataset, is_minimal, is_null_row, is_white_box, steps_text
from freqbench.analysis.labels import families
from freqbench.analysis.scores import SCORES, Score, shown_scores
from freqbench.analysis.statistics import DICE, mean_intervals
from freqbench.analysis.tables import ADDED, CLEAN, failures, summary
from freqbench.audit import checks
from freqbench.core.documents import object_of
from freqbench.core.measures import METRIC_OF
from freqbench.core.threat_models import words_of
from freqbench.core.types import AGREEMENT, dataset_name
from freqbench.metrics import name_of
from freqbench.reporting.colors import class_color, class_colors, series_style
from freqbench.reporting.contents import Contents, contents, keys_of, regions_of
from freqbench.reporting.figure_data import shown_rows
from freqbench.reporting.page import facts as page_facts
from freqbench.reporting.page.manifest import shown_glimpses
from freqbench.reporting.render.columns import OWN, Section, columns_of, one_line, word_sections
from freqbench.reporting.views import natural, smallest, unasked_sections
from freqbench.results import KEY, Store
from freqbench.results.store import row_id

MAX_CASES = 150_000
MAX_CLASS_ROWS = 1_000_000
MAX_CLASS_MEANS = 500_000
DIGITS = 6  # a page shows four at most: fewer here, and what is shown would be rounded twice
COUNT_DIGITS = 12
Part = dict[str, Any]  # part of the page's data, by name in `$defs` of the schema
_NAMES = {"dsc_foreground": "foreground DSC", "dsc": "DSC with background", "dsc_drop": "drop of DSC with background"}
_KEYS = ["dataset", "source_model", "target_model", "label"]
_COUNTS = ["budget", "cases", "seeds", "failed", "hd95_cases"]
_CLEAN = ["cases", "dsc", "dsc_foreground", "hd95", "hd95_mm", "hd95_penalised_mm"]


def data_of(stores: Sequence[Store]) -> tuple[Contents, Part]:
    """Returns the contents of stores and `page_data` of them, with their audit; raises as `contents`."""
    content = contents(stores)
    findings = checks.audited(checks.gathered(stores, keys_of(each["job"] for each in content.facts)))
    return content, page_data(content.records, content.classes, content.facts, page_facts.audit(findings))


def page_data(
    records: pd.DataFrame, classes: pd.DataFrame | None, facts: Sequence[Mapping[str, Any]], audit: Part | None = None
) -> Part:
    """Makes the object that `build_page` embeds.

    Args:
        records: columns of RECORDS after `tables.current`.
        classes: columns of CLASS_RECORDS; None where there are none.
        facts: one per store, `{"store": root, "runs": Store.runs(), "job": Store.job()}`.
        audit: that of `facts.audit`; None if not asked for.
    """
    is_left_out = records["left_out"] != ""
    rows, clean, placed = _place(records[~is_left_out])
    runs = list(chain.from_iterable(each["runs"] for each in facts))
    regions = regions_of(runs)
    datasets = rows["dataset"].unique()
    shown_regions = {str(name): regions[dataset_name(name)] for name in datasets if dataset_name(name) in regions}
    is_of_agreement = rows["dataset"].astype(str).str.endswith(AGREEMENT)
    caption = caption_of(placed, runs)
    reading = filter(None, (caption, steps_text(records), OWN if is_of_agreement.any() else ""))
    smallest_sections = smallest.smallest(records) if smallest.applies(records) else []
    return {
        "format": 1,
        "title": page_facts.title(facts),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version("freqbench"),
        **_scores(rows, placed),
        "clean": _frame({"dataset": clean["dataset"], "target": clean["target_model"]}, clean[_CLEAN]),
        **_class_frames(placed, classes),
        "regions": shown_regions,
        **_about_attacks(rows),
        "docs": page_facts.docs(),
        "findings": page_facts.sentences(rows),
        "glimpses": shown_glimpses(placed, [each["store"] for each in facts]),
        "class_colors": class_colors(),
        **_lacking(records[is_left_out], placed),
        "runs": page_facts.runs(facts, placed),
        "jobs": page_facts.jobs(facts),
        "notes": [*page_facts.NOTES, *reading],
        "cautions": [*page_facts.CAUTIONS],
        "tables": _tables(unasked_sections(records, but="smallest"), regions),
        "smallest": _tables(smallest_sections, regions),
        "natural": _natural(records),
        "bounds": _bounds(placed),
        "audit": audit,
        "volumes": None,
    }


def _place(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Returns the rows of the summary (`row`: their place), those of clean volumes, and records by their `row`."""
    records = records.reset_index(drop=True)
    rows = summary(records).rename(columns={"attack": "label"})
    is_clean = rows["label"] == CLEAN
    clean = rows[is_clean].reset_index(drop=True)
    rows = rows[~is_clean].reset_index(drop=True)
    rows["row"] = np.arange(len(rows))
    place = records[_KEYS].merge(rows[[*_KEYS, "row"]], on=_KEYS, how="left")["row"].to_numpy()
    placed = records.assign(row=place).sort_values(["row", "case_id", "seed"], kind="stable", ignore_index=True)
    bases = placed.drop_duplicates("row").set_index("row")["attack"]
    return rows.assign(family=families(rows), base=bases), clean, placed


def _scores(rows: pd.DataFrame, records: pd.DataFrame) -> Part:
    added = {ADDED + name_of(text): text for text in added_texts(records)}
    scores = [*map(_score, SCORES), *starmap(_added_score, added.items())]
    return {"scores": scores, "summary": _summary(rows, records, added)}


def _about_attacks(rows: pd.DataFrame) -> Part:
    """Returns the looks of families, the papers of attacks, and the words for threat models, of a summary's rows."""
    series = {name: series_style(place) for place, name in enumerate(rows["family"].unique())}
    threats = sorted(set(rows["threat_model"].dropna().astype(str)))
    papers = page_facts.attacks(rows["base"].dropna())
    return {"series": series, "attacks": papers, "threats": {name: words_of(name) for name in threats}}


def _lacking(left_out: pd.DataFrame, records: pd.DataFrame) -> Part:
    """Returns the groups of rows that the tables leave out, and of those that failed, with reasons."""
    reasons = left_out.groupby([*_KEYS, "left_out"], observed=True).size().reset_index()
    failed = failures(records).astype(object)
    failed = failed.where(failed.notna(), None)
    return {"left_out": _groups(reasons, "reason", "rows"), "failures": _groups(failed, "failed", "reason")}


def _score(score: Score) -> Part:
    stated = {name: value for name, value in score._asdict().items() if name != "scale"}
    return stated | {"heading": _NAMES.get(score.name, score.heading), "metric": METRIC_OF.get(score.source, "")}


def _added_score(name: str, metric: str) -> Part:
    about = f"metric of another package, {metric}"
    score = Score(name, name_of(metric), name_of(metric), "", "", about, digits=3, shown=True)
    return _score(score) | {"metric": metric}


def _summary(rows: pd.DataFrame, records: pd.DataFrame, added: Collection[str]) -> Part:
    budgets = budget_texts(rows).astype(object)
    columns = {"dataset": "dataset", "source": "source_model", "target": "target_model", "attack": "label"}
    columns |= {"family": "family", "base": "base", "threat": "threat_model"}
    names = {name: rows[column] for name, column in columns.items()}
    names["budget_text"] = (rows["budget_name"] + "=" + budgets).where(budgets != "", "")
    names["transfer"] = is_white_box(rows).map({True: "white-box", False: "transfer"})
    names |= _reasons(records, len(rows))
    points = records[["row", "patient_id"]].assign(points=shown_scores(records)["dsc_foreground"])
    bounds = mean_intervals(points, ["row"], "points", DICE)
    scores = {score.name: rows[score.name] for score in SCORES}
    scores |= {name: rows[name] for name in added if name in rows}
    scores |= {f"dsc_foreground_{end}": bounds[end] for end in ("low", "high")}
    counts = {name: rows[name] for name in _COUNTS} | {"seeds": rows["seeds"].where(rows["seeds"] > 0)}
    return _frame(names, counts | scores | {"null": is_null_row(rows), "minimal": is_minimal(rows)})


def _reasons(records: pd.DataFrame, rows: int) -> dict[str, pd.Series]:
    """Returns by row of the summary the first `error` if none is ok, the ok records' `metrics` and `null_reasons`."""
    ok = records.loc[records["status"] == "ok", ["row", "metrics", "null_reasons"]].astype(object).drop_duplicates()

    def list_metrics(texts: Iterable[str]) -> str | None:
        names = ",".join(texts).split(",")
        return ",".join(dict.fromkeys(names)) or None

    def merge_reasons(texts: Iterable[str]) -> str:
        reasons = ChainMap(*(object_of(text, "null_reasons") for text in texts))  # the first text's win
        return json.dumps(dict(reasons), sort_keys=True)

    none_ok = records[~records["row"].isin(ok["row"])]
    columns = {"error": none_ok.astype({"error": object}).groupby("row")["error"].first()}
    for name, merge in (("metrics", list_metrics), ("null_reasons", merge_reasons)):
        columns[name] = ok.dropna(subset=name).groupby("row")[name].agg(merge)
    return {name: values.reindex(range(rows)) for name, values in columns.items()}


def _class_frames(records: pd.DataFrame, classes: pd.DataFrame | None) -> dict[str, Any]:
    frames: dict[str, Any] = dict.fromkeys(("cases", "case_classes", "clean_classes", "class_means")) | {"classes": {}}
    omitted = frames["omitted"] = {}
    counts = blocks = np.zeros(len(records), dtype=int)
    if classes is None or classes.empty:
        omitted["case_classes"] = "the store holds no values of single classes"
    else:
        placed = records.assign(position=np.arange(len(records)))
        joined = joined_classes(placed, classes, ["position", "row", "dataset"])
        joined = joined.sort_values(["position", "class_index"], kind="stable", ignore_index=True)
        frames["classes"] = _class_names(joined)
        means = _class_means(joined)
        if means["rows"] > MAX_CLASS_MEANS:
            omitted["class_means"] = f"{means['rows']:,} means of classes are too many for a page"
        else:
            frames["class_means"] = means
        if len(joined) > MAX_CLASS_ROWS or len(records) > MAX_CASES:
            omitted["case_classes"] = f"{len(joined):,} values of single classes are too many for a page"
        else:
            counts = np.bincount(joined["position"], minlength=len(records))
            values = {"class": joined["class_index"], "dsc": joined["dsc"] * 100, "hd95_mm": joined["hd95_mm"]}
            frames["case_classes"] = _frame({}, values)
            volumes = records.groupby(["dataset", "target_model", "case_id"], observed=True, sort=False)
            blocks = volumes.ngroup().to_numpy()  # a model's scores of a clean volume stand there once
            frames["clean_classes"] = _clean_classes(joined.assign(block=blocks[joined["position"]]))
    if len(records) > MAX_CASES:
        advice = "only the means are here; report --format csv has every row"
        omitted["cases"] = f"{len(records):,} single cases are too many for a page (at most {MAX_CASES:,}): {advice}"
    else:
        frames["cases"] = _cases(records, counts, blocks)
    return frames


def _class_means(joined: pd.DataFrame) -> Part:
    groups = joined.assign(dsc_drop=joined["dsc_clean"] - joined["dsc"]).groupby(["row", "class_index"])
    means = groups[["dsc", "dsc_clean", "dsc_drop", "hd95_mm"]].mean() * [100, 100, 100, 1]
    row, index = map(means.index.get_level_values, (0, 1))
    return _frame({}, means, **{"row": row, "class": index, "cases": groups["dsc"].count()})


def _clean_classes(joined: pd.DataFrame) -> Part:
    """Makes the frame of classes in each clean volume, by `block`: one of a model's cases."""
    keys = ["block", "class_index"]
    rows = joined.drop_duplicates(keys).sort_values(keys, kind="stable")
    exact = {"block": rows["block"], "class": rows["class_index"], "label_voxels": rows["label_voxels"]}
    return _frame({}, {"dsc": rows["dsc_clean"] * 100, "hd95_mm": rows["hd95_mm_clean"]}, **exact)


def _cases(records: pd.DataFrame, counts: np.ndarray, blocks: np.ndarray) -> Part:
    names = {"case": "case_id", "patient": "patient_id", "run": "run_id"}
    names |= {name: name for name in ("status", "error", "metrics", "null_reasons")}
    columns = {name: records[name] for name in ("row", "seed", "missed_classes", "hallucinated_classes")}
    text = {name: records[source] for name, source in names.items()}
    text["id"] = pd.Series([row_id(*key) for key in records[list(KEY)].itertuples(index=False)], dtype=object)
    scores = added_scores(records).add_prefix(ADDED)
    added = {str(name): scores[name] for name in scores if not str(name).endswith("_clean")}
    return _frame(text, shown_scores(records) | added, **columns, classes=counts, clean=blocks)


def _class_names(joined: pd.DataFrame) -> dict[str, list[tuple[int, str, str]]]:
    distinct = joined[["dataset", "class_index", "class_name"]].drop_duplicates(["dataset", "class_index"])
    names: dict[str, list[tuple[int, str, str]]] = {}
    for dataset, index, name in distinct.sort_values(["dataset", "class_index"]).itertuples(index=False, name=None):
        names.setdefault(str(dataset), []).append((int(index), str(name), class_color(int(index))))
    return names


def _groups(rows: pd.DataFrame, *rest: str) -> list[Part]:
    names = ("dataset", "source", "target", "attack", *rest)
    return [dict(zip(names, values, strict=True)) for values in rows.itertuples(index=False, name=None)]


def _tables(sections: Sequence[Section], regional: Collection[str]) -> list[Part]:
    tables = []
    for section in word_sections(sections, regional):
        columns = columns_of(section)
        headings = [{"heading": one_line(each.heading), "number": each.is_number} for each in columns]
        cells = (each.cells for each in columns)
        rows = [*map(list, zip(*cells, strict=True))]
        tables.append({"title": section.title, "text": section.text, "columns": headings, "rows": rows})
    return tables


def _natural(records: pd.DataFrame) -> list[Part]:
    charts = []
    for dataset, rows in by_dataset(shown_rows(records)) if natural.applies(records) else ():
        if isinstance(comparison := natural.compare_models(rows), str):
            continue
        columns = comparison.by_row[["target_model", "group", "row", "mean", "low", "high"]]
        drops = {}
        for model, group, row, mean, *ends in columns.itertuples(index=False):
            low, high = (None if math.isnan(end) else round(end, 2) for end in ends)
            drops[model, group, row] = (round(float(mean), 2), low, high)
        models = comparison.models
        places = comparison.rows
        named = [(natural.GROUPS[group], row) for group, row in places]
        chart: Part = {"dataset": dataset, "models": models, "cases": comparison.n, "rows": named}
        chart |= {"drops": {}, "series": {}}
        for number, model in enumerate(models):
            chart["drops"][model] = [drops.get((model, *place)) for place in places]
            chart["series"][model] = series_style(number)
        charts.append(chart)
    return charts


def _bounds(records: pd.DataFrame) -> list[Part]:
    table = certificates.means(certificates.brackets(records))
    charts = []
    for (dataset, model, _, kind, sigma), rows in table.groupby(certificates.PLACE) if len(table) else ():
        ends = {name: numbers(rows[name]) for name in ("radius", "clean", "certified", "attacked")}
        points = [dict(zip(ends, values, strict=True)) for values in zip(*ends.values(), strict=True)]
        place = {"dataset": str(dataset), "model": str(model), "kind": kind, "sigma": sigma}
        charts.append(place | {"rows": points, "cases": int(rows["cases"].max())})
    return charts


def numbers(values: Any, digits: int = DIGITS) -> list[int | float | None]:
    """Rounds `values` (numbers, or texts of them) to `digits` significant digits, whole ones without a point; missing
    and infinite ones are None."""
    rounded = [float(f"{value:.{digits}g}") for value in pd.to_numeric(pd.Series(values)).astype(float).tolist()]
    return [(int(value) if value.is_integer() else value) if math.isfinite(value) else None for value in rounded]


def texts(values: pd.Series) -> Part:
    """Codes `values` as indices into the distinct ones, in order of appearance; -1 where there is none."""
    codes, distinct = pd.factorize(values.astype(object))
    return {"values": [str(value) for value in distinct], "codes": codes.tolist()}


def _frame(text: Mapping[str, pd.Series], values: Mapping[str, Any] | pd.DataFrame, **exact: Any) -> Part:
    """Makes a frame; `exact` numbers keep COUNT_DIGITS."""
    first = next(iter((text or dict(values)).values()))
    coded = {name: texts(column) for name, column in text.items()}
    short = {str(name): numbers(column) for name, column in values.items()}
    whole = {name: numbers(column, COUNT_DIGITS) for name, column in exact.items()}
    return {"rows": len(first), "texts": coded, "numbers": short | whole}
