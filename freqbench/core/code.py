"""Identifies objects of other code by what they do, so that a change of it changes every key that it enters. An
identity covers bytecode, constants, defaults, closures, the globals that code names, attributes, and own modules as the
process holds them, whatever their files say now. A package of one's own counts with all its files. Installed code
counts by the name and version of its distribution. Equal code has equal identities in two processes and on two machines
of one Python release: no address, hash seed, folder or line ending enters."""

import copyreg
import dis
import functools
import hashlib
import inspect
import os
import secrets
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module, metadata, util
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

from freqbench.core import plugins
from freqbench.core.files import downloads
from freqbench.core.files.programs import counts, program_files
from freqbench.core.identity import OfProcess, digest

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_DESCRIPTORS = (property, classmethod, staticmethod, functools.cached_property)
_OF_C = (
    *(types.BuiltinFunctionType, types.MethodWrapperType, types.MethodDescriptorType, types.WrapperDescriptorType),
    *(types.ClassMethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType),
)
_FILLING = ("append", "add", "update", "setdefault", "pop", "popitem", "extend", "insert", "clear", "remove", "discard")
"""Methods by which code fills a container of its own, as it remembers results."""
_STATELESS = ("_thread", "threading", "weakref", "_weakref", "_weakrefset", "logging", "_contextvars")
"""Modules whose objects change no number."""
_PYTHON = PurePath(os.__file__).parent
_SITES = {"site-packages", "dist-packages"}
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")

Function = tuple[str, str]  # file and name, as code states them

_run = secrets.token_hex(4)
_steady: ContextVar[dict[int, tuple[object, "Code"]] | None] = ContextVar("steady", default=None)
_opened: dict[Function, str] = {}


@dataclass(frozen=True)
class Code:
    """Identity of an object of other code."""

    digest: str  # 16 hex digits; `OfProcess` if something in the object has no identity
    functions: frozenset[Function]  # its own functions; empty if all of it is installed

    @property
    def opened(self) -> str | None:
        """A file that its functions have read in this process, beside those of their package; None: none."""
        return next((_opened[each] for each in sorted(self.functions & _opened.keys())), None)


def identify(x: object) -> Code:
    """Returns the identity of an object; within `steady` it is made once."""
    made = _steady.get()
    if made is not None and id(x) in made:
        return made[id(x)][1]
    walk = _Walk()
    found = walk.digest_of(x)[:16]
    if walk.unknown:
        found = OfProcess(f"{found}-{_run}", f"nothing tells {walk.unknown[0]} apart from another")
    code = Code(found, frozenset(walk.functions))
    if made is not None:
        made[id(x)] = x, code
    return code


def provenance(cls: type) -> dict[str, str]:
    """Returns path and identity of the code of a class of another package, and its package's name and version, if it
    has one; of an installed class its own file counts too. Empty for freqbench's own classes."""
    if not plugins.is_foreign(cls):
        return {}
    path = plugins.path_of(cls)
    does = identify(cls).digest
    if is_installed(cls.__module__):
        does = digest([does, downloads.digest(Path(inspect.getfile(cls)))])
    facts = {"class": path, "code": does}
    for table in plugins.TABLES:
        for name in (name for name, place in plugins.installed_names(table).items() if place == path):
            facts["package"] = plugins.package_of(table, name)
    return facts


@contextmanager
def steady() -> Iterator[None]:
    """Context of a plan or of a unit's work, in which code stays as it is."""
    token = _steady.set({} if (made := _steady.get()) is None else made)
    try:
        yield
    finally:
        _steady.reset(token)


def run_token() -> str:
    """Returns the text that tells objects without identity apart from those of other runs."""
    return _run


def join_run(token: str) -> None:
    """Takes the token of the process that planned the work of this one."""
    global _run
    _run = token


@functools.cache
def watch_files() -> None:
    """Begins to note the files that own code reads, for `Code.opened`; to the end of the process."""
    sys.addaudithook(_note_file)


