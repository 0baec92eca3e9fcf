"""Code is content: what changes a number changes an identity, and nothing else does."""

import functools
import importlib
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import UNet
from monai.transforms import Compose, CropForegroundd, Lambdad, Orientationd, ScaleIntensityRanged, Spacingd
from torch import nn

from freqbench.core import code
from freqbench.core.identity import OfProcess, digest

Own = Callable[..., ModuleType]
HELPER = "FACTOR = 1\nTABLE = {'high': 1}\nclass Base:\n    rate = 1\n    def rise(self): return self.rate\n"
BODIES = {
    "a module's constant": "import helper\nclass A:\n    def run(self): return helper.FACTOR\n",
    "a name from a module": "from helper import Base\nclass A:\n    def run(self): return Base.rate\n",
    "an import in a function": "class A:\n    def run(self):\n        import helper\n        return helper.FACTOR\n",
    "a name imported there": "class A:\n    def run(self):\n        from helper import FACTOR\n        return FACTOR\n",
    "an import by name": "import importlib as i\nclass A:\n    def run(s): return i.import_module('helper').FACTOR\n",
    "an attribute by name": "import helper\nclass A:\n    def run(self): return getattr(helper, 'FACTOR')\n",
    "a default": "import helper\nclass A:\n    def run(self, by=helper.Base): return by.rate\n",
    "a base class": "from helper import Base\nclass A(Base):\n    pass\n",
    "a table": "from helper import TABLE\nclass A:\n    def run(self): return TABLE['high']\n",
    "a comprehension": "import helper\nclass A:\n    def run(self, x): return [helper.FACTOR * y for y in x]\n",
    "a property": "import helper\nclass A:\n    @property\n    def high(self): return helper.FACTOR\n",
    "a class method": "import helper\nclass A:\n    @classmethod\n    def high(cls): return helper.FACTOR\n",
    "a cached function": "import functools, helper\nclass A:\n    @functools.cache\n    def f(s): return helper.Base\n",
    "a decorated one": "import torch, helper\nclass A:\n    @torch.no_grad()\n    def f(self): return helper.FACTOR\n",
    "a partial": "import functools\nfrom helper import Base\nclass A:\n    f = functools.partial(Base.rise, Base())\n",
}
"""Ways to use the module `helper`, of which `change` alters all that a class may use."""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Own]:
    before = {*sys.modules}
    monkeypatch.syspath_prepend(tmp_path)

    def write(**texts: str) -> ModuleType:
        for name, text in texts.items():
            path = (tmp_path / name.replace("__", "/")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()
        code.is_installed.cache_clear()
        return importlib.import_module(name.replace("__", "."))

    yield write
    for name in {*sys.modules} - before:
        del sys.modules[name]


def identity(x: object) -> str:
    return code.identify(x).digest


def change(helper: ModuleType) -> None:
    helper.FACTOR = 2
    helper.Base.rate = 2
    helper.TABLE["high"] = 2


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_an_identity_holds_all_that_a_class_uses_of_a_helper(body: str, own: Own) -> None:
    helper = own(helper=HELPER)
    used = own(used=body)
    before = identity(used.A)
    assert identity(used.A) == before
    change(helper)
    assert identity(used.A) != before


def test_an_identity_holds_all_of_a_helper_used_or_not(own: Own) -> None:
    helper = own(helper=f"{HELPER}OTHER = 1\n")
    used = own(used=BODIES["a module's constant"])
    before = identity(used.A)
    helper.OTHER = 2
    assert identity(used.A) != before


def test_a_module_that_a_function_imports_later_changes_no_identity(own: Own) -> None:
    """Whatever it computes: a plan is made before, a worker may have done other work. What it states still counts."""
    body = "class A:\n    def run(self):\n        import helper\n        return helper.RATE\n"
    used = own(helper="import math\nRATE = math.sqrt(4)\nOTHER = 1\n", used=body)
    assert "helper" not in sys.modules
    before = identity(used.A)
    assert used.A().run() == 2
    assert identity(used.A) == before
    sys.modules["helper"].OTHER = 2  # type: ignore[attr-defined]
    assert identity(used.A) != before


@pytest.mark.parametrize("way", ["from . import helper", "from .helper import Base", "import pack.helper"])
def test_what_a_module_computes_counts_where_it_is_imported_with_the_class(way: str, own: Own) -> None:
    helper = "import math\nRATE = math.sqrt(4)\nclass Base: pass\n"
    used = own(pack__helper=helper, pack__used=f"{way}\nclass A: pass\n")
    before = identity(used.A)
    sys.modules["pack.helper"].RATE = 3  # type: ignore[attr-defined]
    assert identity(used.A) != before


def test_file_edited_after_import_counts_once_reloaded(own: Own, tmp_path: Path) -> None:
    helper = own(helper=HELPER)
    used = own(used=BODIES["a module's constant"])
    before = identity(used.A)
    (tmp_path / "helper.py").write_text(HELPER.replace("FACTOR = 1", "FACTOR = 20"))
    assert identity(used.A) == before
    importlib.reload(helper)
    assert identity(used.A) != before


@pytest.mark.parametrize(
    "fill", ["MEMORY[x] = x", "MEMORY.setdefault(x, x)", "self.memory[x] = x", "A.memory.update({x: x})"]
)
def test_a_memory_that_code_fills_as_it_runs_is_in_no_identity(fill: str, own: Own) -> None:
    code = f"MEMORY = {{}}\nclass A:\n    memory = {{}}\n    def run(self, x):\n        {fill}\n        MEMORY\n"
    used = own(used=code)
    before = identity(used.A)
    used.A().run(3)
    assert used.MEMORY or used.A.memory
    assert identity(used.A) == before


def test_class_keeps_its_identity_as_it_is_pickled_and_inherited(own: Own) -> None:
    used = own(used="import abc\nclass A(abc.ABC):\n    def __setattr__(self, *pair): super().__setattr__(*pair)\n")
    before = identity(used.A)
    pickle.dumps(used.A())
    isinstance(1, used.A)
    assert "__slotnames__" in vars(used.A)
    assert identity(used.A) == before


def test_object_made_on_first_use_is_in_no_identity(own: Own) -> None:
    body = "class A:\n    def run(self):\n        global NET\n        NET = NET or object()\n        return NET, RATE\n"
    used = own(used=f"NET, RATE = None, 1\n{body}")
    before = identity(used.A)
    used.A().run()
    assert identity(used.A) == before
    used.RATE = 2
    assert identity(used.A) != before


@pytest.mark.parametrize(
    ("name", "text", "is_another"),
    [
        ("table.txt", "2", True),
        ("other.py", "def f(x): return x + 2\n", True),
        ("other.py", "def f(x): return x + 1  # as before\r\n", False),
        ("util.py", "def f(x): return x + 2\n", False),  # imported: it counts as it was
        ("more.py", "", True),
        ("run.log", "", False),
        (".hidden", "", False),
    ],
)
def test_a_package_counts_with_all_its_files(name: str, text: str, is_another: bool, own: Own, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "table.txt").write_text("1")
    (tmp_path / "pack" / "other.py").write_text("def f(x): return x + 1\n")
    body = "from pack.util import f\nclass A:\n    def run(self, x): return f(x)\n"
    used = own(pack____init__="", pack__util="def f(x): return x + 1\n", pack__used=body)
    before = identity(used.A)
    (tmp_path / "pack" / name).write_text(text)
    assert (identity(used.A) != before) == is_another


def test_modules_imported_by_others_are_in_no_identity(own: Own) -> None:
    pack = own(pack____init__="from pack.util import f\ndef g(): return globals()\n", pack__util="def f(): pass\n")
    used = own(pack__more="", used="import pack\nclass A:\n    def run(self): return vars(pack)\n")
    before = identity(used.A)
    importlib.import_module("pack.more")
    assert (pack.__name__, identity(used.A)) == ("pack.util", before)


class Window:
    def __init__(self, low: float, table: Any = None) -> None:
        self.low = low
        self.table = table


class Doubled(torch.Tensor):
    """A tensor that does otherwise."""


def hooked(hook: Callable[..., Any]) -> nn.Module:
    net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.ReLU())
    net.register_forward_hook(hook)
    return net


