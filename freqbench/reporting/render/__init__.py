"""Renders sections of a page as text: terminal, Markdown, CSV and LaTeX."""

from freqbench.reporting.render.columns import Section, word_sections
from freqbench.reporting.render.latex import latex
from freqbench.reporting.render.text import csv, markdown, sections_csv, terminal

__all__ = ["Section", "csv", "latex", "markdown", "sections_csv", "terminal", "word_sections"]
