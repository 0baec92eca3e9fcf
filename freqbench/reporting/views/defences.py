"""Shows the worth of defences against attackers that know of them, and what is certified of randomised networks."""

import json
from collections import defaultdict
from itertools import product, starmap
from typing import Any

import pandas as pd

from freqbench.analysis import certificates, groups
from freqbench.analysis.certificates import ALPHA
from freqbench.analysis.frames import plain
from freqbench.analysis.groups import ATTACK
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.reporting.render import Section

TOLD = ("source_defence", "target_defence")
COLUMNS = (*groups.SCORES, *TOLD)
WHO = ("naive", "adaptive", "transferred")
MODEL = ["model", "defence"]
NONE = "none"
CERTIFIED = ("certified_share", "certified_dice", "certified_dice_bound")
MEASURED = ("l2", "certified_radius", *CERTIFIED, *(f"{name}_clean" for name in CERTIFIED))
CERTIFIED_COLUMNS = (*groups.SCORES, *MEASURED)

HOW = (
    "Foreground DSC x100 that three attackers leave of a defended model. `naive`: plain autograd through the defence "
    "as it stands (`adaptive: false`), of one fixed draw where it draws; `adaptive`: the gradient approximated where "
    "the defence has none, and averaged over fresh draws; `transferred`: volumes made on the network without the "
    "defence. A defence is worth what the lowest of the three leaves, against the row of the network without it on the "
    "same cases; where the naive attacker leaves more than the adaptive one, the defence hid a gradient (`hidden`, "
    "points, paired by case) and kept nothing. A smooth defence has no naive attacker. Other attacks may leave less: "
    "all numbers are upper bounds of the robustness. HD95 and the papers' DSC of each attacker are in the csv. "
)
NOTHING = (
    "No defended model was attacked and scored, so there is nothing to compare: give models a `defence`, and beside "
    "them the same with `adaptive: false`, and the same without."
)

HOW_CERTIFIED = (
    "`radius` is the Euclidean norm, over all voxels and on the [0, 1] scale, of the changes of a volume that a "
    "certificate holds for; `L2` is that of the attack. Certified voxels may change beyond it, not within (but for the "
    "chance alpha of the test). `share` is the certified voxels in per cent, the others abstain; `Dice` is x100, the "
    "mean over foreground classes, to abstain never being right; `bound` is what no change within the radius takes the "
    "Dice below, whatever becomes of the voxels that abstain. Foreground DSC with its interval, and DSC, count the "
    "majority of the votes and no abstention. Certificates of the clean volume are those that speak of the attack. "
)

SHOWN = {certificates.SHOWN: "Foreground DSC", "nsd": "Normalised surface Dice"}
HOW_BOUNDS = (
    "x100, medians over the draws of a randomised network (defence `smoothing`), means over cases. "
    "`at least`: no change of this kind and of norm `radius` or less leaves a lower median, for an attacker who does "
    "not know the draw; `at most`: the median that the attack `ball` or no change leaves. The truth lies between, and "
    "`gap` is how little is known. It is about the randomised network, not that without draws, on the table's cases. "
)
NO_BOUNDS = (
    "No network was certified: give a model the defence smoothing and attack it with ball of the same kind, as "
    "phantom/bounds does."
)
NO_CERTIFICATE = {  # reasons for threat models without a certificate, by the beginning of an attack's name
    "deformation": "two displacements, one after another, are not their sum: the second reads the field elsewhere",
    "vafa": "two roundings, one after another, are no rounding, and noise on a step's size is not undone by another",
    "sa2": "its multipliers lie in a box of thousands of coefficients: its L2 ball has a useless radius",
}