def buffered(value: float) -> nn.Module:
    net = nn.ReLU()
    net.register_buffer("mean", torch.full((1,), value), persistent=False)
    return net


def lambdas(*functions: Callable[..., Any]) -> list[Compose]:
    return [Compose([Lambdad("image", function)]) for function in functions]


PAIRS: dict[str, list[Any]] = {
    "lambdas": lambdas(lambda x: x + 1, lambda x: x + 2),
    "partials": lambdas(functools.partial(np.clip, a_min=0), functools.partial(np.clip, a_min=1)),
    "functions of transforms": [
        CropForegroundd("image", "image", select_fn=f) for f in (lambda x: x > 0, lambda x: x > 1)
    ],
    "bounds": [ScaleIntensityRanged("image", 0, high, 0, 1) for high in (1, 2)],
    "attributes": [Window(1), Window(2)],
    "arrays": [Window(1, np.zeros(3)), Window(1, np.ones(3))],
    "tensors in half precision": [Window(1, torch.tensor(value, dtype=torch.bfloat16)) for value in (0, 1)],
    "tensors of another shape": [Window(1, torch.zeros(shape)) for shape in (4, (2, 2))],
    "classes of arrays": [Window(1, make(np.eye(2))) for make in (np.asarray, np.asmatrix)],
    "classes of tensors": [Window(1, torch.eye(2).as_subclass(kind)) for kind in (torch.Tensor, Doubled)],
    "affines": [MetaTensor(torch.zeros(1, 2, 2, 2), affine=side * torch.eye(4)) for side in (1, 2)],
    "layers": [nn.Sequential(nn.Conv3d(1, 2, 1), layer) for layer in (nn.ReLU(), nn.LeakyReLU())],
    "hooks": [hooked(lambda *_: None), hooked(lambda module, given, made: 2 * made)],
    "buffers that are not saved": [buffered(0), buffered(1)],
    "types": [1, 1.0],
    "orders": [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
    "installed classes": [nn.ReLU, nn.LeakyReLU],
    "functions of C": [np.add, np.multiply],
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_objects_that_differ_have_identities_that_differ(pair: list[Any]) -> None:
    assert identity(pair[0]) != identity(pair[1])


def increase(x: Any) -> Any:
    return x + 1


EQUAL: dict[str, list[Any]] = {
    "lambdas": lambdas(lambda x: x + 1, lambda x: x + 1),
    "attributes": [Window(1, np.zeros(3)), Window(1, np.zeros(3))],
    "hooks under other numbers": [hooked(increase), hooked(increase)],
    "weights, which have a hash": [nn.Conv3d(1, 2, 3), nn.Conv3d(1, 2, 3)],
    "sets": [{"a", "b"}, {"b", "a"}],
}


@pytest.mark.parametrize("pair", EQUAL.values(), ids=EQUAL)
def test_equal_objects_have_equal_identities(pair: list[Any]) -> None:
    assert identity(pair[0]) == identity(pair[1])


def test_transforms_keep_their_identity_as_they_are_used() -> None:
    spatial = Orientationd("image", "RAS", labels=None), Spacingd("image", (2, 2, 2)), CropForegroundd("image", "image")
    compose = Compose([*spatial, ScaleIntensityRanged("image", 0, 1, 0, 1)])
    before = identity(compose)
    compose({"image": MetaTensor(torch.rand(1, 8, 8, 8))})
    assert identity(compose) == before


@pytest.mark.parametrize(
    "make", [io.StringIO, lambda: (x for x in "ab"), lambda: np.random.default_rng(0), torch.Generator]
)
def test_object_without_identity_is_of_its_process_and_says_why(make: Callable[[], Any]) -> None:
    part = identity(Window(1, make()))
    assert isinstance(part, OfProcess)
    assert part.why.startswith("nothing tells a ")
    key = digest(["cell", {"attack": part}])
    assert isinstance(key, OfProcess)
    assert key.why == part.why


def test_installed_code_counts_by_release_of_its_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(UNet)
    code.release.cache_clear()
    monkeypatch.setattr(code.metadata, "version", lambda name: "9.9+cpu")
    assert (code.release("monai.networks"), identity(UNet) != before) == ("monai 9.9", True)
    code.release.cache_clear()


def test_an_identity_is_made_once_where_code_stays_as_it_is(own: Own) -> None:
    helper = own(helper=HELPER)
    used = own(used=BODIES["a module's constant"])
    with code.steady():
        before = identity(used.A)
        change(helper)
        assert identity(used.A) == before
    assert identity(used.A) != before


SAID = """
import sys
sys.path[:0] = sys.argv[1:]
import used, torch
from freqbench.core.code import identify
from monai.transforms import Compose, Lambdad, Orientationd
net = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.ReLU())
chain = Compose([Lambdad("image", lambda x: x + 1), Orientationd("image", "RAS")])
print(*(identify(each).digest for each in (used.A, used.A(), chain, net, {1, "a", 2.0})))
"""


@pytest.mark.integration  # two processes that import torch
def test_equal_code_has_one_identity_everywhere(tmp_path: Path) -> None:
    running = list[subprocess.Popen[str]]()
    for seed, end in (("1", "\n"), ("2", "\r\n")):
        folder = tmp_path / seed
        folder.mkdir()
        for name, text in (("helper", HELPER), ("used", BODIES["a partial"] + "    names = {'x', 'y', 'z'}\n")):
            (folder / f"{name}.py").write_bytes(text.replace("\n", end).encode())
        command = [sys.executable, "-c", SAID, str(folder)]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    first, second = (process.communicate()[0].split() for process in running)
    assert first == second
    assert len({*first}) == 5


def test_file_that_code_opens_and_no_text_names_is_noted(own: Own, tmp_path: Path) -> None:
    (tmp_path / "factor.txt").write_text("2")
    place = f"open({str(tmp_path)!r} + chr(47) + 'factor' + '.' + 'txt'"
    writing = own(writing=f"{place}, 'a').close()\ndef f(): return {place}).read()\n")
    assert code.identify(writing.f).opened is None
    assert writing.f() == "2"  # for a script, which has what it returns
    assert code.identify(writing.f).opened is None
    reading = own(reading=f"TEXT = {place}).read()\ndef f(): pass\n")
    assert code.identify(reading.f).opened == str(tmp_path / "factor.txt")


def test_file_in_a_tools_hidden_folder_is_not_noted(own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".tool").mkdir()
    (tmp_path / ".tool/known").write_text("2")
    used = own(used=f"TEXT = open({str(tmp_path)!r} + chr(47) + '.tool' + chr(47) + 'known').read()\ndef f(): pass\n")
    assert used.TEXT == "2"
    assert code.identify(used.f).opened is None


def test_file_that_a_text_names_counts_whoever_opens_it(own: Own, tmp_path: Path) -> None:
    (tmp_path / "factor.txt").write_text("2")
    used = own(used="from pathlib import Path\ndef f(): return (Path(__file__).parent / 'factor.txt').read_text()\n")
    before = code.identify(used.f)
    used.f()
    assert code.identify(used.f).opened is None
    (tmp_path / "factor.txt").write_text("3")
    assert identity(used.f) != before.digest
