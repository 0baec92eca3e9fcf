"""The page's file: what it is made of, and that nothing can get out of its place in it."""

import base64
import gzip
import hashlib
import json
import re
from html import unescape
from pathlib import Path

import pytest
from generated_page import data_of, grid

import freqbench.reporting.page
from freqbench.reporting.page import build_page

FOLDER = Path(freqbench.reporting.page.__file__).parent
WEB, DIST = FOLDER / "web", FOLDER / "dist"


def sources_hash() -> str:
    """As `web/build.mjs` takes it."""
    names = [f"src/{path.name}" for path in sorted((WEB / "src").iterdir(), key=lambda path: path.name)]
    digest = hashlib.sha256()
    for name in [*names, "build.mjs", "package-lock.json"]:
        digest.update(name.encode() + b"\0" + (WEB / name).read_bytes() + b"\0")
    return digest.hexdigest()


def test_the_bundle_was_made_of_these_sources() -> None:
    """If not: `npm ci && npm run build` in freqbench/reporting/page/web."""
    for name in ("page.js", "charts.js", "page.css"):
        assert f"sources sha256 {sources_hash()}" in (DIST / name).read_text()[:200]


def test_licences_of_what_is_bundled_stand_beside_it() -> None:
    text = (DIST / "LICENSES.txt").read_text()
    bundled = json.loads((WEB / "package.json").read_text())["devDependencies"].keys() - {"esbuild"}
    assert all(f"{name} " in text for name in bundled)
    assert text.count("Permission is hereby granted") >= len(bundled)


def test_the_lock_file_names_no_host() -> None:
    assert "://" not in re.sub(r'"url": "[^"]*"', "", (WEB / "package-lock.json").read_text())


def test_the_page_holds_its_data_loads_nothing_from_elsewhere_and_runs_its_own_scripts_only() -> None:
    made = data_of(*grid(2, ["a"], ["a"], 2, 2))
    page = build_page(made, volumes={"format": 1})
    found = re.search(r'id="freqbench-data">([^<]*)<', page)
    assert found
    assert json.loads(gzip.decompress(base64.b64decode(found[1]))) == {**made, "volumes": {"format": 1}}
    head = unescape(page[: page.index("<style>")])
    assert "default-src 'none'" in head
    assert "connect-src 'none'" in head
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"(?!data:)", page)
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(hashes) == 2
    wanted = " ".join(f"'sha256-{each}'" for each in hashes)
    assert f"script-src {wanted};" in head


def test_texts_of_data_appear_nowhere_in_the_markup() -> None:
    hostile = "</script><script>alert(1)</script>"
    page = build_page({**data_of(*grid(1, [hostile], [hostile], 1, 2)), "title": hostile})
    assert hostile not in page
    assert "<title>&lt;/script&gt;" in page


def test_a_page_without_data_names_its_source_and_may_fetch_from_there_only() -> None:
    page = build_page(None)
    assert '<meta name="freqbench-source" content="data">' in page
    assert "connect-src 'self';" in unescape(page[:2000])
    assert 'freqbench-data">' not in page


@pytest.mark.parametrize("text", ["a = '</SCRIPT>'", "<!-- "])
def test_a_viewer_that_would_end_its_tag_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must not contain"):
        build_page(None, viewer=text)
