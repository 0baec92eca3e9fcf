"""Each line of the table in docs/how-to/own-classes.md: what makes rows of one's own code anew, and what does not."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from numpy.random import default_rng

from freqbench.core import code
from freqbench.core.identity import OfProcess

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-classes.md"
LINES = dict(re.findall(r"^\| ([^|]+) \| ((?:new|kept|\*\*not)[^|]*) \|$", PAGE.read_text("utf-8"), re.MULTILINE))
USER = "from helper import factor\nclass Mine:\n    def run(self, x): return factor() * x\n"
NAMING = "class Mine:\n    rate = 'helper:RATE'\n"
READING = "from pathlib import Path\nTABLE = Path(__file__).parent / 'table.txt'\nclass Mine: pass\n"
DOCUMENTED = "def factor(by: int = 1) -> int:\n    'Says two.'\n    return (\n        by\n        + 1\n    )  # 2\n"
FILLED = "CACHE = {}\nclass Mine:\n    def run(self, x):\n        global LAST\n        LAST = CACHE[x] = x\n"
HELD = "class Mine:\n    def __init__(self, x): self.x = x\n"
OPENING = "TEXT = open('/'.join(['{folder}', 'table' + '.txt'])).read()\nclass Mine: pass\n"


class Project:
    """Folders with modules `mine` and `helper`, imported one after another as of processes that follow each other."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self._numbers = count()

    def mine(self, **texts: str) -> Any:
        """Imports `mine` from a new folder with these files."""
        self.here = self.folder / str(next(self._numbers))
        self.here.mkdir()
        for name, text in texts.items():
            (self.here / name.replace("_", ".")).write_text(text.format(folder=self.here))
        self.monkeypatch.syspath_prepend(self.here)
        for name in ("mine", "helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        code.is_installed.cache_clear()
        return importlib.import_module("mine")

    def identity(self, **texts: str) -> str:
        """Returns the identity of the class of a new folder with these files."""
        return code.identify(self.mine(**texts).Mine).digest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    yield Project(tmp_path, monkeypatch)
    for name in ("mine", "helper"):
        sys.modules.pop(name, None)


Pair = tuple[str, str]


def statement(project: Project) -> Pair:
    helper = "def factor(): return 1\n"
    return project.identity(mine_py=USER, helper_py=helper), project.identity(
        mine_py=USER, helper_py=f"{helper}def unused(): return 2\n"
    )


def module_named(project: Project) -> Pair:
    return project.identity(mine_py=NAMING, helper_py="RATE = 1"), project.identity(
        mine_py=NAMING, helper_py="RATE = 2"
    )


def file_named(project: Project) -> Pair:
    return project.identity(mine_py=READING, table_txt="1"), project.identity(mine_py=READING, table_txt="2")


def value_held(project: Project) -> Pair:
    """Another module sets it, as a patch at import does."""
    mine = project.mine(mine_py="RATES = {{'high': 1}}\nclass Mine: pass\n")
    before = code.identify(mine.Mine).digest
    mine.RATES["high"] = 2
    return before, code.identify(mine.Mine).digest


def state(project: Project) -> Pair:
    mine = project.mine(mine_py=HELD)
    return code.identify(mine.Mine(1)).digest, code.identify(mine.Mine(2)).digest


def release(project: Project) -> Pair:
    text = "import monai\nclass Mine: pass\n"
    before = project.identity(mine_py=text)
    code.release.cache_clear()
    code._releases.cache_clear()
    project.monkeypatch.setattr(code.metadata, "version", lambda name: "9.9")
    after = project.identity(mine_py=text)
    code.release.cache_clear()
    code._releases.cache_clear()
    return before, after


def edit(project: Project, reloads: bool) -> Pair:
    mine = project.mine(mine_py="RATE = 1\nclass Mine: pass\n")
    before = code.identify(mine.Mine).digest
    (project.here / "mine.py").write_text("RATE = 20\nclass Mine: pass\n")
    return before, code.identify(importlib.reload(mine).Mine if reloads else mine.Mine).digest


def words(project: Project) -> Pair:
    plain = "def factor(by=1):\n    return by + 1\n"
    return project.identity(mine_py=USER, helper_py=plain), project.identity(mine_py=USER, helper_py=DOCUMENTED)


def folder(project: Project) -> Pair:
    return project.identity(mine_py=READING), project.identity(mine_py=READING)


def filled(project: Project) -> Pair:
    mine = project.mine(mine_py=FILLED.replace("{}", "{{}}"))
    before = code.identify(mine.Mine).digest
    mine.Mine().run(3)
    return before, code.identify(mine.Mine).digest


def without_identity(project: Project) -> Pair:
    mine = project.mine(mine_py=HELD)
    held = code.identify(mine.Mine(default_rng())).digest
    assert isinstance(held, OfProcess)
    project.monkeypatch.setattr(code, "_run", "the next")
    return held, code.identify(mine.Mine(default_rng())).digest


def opened(project: Project) -> Pair:
    mine = project.mine(mine_py=OPENING, table_txt="1")
    return "", code.identify(mine.Mine).opened or ""


def environment(project: Project) -> Pair:
    text = "import os\nclass Mine:\n    def run(self): return os.environ['RATE']\n"
    pair = list[str]()
    for value in ("1", "2"):
        project.monkeypatch.setenv("RATE", value)
        pair.append(project.identity(mine_py=text))
    return pair[0], pair[1]


CHANGES: Mapping[str, Callable[[Project], Pair]] = {
    "a statement in a file of your modules and packages, used or not": statement,
    "a module that these import, or name in a text": module_named,
    "a file that their text names, whoever opens it": file_named,
    "a number, a text, a list or table of them, that a module imported with yours holds": value_held,
    "the object's state: attributes, weights, closures, defaults": state,
    "the release of Python, of an installed package that they import, or of what that requires": release,
    "a module that is reloaded after an edit": lambda project: edit(project, reloads=True),
    "comments, docstrings, annotations, layout": words,
    "the folder of the project": folder,
    "what code sets by `global`, or fills as it runs": filled,
    "a file that a notebook has imported": lambda project: edit(project, reloads=False),
    "an open file, a random generator, a running generator": without_identity,
    "a file that the code opens and no text names": opened,
    "environment variables, the network, the clock, edits of an installed package": environment,
}


def test_each_line_of_the_table_is_varied() -> None:
    assert CHANGES.keys() == LINES.keys()


@pytest.mark.parametrize("line", CHANGES)
def test_rows_are_made_anew_as_the_table_says(line: str, project: Project) -> None:
    before, after = CHANGES[line](project)
    assert (before != after) == LINES[line].startswith("new")