def defences(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset of `records` with COLUMNS: one row per model and attack, the attackers side by
    side."""
    frame = _attacked_rows(groups.select_scored(records, ["source_model_id", "target_model_id", *TOLD]))
    if not (frame["defence"] != NONE).any():
        return [Section("Defences", text=NOTHING)]
    return list(starmap(_section, groups.by_dataset(frame)))


def _attacked_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Selects rows of defended models and the same without: adds `who` attacked, `model`; one of adaptive and naive."""
    source, target = (parse_defences(frame, role) for role in ("source", "target"))
    same = (source["network"] == target["network"]) & (source["defence"] == target["defence"])
    defended = target["defence"] != NONE
    who = pd.Series("", index=frame.index)
    who[same & defended] = source["adaptive"].map({True: "adaptive", False: "naive"})[same & defended]
    who[defended & (source["defence"] == NONE) & (source["network"] == target["network"])] = "transferred"
    asked = pd.MultiIndex.from_arrays([target["network"], frame["label"].astype(object)])
    who[groups.is_white_box(frame) & ~defended & asked.isin(asked[defended & (who != "")])] = "adaptive"
    facts = {"network": target["network"], "defence": target["defence"], "_adaptive": target["adaptive"]}
    frame = plain(frame).assign(who=who, **facts)
    frame = frame[(frame["who"] != "") & frame["dsc_foreground"].notna()]
    frame = frame.sort_values("_adaptive", ascending=False, kind="stable")
    frame["model"] = frame.groupby(["network", "defence"], sort=False)["target_model"].transform("first")
    return frame.drop_duplicates(["dataset", *MODEL, *ATTACK, "who", "case_id", "seed"])


def parse_defences(frame: pd.DataFrame, role: str) -> pd.DataFrame:
    """Parses for each row of a `frame`, of the model in the `role` source or target, `network` (model_id without
    defence), `defence` (`bit_depth bits=3`, or NONE) and `adaptive`."""
    texts = frame[f"{role}_defence"].astype(object)
    adaptive = {}
    networks = {}
    words = {}
    for text in texts.dropna().unique():
        stated = object_of(text, f"{role}_defence")
        adaptive[text] = bool(stated.pop("adaptive", True))
        networks[text] = stated.pop("undefended", None)
        name = str(stated.pop("name", None))
        words[text] = " ".join([name, *(f"{key}={json.dumps(value)}" for key, value in stated.items())])
    is_defended = texts.notna()
    network = texts.map(networks).where(is_defended, frame[f"{role}_model_id"].astype(object))
    defence = texts.map(words).where(is_defended, NONE)
    is_adaptive = texts.map(adaptive).where(is_defended, True).astype(bool)
    return pd.DataFrame({"network": network, "defence": defence, "adaptive": is_adaptive})


def _section(dataset: str, frame: pd.DataFrame) -> Section:
    keys = [*MODEL, *ATTACK]
    clean = frame.drop_duplicates([*MODEL, "case_id"]).groupby(MODEL)["dsc_foreground_clean"].mean().reset_index()
    rows = frame[keys].drop_duplicates().merge(clean, on=MODEL)
    for who in WHO:
        of_attacker = groups.group_means(frame[frame["who"] == who], keys, "dsc_foreground", ["hd95_penalised", "dsc"])
        names = {name: f"{who}_{name}" for name in of_attacker.columns if name not in keys} | {"dsc_foreground": who}
        rows = rows.merge(of_attacker.rename(columns=names), on=keys, how="left")
    rows = groups.add_settings(rows.merge(_hidden_points(frame, keys), on=keys, how="left"), frame)
    is_defended = rows["defence"] != NONE
    order = ["threat_model", "attack", "budget", "label", "_defended", "defence", "model"]
    rows = rows.assign(_defended=is_defended).sort_values(order, kind="stable", ignore_index=True)
    named = rows.loc[rows["_defended"], MODEL].drop_duplicates().itertuples(index=False)
    note = groups.few_patients_note(rows[[f"{who}_patients" for who in WHO]].min(axis=1))
    text = " ".join([f"{HOW}{groups.COUNTS}{note}", *(f"{model}: {defence}." for model, defence in named)])
    data = rows.drop(columns=["attack", "_defended"]).assign(dataset=dataset)
    return Section(f"{dataset}: defences under three attackers", _shown(rows), text, data)


def _hidden_points(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means how many points the naive attacker leaves more than the adaptive one, over the cases that both have."""
    of_case = [*keys, "case_id", "patient_id", "seed"]
    naive, adaptive = (frame.loc[frame["who"] == who, [*of_case, "dsc_foreground"]] for who in ("naive", "adaptive"))
    pairs = naive.merge(adaptive, on=of_case, suffixes=("", "_adaptive"))
    pairs["hidden"] = pairs["dsc_foreground"] - pairs["dsc_foreground_adaptive"]
    means = groups.group_means(pairs, keys, "hidden").rename(columns={"low": "hidden_low", "high": "hidden_high"})
    return means[[*keys, "hidden", "hidden_low", "hidden_high"]]


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    table = rows[["model", "label", "threat_model", "dsc_foreground_clean"]].rename(columns={"label": "attack"})
    for who in WHO:
        counts = zip(rows[f"{who}_cases"], rows[f"{who}_seeds"].fillna(0), strict=True)
        table[f"{who}\nDSC"] = rows[who]
        table[f"{who}\nn"] = [groups.points(n, 0) + (f" x {seeds:.0f}" if seeds > 1 else "") for n, seeds in counts]
        table[f"{who}\ninterval"] = groups.bounds(rows, f"{who}_")
        if who == "adaptive":
            table["hidden\npoints"] = rows["hidden"]
            table["hidden\ninterval"] = groups.bounds(rows, "hidden_")
    return table


def certified_sections(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset of `records` with CERTIFIED_COLUMNS, one row per attack, source and smoothed
    target."""
    frame = plain(groups.select_scored(records, MEASURED))
    if (frame := frame[frame["certified_radius"].notna()]).empty:
        text = "No target certifies anything: give a model the defence randomized_smoothing."
        return [Section("Certified", text=text)]
    return list(starmap(_certificates, groups.by_dataset(frame)))


def _certificates(dataset: str, frame: pd.DataFrame) -> Section:
    means = ["dsc_foreground_clean", "hd95_penalised", "dsc", *MEASURED]
    frame = frame.astype(dict.fromkeys(means, float))
    rows = groups.group_means(frame, ["source_model", "target_model", *ATTACK], "dsc_foreground", means)
    rows = groups.add_settings(rows, frame).sort_values("target_model", kind="stable", ignore_index=True)
    names = {"target_model": "model", "label": "attack", "source_model": "made on"}
    table = rows[[*names, "cases", "seeds", "patients"]].rename(columns=names)
    table["radius"] = [f"{radius:.3g}" for radius in rows["certified_radius"]]
    table[["l2", "dsc_foreground_clean", "dsc_foreground"]] = rows[["l2", "dsc_foreground_clean", "dsc_foreground"]]
    table = table.assign(interval=groups.bounds(rows), **groups.side_columns(rows, "dsc"))
    for title, name in zip(("share", "Dice", "bound"), CERTIFIED, strict=True):
        table[f"{title}\nclean"] = 100 * rows[f"{name}_clean"]
        table[f"{title}\nattacked"] = 100 * rows[name]
    data = rows.drop(columns="attack").assign(dataset=dataset)
    return Section(f"{dataset}: what is certified", table, HOW_CERTIFIED + groups.counts_text(rows), data)


def require_certified(grid: Any) -> None:
    """Raises UserError for a grid of which some cell has no certificate or too few draws."""
    balls = []
    seeds = defaultdict[tuple[str, str], set[int]](set)
    for cell in grid.cells:
        if getattr(cell.attack, "radius", None) == 0:
            seeds[cell.dataset.name, cell.source.model_id].add(cell.seed or 0)
        else:
            balls.append(cell)
    scores = 3 + max(len(cell.dataset.classes) for cell in grid.cells) * (2 if "nsd" in grid.metrics else 1)
    statements = scores * sum(len(grid.cases[cell.dataset.name]) for cell in balls)
    for cell in grid.cells:
        attack = cell.attack
        defence = cell.source.defence
        name = cell.source.name
        if attack.name != "ball":
            why = "".join(f": {reason}" for begin, reason in NO_CERTIFICATE.items() if attack.name.startswith(begin))
            raise UserError(f"attacks: expected ball, the one attack with a certificate, got {attack.name}{why}")
        if getattr(defence, "name", None) != "smoothing" or defence.kind != attack.kind:
            got = "no such defence" if defence is None else f"{defence.name} {getattr(defence, 'kind', '')}".strip()
            raise UserError(
                f"ball on {name}: expected the defence {{name: smoothing, kind: {attack.kind}, sigma: ...}}, got "
                f"{got}: say in `sources` which models each attack is for"
            )
        if [target.model_id for target in cell.targets] != [cell.source.model_id]:
            raise UserError(f"targets: expected source, got others for {name}: a certificate is of the attacked model")
    for cell in balls:
        if not (sets := len(seeds[cell.dataset.name, cell.source.model_id])):
            raise UserError(
                f"ball on {cell.source.name}: expected draws of the clean volume, got none: add {{name: ball, kind: "
                f"{cell.attack.kind}, radius: 0, control: random}}, which draws once for each of `seeds`"
            )
        defence = cell.source.defence
        least = ALPHA / statements
        certificates.require(sets * defence.samples, defence.kind, cell.attack.radius, defence.sigma, least)


def bounds(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset and score of SHOWN, of `records` with certificates.COLUMNS, one row per model and
    radius."""
    if (rows := certificates.brackets(records[records["left_out"] == ""])).empty:
        return [Section("Certified at least, attacked at most", text=NO_BOUNDS)]
    text = f"All {len(rows):,} bounds of the csv hold together with a probability of {100 * (1 - ALPHA):g} % or more."
    title = "certified at least, attacked at most"
    sections = []
    for (dataset, group), (score, name) in product(groups.by_dataset(rows), SHOWN.items()):
        of_score = group[group["score"].where(group["score"].isin(SHOWN), certificates.SHOWN) == score]
        first = score == certificates.SHOWN
        about = f"{name} {HOW_BOUNDS}{text}" if first else f"{name} x100. It is read like the table before."
        head = f"{dataset}: {title}" if first else f"{dataset}: {name.lower()}, {title}"
        if (group["score"] == score).any():
            sections.append(Section(head, shown_columns(certificates.means(group, score)), about, of_score))
    return sections


def shown_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns of a `table` of `certificates.means` as people read them, with the `gap` between the two
    ends."""
    names = {"target_model": "model", "certified": "at least", "attacked": "at most"}
    columns = table[["target_model", "kind", "sigma", "draws", "radius", "cases", "clean", "certified", "attacked"]]
    columns = columns.assign(gap=table["attacked"] - table["certified"])
    for name in ("sigma", "radius"):
        columns[name] = [f"{value:.4g}" for value in table[name]]
    return columns.rename(columns=names)
