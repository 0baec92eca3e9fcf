"""Certificates from draws: ranks and levels against scipy and closed forms, brackets of records."""

import json
import math
from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from freqbench.analysis import certificates
from freqbench.core.errors import UserError
from freqbench.reporting.views import defences

N = NormalDist()


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("level", [0.01, 0.16, 0.5])
def test_the_rank_is_the_largest_with_this_chance(level: float, alpha: float) -> None:
    k = certificates.rank(200, level, alpha)
    chance, chance_of_next = stats.binom.cdf([k - 1, k], 200, level)
    assert chance <= alpha < chance_of_next


@pytest.mark.parametrize("level", [0.3, 0.16, 0.01])
def test_fewer_draws_than_needed_certify_nothing(level: float) -> None:
    least = int(certificates.least_draws(level, 0.001))
    assert (certificates.rank(least, level, 0.001), certificates.rank(least - 1, level, 0.001)) == (1, 0)


@pytest.mark.parametrize("ratio", [6, 8, 9, 20, 39, 100])
@pytest.mark.parametrize("kind", ["gain_offset", "bias_field"])
def test_a_radius_of_many_sigmas_is_refused_in_a_line(ratio: float, kind: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*radius [0-9.]+, sigma 0.1: needs [^\n]*$"):
        certificates.require(1000, kind, ratio * 0.1, 0.1, 1e-6)


def test_too_few_draws_are_told_how_many_are_needed() -> None:
    least = int(certificates.least_draws(N.cdf(-2), 0.001))
    with pytest.raises(UserError, match=f"bias_field: radius 1, sigma 0.5: needs at least {least} draws .* got 50"):
        certificates.require(50, "bias_field", 1.0, 0.5, 0.001)
    with pytest.raises(UserError, match="needs a smaller radius or a larger sigma"):
        certificates.require(50, "bias_field", 100.0, 0.5, 0.001)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 2.0])
def test_the_level_of_changes_that_add_is_a_normals(ratio: float) -> None:
    assert certificates.level("voxels", 0.1 * ratio, 0.1) == pytest.approx(N.cdf(-ratio))


@pytest.mark.parametrize("sigma", [0.05, 0.3])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_event_of_level_stays_below_half_under_gain_and_offset(ratio: float, sigma: float) -> None:
    """Half-planes in any direction, and tails and middles of the offset, which gain from its other deviation."""
    radius = ratio * sigma
    p = certificates.level("gain_offset", radius, sigma)
    assert 0 < p < N.cdf(-ratio)
    edge = sigma * N.inv_cdf(1 - p)  # of a half-plane whose chance is p without a change
    tail = sigma * N.inv_cdf(1 - p / 2)
    middle = sigma * N.inv_cdf((1 + p) / 2)
    tilts = np.linspace(0, 2 * math.pi, 36, endpoint=False)
    along_gain = np.cos(tilts)
    along_offset = np.sin(tilts)
    for angle in tilts[::2]:
        gain = radius * math.cos(angle)
        offset = radius * math.sin(angle)
        shrunk = math.exp(-gain)
        spread = sigma * np.hypot(along_gain, along_offset * shrunk)
        assert (stats.norm.sf(edge, along_gain * gain + along_offset * offset, spread) <= 0.5).all()
        after = NormalDist(offset, sigma * shrunk)
        assert 1 - after.cdf(tail) + after.cdf(-tail) <= 0.5
        assert after.cdf(middle) - after.cdf(-middle) <= 0.5


@pytest.mark.parametrize(("radius", "sigma"), [(0.1, 0.1), (0.3, 0.1), (1.0, 0.5), (3.0, 1.0)])
def test_the_grid_of_gains_and_offsets_is_fine_enough(radius: float, sigma: float) -> None:
    p = certificates.level("gain_offset", radius, sigma)
    near = [radius * math.sqrt(i / 50) for i in range(51)]
    least = min(
        certificates._gain_p(norm * math.cos(angle), norm * math.sin(angle), sigma)
        for norm, angle in product(near, np.linspace(0, math.pi, 121))
    )
    assert p <= least * 1.001


