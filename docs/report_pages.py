"""Pages of the reports, and sentences of them that stored rows decide."""

import inspect
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from board_pages import (
    ACDC_ENTRIES,
    BESIDE_CLEAN,
    BOUNDS,
    NUMBERS,
    ROOT,
    cells_of_board,
    difference,
    entry_rows,
    filled,
    filled_lines,
    of_rows,
    orders_of_organs,
    stored_boards,
    stored_entries,
    table,
    weak_certificates,
)

from freqbench.analysis import certificates
from freqbench.analysis.groups import (
    bounds,
    budget_texts,
    group_means,
    is_undirected,
    points,
)
from freqbench.analysis.statistics import auroc, t_intervals
from freqbench.attacks import ATTACKS
from freqbench.attacks.core.searched import SearchedAttack
from freqbench.reporting.report import FORMATS
from freqbench.reporting.views.ejection import ejection_section

NNUNET = ROOT / "reports" / "nnunet" / "README.md"
STRONGEST = ROOT / "reports" / "strongest" / "README.md"
DETECTION = ROOT / "reports" / "detection" / "README.md"
EJECTION = ROOT / "reports" / "acdc" / "ejection.md"
SURE = 98  # AUROC x100 of a detector that misses next to nothing
NNUNET_STEPS = 20  # of each attack on all patients, as hippocampus/nnunet has it
MIRROR_IMAGES = 8  # over three axes
COARSE = "`dct-quantization` 20"
WAYS = {"window": "window by window", "joint": "joined windows"}
MIRRORED = "joined, through mirror images"


def said() -> Mapping[Path, Sequence[str]]:
    """Sentences of the reports that stored rows decide, with the numbers and the order that these have, by page."""
    reports = ROOT / "reports"
    return {
        ROOT / "README.md": [*_said_of_readme()],
        reports / "acdc" / "README.md": [_said_of_floor()],
        reports / "README.md": [*_said_of_index()],
        BOUNDS: [*_said_of_bounds()],
        DETECTION: [*_said_of_detection()],
        STRONGEST: [*_said_of_starts()],
    }


def _said_of_readme() -> Iterator[str]:
    whole, _ = stored_boards()
    plain = whole.rows.set_index("entry").loc["unet"]
    best = whole.rows["dsc_foreground"].max()
    yield (
        f"a UNet with a clean Dice of {plain['dsc_foreground_clean']:.1f} keeps {plain['dsc_foreground']:.1f} under "
        f"the strongest attacks of {NUMBERS[len(whole.over)]} kinds; the best of {NUMBERS[len(whole.rows)]} networks "
        f"keeps {best:.1f}"
    )
    plan, report = ((ROOT / "reports" / "hippocampus" / name).read_text("utf-8") for name in ("plan.txt", "README.md"))
    found = (r"0 of (\d+) records", r"about (\d+) minutes left on one worker", r"([\d.]+) at 2.5/h")
    records, minutes, price = (re.findall(each, plan)[0] for each in found)
    yield f"({int(records):,} records) it estimates {minutes} minutes of one worker, or {price}"
    (took,) = re.findall(rf"The {int(records):,} records took ([\d,]+) s of attacking and ([\d,]+) s", report)
    yield f"the run took {sum(int(seconds.replace(',', '')) for seconds in took) / 60:.0f} minutes"


def _said_of_index() -> Iterator[str]:
    whole, _ = stored_boards()
    rows = whole.rows.set_index("entry")
    left = rows["dsc_foreground"]
    after = (rows["dsc_foreground"] - rows["moved"]).dropna()
    first = whole.rows["entry"][0]
    special = [name for name in after.index if name.startswith("at-")]
    yield (
        f"a union of four adversaries keeps {left[first]:.1f} of {rows['dsc_foreground_clean'][first]:.1f} points, "
        f"{after[first]:.1f} with six times the steps, clean networks and VAFT at most "
        f"{left[[*BESIDE_CLEAN]].max():.1f}, a specialist {left[special].min():.1f} to {left[special].max():.1f}, with "
        f"six times the steps {after[special].min():.1f} to {after[special].max():.1f}; "
        f"{NUMBERS[(rows['moved'] > 1).sum()]} of {NUMBERS[len(after)]} have not converged in 20 steps."
    )
    tau, turned = orders_of_organs()["worst"]
    lead = left["union"] - left["at-sa2-opt"]
    yield f"{NUMBERS[len(turned)]} of fifteen pairs of networks is turned round (Kendall's tau {tau})"
    yield f"the union's lead over the next, {lead:.0f} points on the hippocampus, is"


