"""Makes the page for a browser: results, charts and saved volumes in one file that fetches nothing, or in a folder."""

import base64
import gzip
import hashlib
import json
import re
from importlib import resources

from jinja2 import Environment
from markupsafe import Markup

from freqbench.reporting.page.data import Part, data_of, page_data

__all__ = ["build_page", "data_of", "pack_data", "page_data", "viewer_script"]
_LEAVES_SCRIPT = re.compile(r"</script|<!--|<script", re.IGNORECASE)


def pack_data(data: Part) -> bytes:
    """Packs the page's data as gzip-compressed JSON, the same bytes for the same data; ValueError for a NaN."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def build_page(data: Part, viewer: str = "", volumes: Part | None = None) -> str:
    """Makes the page as HTML text that needs no network. `data` is that of `page_data`, `viewer` a script that sets
    `window.freqbenchViewer` with `open(element, manifest)`, and `volumes` its manifest of saved volumes. Raises
    ValueError for a script that would end its own tag."""
    scripts = [text for text in (viewer, _read("dist/charts.js"), _read("dist/page.js")) if text]
    for script in scripts:
        if match := _LEAVES_SCRIPT.search(script):
            raise ValueError(f"a script must not contain {match.group()!r}: it would end or nest its own tag")
    template = Environment(autoescape=True).from_string(_read("template.html"))
    packed = pack_data(data | {"volumes": volumes})
    return template.render(
        policy=_policy(scripts, has_viewer=bool(viewer)),
        title=f"{data['title']} - freqbench",
        style=Markup(_read("dist/page.css")),
        packed=base64.b64encode(packed).decode(),
        scripts=list(map(Markup, scripts)),
    )


def viewer_script() -> str:
    """Returns the script of the viewer of saved volumes, for `build_page`."""
    return _read("dist/viewer.js")


def _policy(scripts: list[str], has_viewer: bool) -> str:
    """Makes a Content-Security-Policy: these scripts and volumes beside the page run, and nothing is fetched."""
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    script = " ".join([*hashes, *(["'self'", "file:"] if has_viewer else [])])
    return (
        f"default-src 'none'; script-src {script}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