def record(**changes: Any) -> dict[str, Any]:
    defence = json.dumps({"name": "smoothing", "kind": "voxels", "sigma": 0.1})
    values = np.linspace(0, 1, 1000)
    draws = {"dsc_foreground": values.tolist(), "volume_error_relative": (2 * values).tolist()}
    same = {"dataset": "phantom", "case_id": "c", "patient_id": "c", "status": "ok", "attack": "ball", "budget": 0.1}
    same |= {"threat_model": "l2", "seed": None}
    models = dict.fromkeys(("source_model_id", "target_model_id", "target_model"), "a")
    params = json.dumps({"kind": "voxels", "control": "none"})
    scores = {"draws": json.dumps(draws)}
    return {**same, **models, **scores, "target_defence": defence, "params": params, **changes}


def clean(*seeds: int, parts: int = 4, **changes: Any) -> list[dict[str, Any]]:
    """Records of radius 0 whose draws are together those of `record`: each of `parts` sets has every fourth."""
    draws = {name: np.array(values) for name, values in json.loads(record()["draws"]).items()}
    sets = [json.dumps({name: values[seed::parts].tolist() for name, values in draws.items()}) for seed in seeds]
    return [record(budget=0.0, seed=seed, draws=text, **changes) for seed, text in zip(seeds, sets, strict=True)]


def test_brackets_share_alpha_and_bound_scores_from_their_side() -> None:
    rows = certificates.brackets(pd.DataFrame([*clean(2, 0, 3, 1), record(), record(budget=0.2)]), alpha=0.04)
    rows = rows.set_index(["radius", "score"])
    for radius, level in ((0.1, N.cdf(-1)), (0.2, N.cdf(-2))):
        k = certificates.rank(1000, level, 0.01)
        dice, volume = (rows.loc[(radius, score)] for score in ("dsc_foreground", "volume_error_relative"))
        assert dice["certified"] == pytest.approx((k - 1) / 999)
        assert volume["certified"] == pytest.approx(2 - 2 * (k - 1) / 999)
        assert dice["attacked"] < dice["attacked_high"] < 0.6
        assert volume["attacked"] > volume["attacked_high"] > 0.8


@pytest.mark.parametrize(
    "changes",
    [
        {"attack": "pgd"},
        {"draws": None},
        {"status": "failed"},
        {"source_model_id": "b"},
        {"params": json.dumps({"kind": "bias_field", "control": "none"})},
        {"params": json.dumps({"kind": "voxels", "control": "random"})},
    ],
)
def test_only_the_attack_in_the_ball_of_the_noise_has_a_bracket(changes: dict[str, Any]) -> None:
    assert len(certificates.brackets(pd.DataFrame([*clean(0, parts=1), record(**changes), record()]))) == 2


def test_draws_of_one_seed_count_once() -> None:
    again = [*clean(0, params=json.dumps({"kind": "voxels", "control": "random"})), *clean(0)]
    again[-1]["seed"] = None
    assert set(certificates.brackets(pd.DataFrame([*clean(0, 1), *again, record()]))["draws"]) == {500}


def test_draws_of_another_case_or_model_certify_nothing() -> None:
    others = [*clean(0, case_id="d"), *clean(0, target_model_id="b", source_model_id="b")]
    assert certificates.brackets(pd.DataFrame([*others, record()])).empty


def test_surfaces_have_a_table_and_the_csv_each_row_once() -> None:
    scores = {name: np.linspace(0, 1, 1000).tolist() for name in ("dsc_foreground", "dsc_1", "nsd", "nsd_1")}
    at_once = [record(budget=radius, draws=json.dumps(scores), seed=0, left_out="") for radius in (0.0, 0.1)]
    overlap, surfaces = defences.bounds(pd.DataFrame(at_once))
    assert surfaces.title.startswith("phantom: normalised surface dice")
    tables = [section.data["score"].tolist() for section in (overlap, surfaces) if section.data is not None]
    assert tables == [["dsc_foreground", "dsc_1", "nsd_1"], ["nsd"]]


def test_score_that_only_clean_volume_was_given_has_no_bracket() -> None:
    given = {"dsc_foreground": [0.5] * 1000, "nsd": [0.5] * 1000}
    rows = certificates.brackets(pd.DataFrame([record(budget=0.0, draws=json.dumps(given), seed=0), record()]))
    assert rows["score"].tolist() == ["dsc_foreground"]
