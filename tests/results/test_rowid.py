"""Short names of rows."""

import hashlib
from pathlib import Path

import pytest
from results.conftest import make_failed, make_record

from freqbench.core.errors import UserError
from freqbench.results import Store
from freqbench.results.store import find_row, row_id, sample_rows


@pytest.fixture
def many_rows(tmp_path: Path) -> Store:
    """300 rows, of which one failed."""
    made = Store(str(tmp_path))
    rows = [make_record(number, cell_id=f"cell{number}") for number in range(299)]
    made.writer("run0", interval_s=0).add([*rows, make_failed(300, cell_id="failed")], [])
    return made


def test_row_is_found_by_beginning_of_its_id_digest_of_its_key(many_rows: Store) -> None:
    key = ("cell7", "case0", "id_unet")
    assert row_id(*key) == hashlib.blake2b(b"cell7/case0/id_unet", digest_size=8).hexdigest()
    assert find_row(many_rows, row_id(*key)) == find_row(many_rows, row_id(*key)[:6]) == key
    with pytest.raises(UserError, match="expected one row whose id begins with 000000, got none"):
        find_row(many_rows, "000000")


@pytest.mark.parametrize("text", ["abc", "ABCDEF", "0123456789abcdef0", "../run", ""])
def test_a_text_that_is_no_row_id_is_refused(many_rows: Store, text: str) -> None:
    with pytest.raises(UserError, match="--row: expected 6 to 16 hex digits"):
        find_row(many_rows, text)


def test_an_ambiguous_beginning_is_refused(many_rows: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqbench.results.store.row_id", lambda *key: "abcdef" + row_id(*key)[:10])
    with pytest.raises(UserError, match=r"got 300 of them \(abcdef.*give more digits"):
        find_row(many_rows, "abcdef")


def test_a_draw_is_of_good_rows_and_hangs_on_the_seed_alone(many_rows: Store) -> None:
    drawn = sample_rows(many_rows, 20, seed=1)
    assert len(set(drawn)) == 20
    assert drawn == sample_rows(many_rows, 20, seed=1) != sample_rows(many_rows, 20, seed=2)
    everything = sample_rows(many_rows, 1000, seed=0)
    assert len(everything) == 299
    assert "failed" not in {key[0] for key in everything}