def _note_file(event: str, args: tuple[Any, ...]) -> None:
    if event != "open" or not isinstance(args[0], str | bytes | os.PathLike):
        return
    path = os.fsdecode(args[0])
    writes = (args[2] or 0) & os.O_ACCMODE == os.O_WRONLY
    if writes or path.endswith((".py", ".pyc", ".so")) or path.startswith(("/proc/", "/sys/", "/dev/")):
        return
    frame: types.FrameType | None = sys._getframe(1)
    while frame and is_installed(name := str(frame.f_globals.get("__name__"))):
        if name.startswith("freqbench."):
            return
        frame = frame.f_back
    own = any(Path(path).absolute().is_relative_to(folder) for folder in _package_folders(name)) if frame else True
    if frame and not (own and counts(Path(path).name)):
        _opened[frame.f_code.co_filename, frame.f_code.co_qualname] = path


@functools.cache
def is_installed(module: str) -> bool:
    """True for the name of a module of Python, freqbench or an installed distribution; others are one's own."""
    top = module.partition(".")[0]
    held = sys.modules.get(top)
    spec = getattr(held, "__spec__", None) or (None if held or not top else util.find_spec(top))
    if top == "freqbench" or (spec and spec.origin in ("built-in", "frozen")):
        return True
    places = [getattr(held, "__file__", spec and spec.origin), *((spec and spec.submodule_search_locations) or ())]
    paths = [PurePath(place) for place in places if place]
    return any(path.is_relative_to(_PYTHON) or _SITES & {*path.parts} for path in paths)


@functools.cache
def release(module: str) -> str:
    """Returns name and version of the distribution of an installed module, without a build's, such as `+cpu`."""
    package = module.partition(".")[0]
    names: Iterable[str] = () if package in sys.stdlib_module_names else (package,)
    with suppress(metadata.PackageNotFoundError):
        return " ".join(f"{name} {metadata.version(name).partition('+')[0]}" for name in names)
    names = sorted({*metadata.packages_distributions().get(package, ())})
    return " ".join(f"{name} {metadata.version(name).partition('+')[0]}" for name in names)