def _said_of_bounds() -> Iterator[str]:
    yield "on {} of these {} volumes it leaves more than no change".format(*weak_certificates())
    rows = certificates.means(pd.read_csv(BOUNDS.with_name("bounds.csv")))
    rows = rows[(rows["radius"] == rows["sigma"]) & (rows["sigma"] < 1) & rows["target_model"].str.startswith("unet-")]
    gaps = rows["attacked"] - rows["certified"]
    yield f"At a radius of one sigma, attack and certificate are {gaps.min():.1f} to {gaps.max():.1f} points"


def _said_of_detection() -> Iterator[str]:
    robust, plain, heart = (detection_cells(name) for name in ("union-larger", "unet", "acdc-unet"))

    def means(cells: pd.DataFrame, way: str, detector: str) -> pd.Series:
        return cells[way].xs(detector, level=1).map(lambda cell: cell[0])

    least = means(plain, "clean", "change")
    sets = len(plain.index.levels[0])
    sure = (least >= SURE).sum()
    yield f"tells apart with an AUROC of {SURE} or more in {NUMBERS[sure]} of {NUMBERS[sets]} sets on the clean UNet"
    hidden = (means(robust, "clean", "change") < 75).sum()
    yield f"on `union-larger` it is below 75 in {NUMBERS[hidden]}"
    highest = max(means(plain, "known", each).max() for each in ("change", "energy", "features"))
    yield f"is told from clean volumes with an AUROC of at most {highest:.0f} on the clean UNet"
    kept, same = (means(plain, way, "change")["dct-scaling 0.4"] for way in ("kept", "same"))
    yield f"leaves {kept:.1f} under scaling 0.4 beside the change of the prediction, one who does not {same:.1f}"
    others = sorted(means(plain, "kept", each)["dct-scaling 0.4"] for each in ("energy", "features"))
    yield "beside the other two {:.1f} and {:.1f}".format(*others)
    noise = means(robust, "null", "energy")["linf 8/255"]
    yield f"an AUROC of {noise:.0f} against noise within 8/255 on `union-larger`: the noise is the more suspicious"
    lost = (means(heart, "kept", "energy") - means(heart, "same", "energy"))[["linf 2/255", "linf 4/255", "linf 8/255"]]
    yield f"On the heart {lost.min():.0f} to {lost.max():.0f} points more are left beside the energy within voxels"


def _said_of_floor() -> str:
    rows = pd.concat([entry_rows(entry) for entry in stored_entries(ACDC_ENTRIES).values()])
    rows = rows[rows["dsc_foreground"] == 0]
    return f"volumes of which no voxel of the heart is found score {rows['dsc'].min():.1f} to {rows['dsc'].max():.1f}"


def _said_of_starts() -> Iterator[str]:
    rows = pd.read_csv(ROOT / "reports" / "strongest" / "horizon.csv")
    gains = rows[["horizon", "dice"]].min(axis=1) - rows[["horizon", "horizon_second"]].min(axis=1)
    rows = rows.assign(gain=gains, patient_id=rows["case"])

    def text(part: pd.DataFrame) -> tuple[str, str]:
        (row,) = t_intervals(part.assign(all=0), ["all"], "gain").to_dict("records")
        return f"{abs(row['mean']):.2f}", f"[{points(row['low'], 2)}, {points(row['high'], 2)}]"

    of_network = {name: text(part) for name, part in rows.groupby("network")}
    (one, one_bounds), (other, other_bounds), (last, last_bounds) = (
        of_network[name] for name in ("union-wide", "at-sa2-opt", "unet")
    )
    yield (
        f"`horizon` beside the Dice leaves {one} points more than two starts of `horizon` on `union-wide` "
        f"{one_bounds}, {other} more on `at-sa2-opt` {other_bounds} and {last} less on `unet` {last_bounds}"
    )
    scaling, stretched = (
        text(rows[(rows["network"] == name) & (rows["set"] == place)])
        for name, place in (("union-wide", "scaling, rho 0.4"), ("at-sa2-opt", "stretched quantisation, q_max 20"))
    )
    yield (
        f"under scaling at rho 0.4 on `union-wide` {' more '.join(scaling)}, and under stretched quantisation on "
        f"`at-sa2-opt` {' more '.join(stretched)}"
    )


