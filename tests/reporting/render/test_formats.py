"""Formats escape what they are given, and keep what is marked and where numbers stand."""

import shutil
import subprocess
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from freqbench.analysis.scores import SCORES, Score
from freqbench.reporting.render import Section, latex, markdown, sections_csv, terminal
from freqbench.reporting.render.columns import HEADINGS

NASTY = r"<script>alert('x')</script> & 50% $x_1$ #{~^} \input{/etc/passwd} | "
TEXTS = pd.DataFrame({"case_a": [NASTY, "b"], "DSC\nours": ["1.0 (2.0)", "(3.0)"], "DSC\nother": ["[1, 2]", ""]})
SECTION = Section("A & B <i>", TEXTS, text="50 % of <b>\n\nsecond_paragraph", marks={(0, "DSC\nours")})

SCALED = [score for score in SCORES if score.name in HEADINGS and score.unit in ("voxels", "mm", "1/255")]


@pytest.mark.parametrize("score", SCALED, ids=[score.name for score in SCALED])
def test_a_heading_says_the_unit_of_what_is_not_x100(score: Score) -> None:
    """HD95 in voxels stands beside HD95 in millimetres."""
    assert HEADINGS[score.name].endswith(f"\n{score.unit}")


@pytest.mark.parametrize("name", ["lpips", "lpips_body"])
def test_a_heading_says_that_lpips_is_shown_as_a_similarity(name: str) -> None:
    assert HEADINGS[name].startswith("1-LPIPS\nx100")


def test_the_note_of_a_table_is_inside_its_float() -> None:
    text = latex([Section("Scores", pd.DataFrame({"model": ["a"], "DSC": [50.0]}), "A note.")])
    assert text.index("\\bottomrule") < text.index("A note.") < text.index("\\end{table}")


def test_latex_escapes_every_special_character() -> None:
    text = latex([SECTION])
    assert r"\textless{}script\textgreater{}" in text
    assert r"\& 50\% \$x\_1\$ \#\{\textasciitilde{}\textasciicircum{}\} \textbackslash{}input\{/etc/passwd\}" in text
    assert r"\caption{A \& B \textless{}i\textgreater{}}" in text
    assert r"\input{" not in text
    assert r"\textbf{1.0 (2.0)}" in text
    assert r"\multicolumn{2}{c}{DSC}" in text
    assert r"\toprule" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles_whatever_a_case_is_called(tmp_path: Path) -> None:
    rare = "".join(map(chr, [*range(32, 256), 0x2020, 0x2013, 0x2191, 0x2193, 0x4E2D, 0x1F600]))
    nasty = pd.DataFrame({rare: [rare, "[x]"], "[y]": ["[1, 2]", "-3.0"]})
    long = pd.concat([TEXTS] * 30, ignore_index=True)
    wide = pd.DataFrame({"model": ["m"], **{f"{a}\n{b}": ["12.34 (12.34)"] for a, b in product("abc", "wxyz")}})
    sections = [SECTION, Section(rare, nasty, text=rare), Section("long", long), Section("wide", wide)]
    sections.append(Section("t", text="x"))
    (tmp_path / "tables.tex").write_text(latex(sections))
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}" + latex([]).strip().removeprefix("% ")
    (tmp_path / "main.tex").write_text(head + "\\begin{document}\\input{tables}\\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_too_wide_table_stands_in_parts_with_every_cell() -> None:
    values = {f"{a}\n{b}": [f"{i}{j}.34 (12.34)"] for i, a in enumerate("abc") for j, b in enumerate("wxyz")}
    text = terminal([Section("wide", pd.DataFrame({"model": ["unet"], **values}))], width=110)
    assert max(map(len, text.splitlines())) <= 110
    assert all(value in text for (value,) in values.values())
    assert text.count("unet") == 3  # a group of headings is not torn apart


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_name_is_torn_apart_and_no_box_is_drawn(width: int) -> None:
    """Labels break between their words, headings nowhere."""
    label = "vafa_2d q_max=20 variant=reconstruction loss=calibrated-margin restarts=3"
    models = [f"swin_unetr_of_the_{word}_kind" for word in ("first", "second", "third", "fourth")]
    text = terminal([Section("wide", pd.DataFrame({"attack": [label], **dict.fromkeys(models, "12.3 (45.6)")}))], width)
    assert max(map(len, text.splitlines())) <= width
    assert {*label.split(), *models} <= {*text.split()}
    assert text.isascii()


def test_a_terminal_s_own_width_is_taken_up_to_110(monkeypatch: pytest.MonkeyPatch) -> None:
    section = Section("title", text="word " * 100)
    widest = []
    for columns in ("70", "500"):
        monkeypatch.setenv("COLUMNS", columns)
        widest.append(max(map(len, terminal([section]).splitlines())))
    assert widest == [69, 109]


def test_marks_are_bold_in_markdown_and_a_dagger_in_a_terminal() -> None:
    assert "**1.0 (2.0)**" in markdown([SECTION])
    assert "1.0 (2.0)†" in terminal([SECTION])
    assert "(3.0)†" not in terminal([SECTION])


def test_csv_has_the_exact_data_once() -> None:
    data = pd.DataFrame({"x": [1 / 3], "text": ["=1+1"]})
    twice = [Section("a", TEXTS, data=data), Section("b", TEXTS, data=data), Section("c", text="only text")]
    assert sections_csv(twice) == "x,text\n0.3333333333333333,'=1+1\n"
    frames = [Section("a", pd.DataFrame({"x": [1.5]})), Section("b", pd.DataFrame({"y": [2.5]}))]
    assert sections_csv(frames) == "x,section,y\n1.5,a,\n,b,2.5\n"