class _Walk:
    """A walk through one object: `unknown` are types of what has no identity, `functions` those of own code."""

    def __init__(self) -> None:
        self.unknown = list[str]()
        self.functions = set[Function]()
        self._known: dict[int, tuple[object, str]] = {}  # with the object, or another takes its address
        self._open: dict[int, int] = {}  # objects that are being walked, by their depth
        self._written: dict[int, frozenset[tuple[str, str]]] = {}  # by their namespace, names that its code writes to

    def digest_of(self, x: object) -> str:
        """Returns the digest of an object; one that is inside itself counts by its depth."""
        if type(x) in _PLAIN:
            return _hash([type(x).__name__, x if isinstance(x, bytes) else repr(x)])
        if id(x) in self._known:
            return self._known[id(x)][1]
        if id(x) in self._open:
            return _hash(["again", str(self._open[id(x)])])
        self._open[id(x)] = len(self._open)
        try:
            found = _hash(self._parts(x))
        except RecursionError:
            found = self._note_unknown(x)
        del self._open[id(x)]
        self._known[id(x)] = x, found
        return found

    def _parts(self, x: Any) -> Iterable[str | bytes]:
        match x:
            case types.CodeType():
                return self._code(x)
            case types.FunctionType():
                return self._function(x)
            case types.ModuleType():
                return self._module(x, None)
            case type():
                return self._class(x)
            case types.MethodType():
                return "method", self.digest_of(x.__func__), self.digest_of(x.__self__)
            case list() | tuple():
                return "sequence", type(x).__name__, *map(self.digest_of, x)
            case set() | frozenset():
                return "set", *sorted(map(self.digest_of, x))
            case Mapping():
                return "mapping", *(self.digest_of(each) for pair in x.items() for each in pair)
            case PurePath():
                return "path", x.as_posix()
            case _ if isinstance(x, _DESCRIPTORS):
                held = (getattr(x, name, None) for name in ("fget", "fset", "__func__", "func"))
                return "descriptor", *map(self.digest_of, held)
            case _ if isinstance(x, _OF_C):
                owner = getattr(x, "__objclass__", sys.modules.get(getattr(x, "__module__", None) or "builtins"))
                return "builtin", x.__name__, self.digest_of(owner)
            case _ if hasattr(x, "__wrapped__"):  # a cache around a function
                return "around", self.digest_of(x.__wrapped__)
            case _ if hasattr(x, "__array__"):
                return self._array(x)
            case _:
                return self._instance(x)

    def _code(self, code: types.CodeType) -> Iterator[str | bytes]:
        """Yields what code does: neither file nor line, which are the checkout's."""
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        yield from ("code", code.co_code, code.co_exceptiontable, repr((counts, names)))
        yield from map(self.digest_of, code.co_consts)

    def _function(self, f: types.FunctionType) -> Iterator[str | bytes]:
        """Yields a function's code, and what it means by each name: defaults, closure, globals, imports."""
        name = f.__globals__.get("__name__", "")
        if is_installed(name):
            yield from ("installed", f.__code__.co_qualname, name, release(name))
            if not {"<locals>", "<lambda>"} & {*f.__code__.co_qualname.split(".")}:
                return
        else:
            self.functions.add((f.__code__.co_filename, f.__code__.co_qualname))
        yield from map(self.digest_of, (f.__code__, f.__defaults__, f.__kwdefaults__, vars(f)))
        for cell in f.__closure__ or ():
            with suppress(ValueError):  # a name that is not bound yet
                yield self.digest_of(cell.cell_contents)
        if is_installed(name):
            return
        codes = [*_inner_codes(f.__code__)]
        names = frozenset(name for code in codes for name in code.co_names)
        for name, by_attribute in _globals(codes).items():
            if name in f.__globals__:
                value = f.__globals__[name]
                if by_attribute and isinstance(value, types.ModuleType):
                    yield _hash([name, *self._module(value, names)])
                else:
                    yield from self._value_parts(name, value, f.__globals__)
        for imported in _imports(codes, f.__globals__.get("__package__") or ""):
            yield imported if isinstance(imported, str) else _hash(self._module(imported, names))

    def _module(self, module: types.ModuleType, names: frozenset[str] | None) -> Iterator[str | bytes]:
        """Yields an installed module's release; of an own one its `names`, or all but modules below it."""
        if is_installed(module.__name__):
            yield from ("installed", module.__name__, release(module.__name__))
            return
        if (file := getattr(module, "__file__", None)) and not file.endswith(".py"):  # compiled
            yield downloads.digest(Path(file))
        yield from map(_digest_of_package, _package_folders(module.__name__))
        below = f"{module.__name__}."
        for name, value in sorted(vars(module).items()):
            is_below = isinstance(value, types.ModuleType) and value.__name__.startswith(below)
            if is_below and names and name in names:
                yield _hash([name, *self._module(value, names)])
            elif not is_below and (names is None or name in names):
                yield from self._value_parts(name, value, vars(module))

    def _class(self, cls: type) -> Iterator[str]:
        """Yields the release of an installed class; of an own one its bases and what it defines."""
        if is_installed(cls.__module__) and "<locals>" not in cls.__qualname__:
            yield from ("installed", cls.__qualname__, cls.__module__, release(cls.__module__))
            return
        yield from map(_digest_of_package, _package_folders(cls.__module__))
        yield from map(self.digest_of, (type(cls), *cls.__bases__))
        for name, value in sorted(vars(cls).items()):
            if name in ("__dataclass_fields__", "__pydantic_fields__"):
                yield self.digest_of({key: (each.default, each.default_factory) for key, each in value.items()})
            # Other names of Python's say nothing of what a class does, and some come as it is used.
            elif not name.startswith(("__", "_abc_")) or isinstance(value, (types.FunctionType, *_DESCRIPTORS)):
                yield from self._value_parts(name, value, vars(cls), cls)

    def _value_parts(self, name: str, value: object, names: Mapping[str, Any], owner: object = None) -> Iterator[str]:
        """Yields what a namespace holds under a name, unless its code sets or fills it as it runs."""
        place = id(owner or names)
        if value is None or type(value) not in _PLAIN:
            if place not in self._written:
                codes = (code for each in [*names.values()] for code in _codes_in(each))
                self._written[place] = frozenset(pair for code in codes for pair in _written_names(code))
            fills, sets = ((name, kind) in self._written[place] for kind in ("fills", "sets"))
            if (sets and not owner) or (fills and isinstance(value, dict | list | set)):
                return
        if owner or not name.startswith("__"):
            yield _hash([name, self.digest_of(value)])

    def _array(self, x: Any) -> Iterator[str | bytes]:
        import numpy as np

        if "torch" in sys.modules and isinstance(x, sys.modules["torch"].Tensor):
            torch = sys.modules["torch"]
            yield from ("tensor", str(x.dtype), self.digest_of({**vars(x)}))  # a MetaTensor has an affine
            x = x.detach().as_subclass(torch.Tensor).to_dense().cpu().contiguous()
            yield str([*x.shape])
            x = x.reshape(-1).view(torch.uint8).numpy()
        array = np.asarray(x)
        yield from (str(array.dtype), str(array.shape))
        yield self.digest_of(array.ravel().tolist()) if array.dtype.hasobject else array.tobytes()

    def _instance(self, x: Any) -> Iterator[str]:
        """Yields the class and state of an object, by how it would be pickled."""
        kind = type(x)
        if kind.__module__.partition(".")[0] in _STATELESS:
            yield from ("stateless", kind.__qualname__)
            return
        draws = kind.__module__.startswith(("random", "numpy.random")) or kind.__qualname__ == "Generator"
        reduced: Any = None
        if not (draws or hasattr(kind, "fileno") or isinstance(x, types.GeneratorType)):
            with suppress(Exception):  # an object of C without state, or code of others
                known: Any = copyreg.dispatch_table.get(kind)
                reduced = known(x) if known else x.__reduce_ex__(4)
        if reduced is None:
            yield self._note_unknown(x)
        elif isinstance(reduced, str):  # found by its name
            yield from ("named", reduced, release(getattr(x, "__module__", None) or kind.__module__))
        else:
            make, args, state, items, pairs = (*reduced, None, None, None)[:5]
            yield from ("instance", self.digest_of(make), self.digest_of(args))
            for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
                yield self._state(kind, part) if isinstance(part, dict) else self.digest_of(part)
            yield from map(self.digest_of, (list(items or ()), list(pairs or ())))

    def _state(self, kind: type, state: dict[str, Any]) -> str:
        """Returns the digest of attributes, without computed ones, a network's weights and numbers of its hooks."""
        computed = (name for name in state if isinstance(getattr(kind, str(name), None), functools.cached_property))
        held = {name: state[name] for name in state.keys() - {*computed}}
        if "_non_persistent_buffers_set" in held:
            others = held["_non_persistent_buffers_set"]
            held["_parameters"] = [*held["_parameters"]]
            held["_buffers"] = {name: name in others and value for name, value in held["_buffers"].items()}
            held = {name: [*value.values()] if name.endswith("_hooks") else value for name, value in held.items()}
        if is_installed(kind.__module__):  # MONAI's transforms hold one unasked; those that draw are refused
            held = {name: value for name, value in held.items() if type(value).__name__ != "RandomState"}
        return _hash(_hash([str(name), self.digest_of(held[name])]) for name in sorted(held, key=str))

    def _note_unknown(self, x: object) -> str:
        self.unknown.append(f"a {type(x).__module__}.{type(x).__qualname__}")
        return "unknown"