def ejection_page() -> str:
    """The report on ejection fractions, with its table."""
    rows = pd.read_csv(EJECTION.with_suffix(".csv"))
    (text,) = (FORMATS["markdown"]([ejection_section(str(dataset), part)]) for dataset, part in rows.groupby("dataset"))
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("|"))
    return filled(EJECTION.read_text(encoding="utf-8"), {"ejection": lines})


def nnunet_rows() -> pd.DataFrame:
    """Rows of the report on nnU-Net; foreground DSC x100, and the set of each in words."""
    rows = pd.read_csv(NNUNET.with_name("attacked.csv"))
    rows["dsc_foreground"] *= 100
    sets = "`" + rows["threat_model"] + "` " + budget_texts(rows).astype(str)
    return rows.assign(set=sets, patient_id=rows["case_id"], seed=0)


def lowest(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean over patients of the lowest DSC in each set, with its interval, by set."""
    minima = rows.groupby(["set", "case_id", "patient_id", "seed"], as_index=False)["dsc_foreground"].min()
    return group_means(minima, ["set"], "dsc_foreground").set_index("set")


def nnunet_attacks() -> str:
    """What null rows, each loss and the better one of each patient leave of nnU-Net's network in each set."""
    rows = nnunet_rows().query("source_model == 'nnunet'")
    rows = rows[rows["case_id"].groupby(rows["label"]).transform("nunique") == rows["case_id"].nunique()]
    is_null = is_undirected(rows)
    parts = {"null row": rows[is_null], **{f"`{loss}`": rows[rows["loss"] == loss] for loss in ("auto", "dice")}}
    means = {name: lowest(part)["dsc_foreground"] for name, part in parts.items()}
    left = lowest(rows[~is_null]).sort_values("dsc_foreground", ascending=False, kind="stable")
    texts = [points(value) for value in left["dsc_foreground"]]
    cells = [
        [name, *(points(each.get(name, float("nan"))) for each in means.values()), f"{text} {interval}"]
        for name, text, interval in zip(left.index, texts, bounds(left), strict=True)
    ]
    clean = pd.read_csv(NNUNET.with_name("clean.csv")).assign(
        set="clean", seed=0, patient_id=lambda rows: rows["case_id"]
    )
    clean["dsc_foreground"] = 100 * clean["freqbench"]
    for place, part in ((0, clean), (len(cells) + 1, rows[~is_null].assign(set="the worst of all"))):
        mean = lowest(part)
        cells.insert(place, [mean.index[0], "", "", "", f"{points(mean['dsc_foreground'].iloc[0])} {bounds(mean)[0]}"])
    return table(cells, ["set", *means, "lowest, interval"]) + "\n"


def nnunet_hidden() -> str:
    """What attacks leave of five patients beside the mirroring and through it: by each loss, and the lower of both."""
    cells = []
    for (place, way, passes), part in hidden_rows().groupby(["set", "way", "passes"]):
        losses = {f"`{loss}`": of_loss for loss, of_loss in part.groupby("loss")}
        for name, of_loss in losses.items() if len(losses) == 1 else {**losses, "lower of both": part}.items():
            (mean,), (interval,) = (left := lowest(of_loss))["dsc_foreground"], bounds(left)
            cells.append([place, way, name, f"{passes * of_loss['loss'].nunique()}", f"{points(mean)} {interval}"])
    return table(cells, ["set", "attack", "loss", "passes", "left"]) + "\n"


def hidden_rows() -> pd.DataFrame:
    """Rows of the sets that were attacked through the mirroring, on the patients of these; `way` and `passes`."""
    rows = nnunet_rows().query("control != 'random' and source_model != 'unet' and loss == loss")
    is_mirrored = rows["source_model"] == "mirrored"
    ways = rows["scope"].map(WAYS).mask(is_mirrored, MIRRORED)
    rows = rows.assign(way=ways, passes=rows["steps"].astype(int) * np.where(is_mirrored, MIRROR_IMAGES, 1))
    return rows.merge(rows.loc[is_mirrored, ["set", "case_id"]].drop_duplicates())


def nnunet_transfer() -> str:
    """What volumes leave that were made on nnU-Net's network, and those made on the package's `unet`."""
    foreign, own = _alike("unet")
    return _side_by_side({"made on `nnunet`": own[own["scope"] == "joint"], "made on `unet`": foreign})


def _alike(source: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of attacks on a source, and of those on nnU-Net's network in the same sets, by the same losses and cases."""
    rows = nnunet_rows().query("control != 'random'")
    theirs, own = (rows[rows["source_model"] == name] for name in (source, "nnunet"))
    keys = ["set", "loss", "case_id", "steps"]
    return theirs, own.merge(theirs[keys])


def _side_by_side(ways: Mapping[str, pd.DataFrame]) -> str:
    texts = {}
    for name, part in ways.items():
        means = lowest(part)
        cells = zip(map(points, means["dsc_foreground"]), bounds(means), strict=True)
        texts[name] = dict(zip(means.index, map(" ".join, cells), strict=True))
    sets = sorted({each for of_way in texts.values() for each in of_way})
    return table([[each, *(way.get(each, "") for way in texts.values())] for each in sets], ["set", *texts]) + "\n"


def nnunet_clean() -> str:
    """The clean Dice of each patient as freqbench and as nnU-Net's own commands have it."""
    rows = pd.read_csv(NNUNET.with_name("clean.csv"))
    cells = [
        [case, *(f"{value:.6f}" for value in scores), str(voxels)]
        for case, *scores, voxels in rows.itertuples(index=False)
    ]
    headers = ["patient", "freqbench", "`nnUNetv2_predict`", "the same, float32", "voxels that float16 turns"]
    apart, exact = ((rows["freqbench"] - rows[name]).abs().max() for name in ("nnunetv2", "nnunetv2_float32"))
    turned = (rows["voxels_of_float16"] > 0).sum()
    said = (
        f"Largest difference from freqbench: {apart:.6f}, by float16 in {turned} of {len(rows)} patients; {exact:.6f}"
    )
    return f"{table(cells, headers)}\n\n{said} in float32.\n"


def nnunet_page() -> str:
    """The report on nnU-Net, with its tables and sentences."""
    made = {"attacks": nnunet_attacks, "hidden": nnunet_hidden, "transfer": nnunet_transfer, "clean": nnunet_clean}
    texts = {name: make() for name, make in made.items()}
    texts["plain"] = "\n".join(map(filled_lines, _plain_of_nnunet())) + "\n"
    texts["trained"] = filled_lines(_trained_of_nnunet()) + "\n"
    return filled(NNUNET.read_text(encoding="utf-8"), texts)


def _plain_of_nnunet() -> Iterator[str]:
    clean = 100 * pd.read_csv(NNUNET.with_name("clean.csv")).set_index("case_id")
    rows = nnunet_rows()
    own = rows[(rows["source_model"] == "nnunet") & (rows["steps"] == NNUNET_STEPS)]
    is_null = is_undirected(own)
    theirs = _alike("unet")[0]
    parts = {"left": own[~is_null], "null": own[is_null], "foreign": theirs}
    parts |= {loss: own[~is_null & (own["loss"] == loss)] for loss in ("auto", "dice")}
    left, null, foreign, auto, dice = (lowest(part)["dsc_foreground"] for part in parts.values())
    worst = parts["left"].groupby("case_id")["dsc_foreground"].min().mean()
    beside = cells_of_board()["clean"][["unet", "segresnet", "unetr"]].min()
    yield of_rows(
        worst < 0.5 and 100 * training_of_nnunet()["test_dice"] > beside,
        "- **An nnU-Net as good as the board's clean networks falls like them**: its clean Dice is "
        f"{training_of_nnunet()['test_dice']} on the twenty test patients by nnU-Net's own commands "
        f"({clean['freqbench'].mean():.1f} on these ten), and the worst attack leaves nothing. Within 2/255, "
        f"{left['`linf` 2/255']:.1f} are left, within 8/255 {left['`linf` 8/255']:.1f}, within quantisation "
        f"{left[COARSE]:.1f}, within scaling 0.4 {left['`dct-scaling` 0.4']:.1f}. Changes of the same size without "
        f"optimisation leave {null.min():.1f} to {null.max():.1f}.",
    )
    yield _mirroring_of_nnunet()
    foreign = foreign.sort_values()
    yield of_rows(
        foreign.index[0] == "`dct-quantization-stretched` 20" and foreign.iloc[0] < 50 < foreign.iloc[1],
        "- **What was made on another network hardly transfers**: its volumes leave "
        f"{foreign.iloc[1]:.1f} to {foreign.iloc[-1]:.1f} in {NUMBERS[len(foreign) - 1]} sets. Stretched quantisation "
        f"is the exception, which leaves {foreign.iloc[0]:.1f}: its change is large.",
    )
    gains = (auto - dice).dropna()
    yield (
        f"- **Two losses take more than one**: `dice` takes more than `auto` in {NUMBERS[(gains > 0).sum()]} of "
        f"{NUMBERS[len(gains)]} sets, by up to {gains.max():.1f} points, and up to {-gains.min():.1f} less in the "
        "others."
    )
    yield of_rows(
        (clean["freqbench"] - clean["nnunetv2_float32"]).abs().max() < 5e-5,
        "- **freqbench attacks the network that nnU-Net runs**: with sums of windows in float32 the clean Dice is the "
        "same by both to six digits, for each patient.",
    )


def _mirroring_of_nnunet() -> str:
    texts = []
    made_up = []
    all_left = hidden_rows().groupby(["set", "way", "passes", "case_id"])["dsc_foreground"].min()
    for name, words in ((COARSE, "Within quantisation"), ("`linf` 2/255", "Within 2/255")):
        left = all_left[name]
        through = left[MIRRORED, 160]
        beside = left[WAYS["joint"], 160]
        few = left[WAYS["joint"], NNUNET_STEPS]
        gain, text = difference((beside - through).to_numpy())
        made_up.append((few - beside).mean() / gain)
        texts.append(
            f"{words}, {through.mean():.1f} are left through all eight mirror images and {beside.mean():.1f} beside "
            f"them (paired {text}{', which may be chance' if '[-' in text else ''}), where 20 passes beside them leave "
            f"{few.mean():.1f}."
        )
    return of_rows(
        max(made_up) < 0.5,
        "- **Mirroring hides how weak it is, at equal passes too**: the lower of two losses of 160 passes each, on the "
        f"same five patients. {' '.join(texts)} Eight times the passes beside the mirroring do not make up for it. So "
        "the first table, beside the mirroring as attacks on nnU-Net usually are, is an upper bound. Windows hide next "
        "to nothing here: most volumes have one.",
    )


def training_of_nnunet() -> Mapping[str, Any]:
    """Facts of nnU-Net's training."""
    facts: dict[str, Any] = json.loads(NNUNET.with_name("training.json").read_text(encoding="utf-8"))
    return facts


def _trained_of_nnunet() -> str:
    facts = training_of_nnunet()
    return (
        f"nnU-Net's trainer `{facts['trainer']}` made {facts['iterations']} steps in {facts['epochs']} epochs on the "
        f"{facts['patients']['training']} patients of the list `training`, with its own augmentation, deep supervision "
        f"and schedule. Half of the epochs took {facts['seconds_an_epoch']} s or less, most on one core. "
        "`checkpoint_final.pth` is attacked: no weights were chosen. On the "
        f"{facts['patients']['validation']} patients of the list `validation` nnU-Net found a Dice of "
        f"{facts['validation_dice']}, on the 20 of `test` {facts['test_dice']}. Only planning "
        "saw their volumes before. The checkpoint has 11 MB and is not stored here."
    )


def detection_rows() -> pd.DataFrame:
    """Rows of networks beside a detector, by network; DSC x100, the set and the kind of volume of each in words."""
    parts = [pd.read_csv(path).assign(network=path.stem) for path in sorted(DETECTION.parent.glob("*.csv"))]
    rows = pd.concat(parts, ignore_index=True)
    rows["dsc_foreground"] *= 100
    is_null = rows["control"] | (rows["attack"] == "random_noise")
    kinds = np.select([is_null, rows["source_model"] == "plain"], ["null", "unaware"], "aware")
    names = rows["threat_model"] + " " + budget_texts(rows).astype(str)
    return rows.assign(set=names, kind=kinds, patient_id=rows["case_id"], seed=0)


@cache
def detection_cells(network: str) -> pd.DataFrame:
    """Means with their bounds, by set and detector.

    AUROC x100 of volumes of an attacker who does not know the detector against `clean` volumes and `null` rows, and of
    one who does, `known`; the DSC that both leave: `left`, `same` on the patients of the other, and `kept`.
    """
    rows = detection_rows().query("network == @network")
    made = {}
    for (name, detector), part in rows.groupby(["set", "target_model"]):
        null, blind, knows = (part[part["kind"] == kind] for kind in ("null", "unaware", "aware"))
        clean = blind.groupby("case_id")["suspicion_clean"].first()
        pairs = {"clean": (blind, clean), "null": (blind, null.groupby("case_id")["suspicion"].mean())}
        cell = {}
        for way, (volumes, other) in (pairs | {"known": (knows, clean)}).items():
            of_case = volumes.groupby("case_id")["suspicion"].mean()
            paired = pd.DataFrame({"one": of_case, "other": other}).dropna()
            cell[way] = auroc(paired["one"].to_numpy(), paired["other"].to_numpy())
        of_same = blind[blind["case_id"].isin(knows["case_id"])]
        for way, volumes in (("left", blind), ("same", of_same), ("kept", knows)):
            cell[way] = tuple(lowest(volumes)[["dsc_foreground", "low", "high"]].iloc[0])
        made[name, detector] = cell
    return pd.DataFrame.from_dict(made, orient="index")


def detection_tables(network: str) -> tuple[str, str]:
    """Two tables of a network: whom detectors tell apart, and what an attacker who knows each one leaves."""
    cells = detection_cells(network)
    seen = []
    known = []
    for name, of_set in cells.groupby(level=0):
        of_all = of_set.iloc[0]
        texts = {
            way: [f"{m:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" for m, low, high in of_set[way]]
            for way, digits in (("clean", 0), ("null", 0), ("known", 0), ("kept", 1))
        }
        seen.append(
            [f"`{name}`", points(of_all["left"][0]), *itertools.chain(*zip(texts["clean"], texts["null"], strict=True))]
        )
        known.append(
            [f"`{name}`", points(of_all["same"][0]), *itertools.chain(*zip(texts["kept"], texts["known"], strict=True))]
        )
    detectors = [*cells.index.get_level_values(1).unique()]
    heads = [f"{each}, {what}" for each in detectors for what in ("clean", "null")]
    both = [f"{each}, {what}" for each in detectors for what in ("left", "AUROC")]
    return table(seen, ["set", "left", *heads]) + "\n", table(known, ["set", "left, unaware", *both]) + "\n"


def detection_page() -> str:
    """The report on detectors, with its tables."""
    made = {}
    for network in detection_rows()["network"].unique():
        made[f"seen-{network}"], made[f"known-{network}"] = detection_tables(network)
    return filled(DETECTION.read_text(encoding="utf-8"), made)


def first_steps() -> pd.DataFrame:
    """Foreground DSC x100 that 20 steps of `horizon` leave of each patient of the board: `former`, and `now`."""
    rows = pd.read_csv(STRONGEST.with_name("first_step_board.csv"))
    return rows.assign(gain=rows["former"] - rows["now"], patient_id=rows["case_id"])


def first_step_gains() -> str:
    """Points that `horizon` takes more by its first step of now, by network and set; brackets where that is sure."""
    gains = t_intervals(first_steps(), ["network", "set"], "gain").set_index(["network", "set"])
    ends = np.where((gains["low"] > 0) | (gains["high"] < 0), bounds(gains), "")
    texts = pd.Series(
        [f"{points(mean)} {end}".strip() for mean, end in zip(gains["mean"], ends, strict=True)], gains.index
    )
    left = cells_of_board()
    cells = [[f"`{name}`", *(texts[name, place] for place in left.columns[1:-1])] for name in left.index]
    return table(cells, ["network", *left.columns[1:-1]]) + "\n"


def first_step_ablation() -> str:
    """What rules of the first step leave at equal passes, on patients of `validation`; the lowest of a row is bold."""
    rows = pd.read_csv(STRONGEST.with_name("first_step.csv"), keep_default_na=False)
    cell = ["data", "network", "set", "steps"]
    halves = rows[rows["half"] == "yes"].assign(loss="horizon", first_step="halves", margins="", steps=20)
    halves = halves.groupby([*cell, "patient", "loss", "first_step", "margins"])["dsc_foreground"].min().reset_index()
    rows = pd.concat([rows[rows["half"] == ""], halves])
    keys = {
        "former": ("horizon", "former", "yes"),
        "former, no margins": ("horizon", "former", "no"),
        "foreground, no margins": ("horizon", "foreground", "no"),
        "**foreground (taken)**": ("horizon", "foreground", "yes"),
        "both for a fifth, then the better": ("horizon", "both for 0.2 of the steps", "yes"),
        "ten steps of each": ("horizon", "halves", ""),
        "former, looking further": ("auto", "former", "yes"),
        "foreground, looking further": ("auto", "foreground", "yes"),
        "Dice": ("dice", "", ""),
    }
    cells = []
    for (data, network, place, steps), part in rows.groupby(cell):
        of = part.pivot(index="patient", columns=["loss", "first_step", "margins"], values="dsc_foreground").dropna()
        values = [of[key].mean() if key in of else np.nan for key in keys.values()]
        texts = [f"**{points(v)}**" if v == np.nanmin(values) else points(v) for v in values]
        cells.append([data, f"`{network}`", place, str(steps), str(len(of)), *texts])
    return table(cells, ["data", "network", "set", "steps", "volumes", *keys]) + "\n"


def corner_table() -> str:
    """A row a search over a set: how many points it sees before its first step, and which, by its docstrings."""
    rows = []
    for name, attack in ATTACKS.items():
        if issubclass(attack, SearchedAttack):
            own = attack.corners is not SearchedAttack.corners
            text = (inspect.getdoc(attack.corners if own else attack.ways) or "").splitlines()[0].rstrip(".")
            which = text.replace("Yields ", "" if own else "no change, and both ends of ", 1)
            rows.append([f"`{name}`", str(attack.num_corners), which])
    return table(rows, ["attack", "points", "which"]) + "\n"


def first_step_words() -> Iterator[str]:
    """What the rows of both first steps say."""
    means = first_steps().groupby(["network", "set"])[["former", "now"]].mean()
    gains = t_intervals(first_steps(), ["network", "set"], "gain").set_index(["network", "set"])
    best = gains["mean"].idxmax()
    worst = gains["mean"].idxmin()
    more = (gains["low"] > 0).sum()
    less = (gains["high"] < 0).sum()
    yield (
        f"**It decides a basin**: of `{best[0]}` under {best[1]} twenty steps leave {means['now'][best]:.1f} where the "
        f"former first step left {means['former'][best]:.1f}. The most that it loses is {-gains['mean'][worst]:.1f} "
        f"points, of `{worst[0]}` under {worst[1]}. In {more} of {len(gains)} cells it takes more for certain, in "
        f"{less} less."
    )


def strongest_page() -> str:
    """The report on searches, with its tables of first steps and corners."""
    words = "\n".join(map(filled_lines, first_step_words())) + "\n"
    parts = {"gains": first_step_gains(), "ablation": first_step_ablation(), "corners": corner_table(), "first": words}
    return filled(STRONGEST.read_text(encoding="utf-8"), parts)
