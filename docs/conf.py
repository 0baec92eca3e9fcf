"""How Sphinx builds the site: `sphinx-build -W docs OUT`."""

import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import freqbench

sys.path.insert(0, str(Path(__file__).parent))
import generated

project = "freqbench"
author = "the freqbench developers"
project_copyright = author
version = release = freqbench.__version__

extensions = [
    "myst_nb",  # pages in Markdown, tutorials as scripts that are executed
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = [
    "board_pages.py",
    "build",
    "conf.py",
    "finding.py",
    "generated.py",
    "generated/*.md",
    "generated/notebooks",
    "generated/reports/**/*.py",
    "plugin",
    "report_pages.py",
]
templates_path = ["_templates"]

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "auto"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_output_stderr = "remove"
nb_execution_timeout = -1  # none: a slow machine is no error
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

suppress_warnings = ["myst.header"]  # a section of a report begins where its table stands in the terminal

default_role = "code"  # docstrings have code between single backticks
napoleon_custom_sections = [("Class attributes of an attack", "Attributes")]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autosummary_context = {  # members of a class that its page shows; others show all, or none
    "chosen": {
        "freqbench.attacks.Attack": "perturb, passes, is_stochastic, couples_batch, excess, prepare, measured",
        "freqbench.attacks.GradientAttack": "run, run_passes",
        "freqbench.attacks.LinfAttack": "draw_start",
    },
    "hidden": {"freqbench.attacks.core.objective.Objective": "raises, compares"},  # its text tells them
    "plain": [
        "freqbench.attacks.core.inputs.Given",
        "freqbench.core.types.Case",
        "freqbench.core.types.CaseRef",
        "freqbench.core.types.NativeCase",
        "freqbench.models.SlidingWindowModel",
    ],
}

html_math_renderer = "mathml"  # which browsers know: no script from elsewhere
html_theme = "pydata_sphinx_theme"
html_title = f"freqbench {release}"
html_theme_options = {
    "show_nav_level": 2,
    "navbar_align": "left",
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"*": [], "*/**": ["sidebar-nav-bs"]}
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_search_scorer = str(Path(__file__).with_name("scorer.js"))
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output of consoles
html_copy_source = False
toc_object_entries = False


def _put_formula(page: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    page.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


class _Rooms(Directive):
    """The picture in place of the graph of Mermaid, which a site would fetch a script for."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        return [nodes.image(uri="/generated/rooms.svg", alt="\n".join(self.content))]


def setup(app: Sphinx) -> None:
    """Make what is made from the code before the pages are read."""
    app.add_html_math_renderer("mathml", inline_renderers=(_put_formula, None), block_renderers=(_put_formula, None))
    app.add_directive("mermaid", _Rooms)
    app.connect("builder-inited", lambda app: generated.write(Path(app.srcdir) / "generated"))