def _hash(parts: Iterable[str | bytes]) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode()
        hasher.update(len(content).to_bytes(8, "big") + content)
    return hasher.hexdigest()


def _inner_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yields code and that of the functions, classes and comprehensions inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _inner_codes(const)


def _codes_in(value: object) -> Iterator[types.CodeType]:
    for each in vars(value).values() if isinstance(value, type) else (value,):
        each = getattr(each, "__func__", getattr(each, "fget", each))
        if isinstance(each, types.FunctionType):
            yield from _inner_codes(each.__code__)


def _globals(codes: Iterable[types.CodeType]) -> dict[str, bool]:
    """Returns the global names that code loads, in order, each with True if it uses their attributes alone."""
    found = dict[str, bool]()
    for code in codes:
        for step, after in pairwise([*dis.get_instructions(code)]):
            if step.opname in _LOADS:
                found[step.argval] = found.get(step.argval, True) and after.opname in _ATTRIBUTES
    return dict(sorted(found.items()))


def _written_names(code: types.CodeType) -> Iterator[tuple[str, str]]:
    """Yields the globals that a function `sets`, and what it `fills` by `NAME[key] = value` or `NAME.append(value)`."""
    steps = [*dis.get_instructions(code)]
    for number, step in enumerate(steps):
        before = number - 1
        if step.opname == "STORE_GLOBAL":
            yield step.argval, "sets"
        if step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
            depth = 0
            before = number
            while depth < 2 and before:  # back to what put the container on the stack, below the key
                before -= 1
                depth += dis.stack_effect(steps[before].opcode, steps[before].arg, jump=False)
            while steps[before + 1].opname in _ATTRIBUTES:
                before += 1
        elif step.opname not in _ATTRIBUTES or step.argval not in _FILLING:
            continue
        if steps[before].opname in (*_LOADS, *_ATTRIBUTES):
            yield steps[before].argval, "fills"


