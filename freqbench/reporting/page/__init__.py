"""Makes the page for a browser: results, charts and saved volumes in one file that fetches nothing, or in a folder."""

from freqbench.reporting.page.build import build_page, packed, viewer_script
from freqbench.reporting.page.data import data_of, page_data

__all__ = ["build_page", "data_of", "packed", "page_data", "viewer_script"]