def _imports(codes: Iterable[types.CodeType], package: str) -> Iterator[types.ModuleType | str]:
    """Yields the modules that functions import when they run; a text for one that is not there."""
    for code in codes:
        steps = [*dis.get_instructions(code)]
        for number, step in enumerate(steps):
            if step.opname == "IMPORT_NAME":
                level = steps[number - 2].argval
                parts = steps[number - 1].argval or ()
                wanted = util.resolve_name("." * level + step.argval, package) if level else step.argval
                yield _import_own(wanted)
                for part in parts:
                    with suppress(ImportError, ValueError):
                        if util.find_spec(f"{wanted}.{part}"):
                            yield _import_own(f"{wanted}.{part}")
        if {"import_module", "__import__"} & {*code.co_names}:
            yield from map(_import_own, (one for one in code.co_consts if isinstance(one, str) and one.isidentifier()))


def _import_own(name: str) -> types.ModuleType | str:
    if is_installed(name):
        return f"{name} {release(name)}"
    try:
        return import_module(name)
    except Exception:  # noqa: BLE001 (importing a module runs it, and it may raise anything)
        return f"no {name}"


def _package_folders(module: str) -> list[Path]:
    """Returns the folders of the outermost package that a module of one's own is in; none for a single file."""
    held = sys.modules.get(module)
    depth = module.count(".")
    if file := getattr(held, "__file__", None):
        above = [*Path(file).absolute().parents]
        return above[depth : depth + 1] if hasattr(held, "__path__") else above[depth - 1 : depth]
    return [Path(place).absolute() for place in getattr(held, "__path__", ())]


def _digest_of_package(folder: Path) -> str:
    """Returns the digest of what a package's Python files do and its others hold; of a large one, of its code."""
    files = program_files(folder) or {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    contents = {name: downloads.digest(path) for name, path in files.items()}
    does = {name: _does(files[name], each) if name.endswith(".py") else each for name, each in contents.items()}
    return _hash(text for pair in sorted(does.items()) for text in pair)


@functools.lru_cache(maxsize=4096)
def _does(path: Path, content: str) -> str:
    """Returns the digest of what a file of Python does; of its content, if it is none."""
    with suppress(SyntaxError, ValueError):
        return _Walk().digest_of(compile(path.read_bytes(), "", "exec", dont_inherit=True))
    return content
