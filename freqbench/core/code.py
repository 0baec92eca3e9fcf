"""Identifies code of one's own by its files: what they do, what they name and what their modules hold.

An object is its state, and the content of the own modules that it is of. This content is the syntax of all their files
(without comments, docstrings and layout), that of the own modules which these import or name in a text, the bytes of
the files which their texts name, and the plain values that the modules hold now. Installed code counts by the release
of its distribution. Neither folder nor machine enters."""

import copyreg
import functools
import hashlib
import inspect
import pkgutil
import re
import secrets
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path, PurePath
from typing import Any

from freqbench.core import plugins, reading
from freqbench.core.files import downloads, programs
from freqbench.core.identity import OfProcess, digest
from freqbench.core.reading import is_installed
from freqbench.core.syntax import Syntax, syntax_of

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_SETS = (set, frozenset)
_HOLDERS = (*_SETS, list, tuple, dict)
_STATELESS = ("_thread", "threading", "weakref", "_weakref", "_weakrefset", "logging", "_contextvars")
"""Modules whose objects change no number."""
_RELEASE = f"Python {sys.version_info.major}.{sys.version_info.minor}"

_run = secrets.token_hex(4)
_steady: ContextVar[dict[object, Any] | None] = ContextVar("steady", default=None)


@dataclass(frozen=True)
class Code:
    """Identity of an object of other code."""

    digest: str  # 16 hex digits; `OfProcess` if something in the object has no identity
    modules: frozenset[str]  # first names of the own modules in it; empty if all of it is installed
    files: frozenset[str]  # paths of the files in it

    @property
    def opened(self) -> str | None:
        """A file that its modules have opened in this process, and that is not among its own; None: none."""
        read = {path for file in self.files for path in reading.opened.get(file, ())}
        return min((path for path in read - self.files if programs.is_read(Path(path))), default=None)


@dataclass(frozen=True)
class _Content:
    """Content of own modules, and of those that they name."""

    digest: str
    modules: frozenset[str]
    files: frozenset[str]
    unknown: tuple[str, ...]  # types of what the modules hold and nothing tells apart


def identify(x: object, texts: tuple[str, ...] = ()) -> Code:
    """Returns the identity of an object `x`: a class, a function, or what holds such; within `steady` made once. What
    `texts` of a configuration name, such as `$toy.level(image)`, counts as what the object's own code names."""
    with steady():
        return _once(("object", id(x), texts), lambda: (x, _identified(x, texts)))[1]


def _identified(x: object, texts: tuple[str, ...]) -> Code:
    torch = sys.modules.get("torch")
    is_network = torch is not None and isinstance(x, torch.nn.Module)  # its weights have a digest of their own
    state = _State(with_weights=not is_network)
    found = state.digest_of(x)
    for text in texts:
        state.note_names(text)
    named = frozenset(state.modules), frozenset(state.files)
    content = _once(("content", *named), lambda: _content_of(*named))
    unknown = [*state.unknown, *content.unknown]
    found = _hash([found, content.digest] if content.digest else [found])[:16]
    if unknown:
        found = OfProcess(f"{found}-{_run}", f"nothing tells {unknown[0]} apart from another")
    return Code(found, content.modules, content.files | state.places)


def provenance(cls: type) -> dict[str, str]:
    """Returns path and identity of the code of a class of another package, and its package's name and version, if it
    has one; of an installed class its own file counts too. Empty for freqbench's own classes."""
    if not plugins.is_foreign(cls):
        return {}
    path = plugins.path_of(cls)
    does = identify(cls).digest
    if is_installed(cls.__module__):
        package = cls.__module__.partition(".")[0]
        releases = (*_releases(package), *_releases_imported(_files_of(package)))
        does = digest([does, downloads.digest(Path(inspect.getfile(cls))), *releases])
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


def _once(key: object, make: Callable[[], Any]) -> Any:
    """Returns what `make` makes, once for a `key` within `steady`, where each identity is made."""
    made: Any = _steady.get()
    if key not in made:
        made[key] = make()
    return made[key]


def run_token() -> str:
    """Returns the text that tells objects without identity apart from those of other runs."""
    return _run


def join_run(token: str) -> None:
    """Takes the `token` of the process that planned the work of this one."""
    global _run
    _run = token


@functools.cache
def release(module: str) -> str:
    """Returns name and version of the distribution of an installed `module`, without a build's, such as `+cpu`."""
    return " ".join(map(_stated, _distributions_of(module)))


@functools.cache
def _releases(module: str) -> tuple[str, ...]:
    """Returns the releases of the distribution of an installed `module`, and of what that requires, and so on; of what
    freqbench requires itself the release alone."""
    found = dict[str, str]()
    waiting = [*_distributions_of(module)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = _stated(name)
        if name not in _required_by("freqbench"):
            waiting += _required_by(name)
    return tuple(sorted({*found.values()} - {""}))


def _releases_imported(files: Iterable[str | Path]) -> list[str]:
    """Returns the releases of what Python files import, and of what that requires, sorted."""
    scripts = [path for path in map(Path, files) if path.suffix == ".py"]
    packages = {name for path in scripts for name in programs.imports_of(path)}
    return sorted({each for name in packages if is_installed(name) for each in _releases(name)})


@functools.cache
def _distributions_of(module: str) -> tuple[str, ...]:
    """Returns the distributions of an installed module; none of Python and of freqbench, whose results say theirs."""
    package = module.partition(".")[0]
    if package == "freqbench" or package in sys.stdlib_module_names:
        return ()
    with suppress(metadata.PackageNotFoundError):
        return (metadata.metadata(package)["Name"].lower(),)
    return tuple(sorted({name.lower() for name in _providers().get(package, ())}))


@functools.cache
def _providers() -> Mapping[str, list[str]]:
    """Returns the distributions of each installed package."""
    return metadata.packages_distributions()


def _stated(name: str) -> str:
    """Returns name and version of a distribution; empty if it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return f"{name} {metadata.version(name).partition('+')[0]}"
    return ""


@functools.cache
def _required_by(name: str) -> frozenset[str]:
    """Returns the names of the distributions that an installed one requires, without its extras'."""
    stated: list[str] = []
    with suppress(metadata.PackageNotFoundError):
        stated = metadata.requires(name) or []
    names = (re.match(r"[\w.-]+", each) for each in stated if "extra ==" not in each)
    return frozenset(name[0].lower() for name in names if name)


def _content_of(modules: frozenset[str], files: frozenset[Path]) -> _Content:
    """Returns the content of own modules and of files that an object's state names."""
    tops = {name.partition(".")[0] for name in modules}
    starts = [*files]
    for top in tops:
        starts += _files_of(top)

    def find(name: str, folder: Path) -> Iterable[Path]:
        """Finds the file, or the files of an own module, that the text of a script in a folder names."""
        if file := programs.file_named(name, (folder,)):
            return [file]
        top = name.partition(".")[0].partition(":")[0]
        if top in tops or not top.isidentifier() or not _is_own(top):
            return ()
        tops.add(top)
        return _files_of(top)

    does = programs.closure(starts, find)
    values = [*_values_of(tops, modules)]
    parts = sorted(_hash([path.name, each]) for path, each in does.items())
    parts += [_hash([name, text]) for name, text, _ in values]
    parts += _releases_imported(does)
    unknown = tuple(kind for _, _, kind in values if kind)
    whole = _hash([_RELEASE, *parts]) if parts else ""
    return _Content(whole, frozenset(tops), frozenset(map(str, does)), unknown)


def _files_of(top: str) -> list[Path]:
    """Returns the files of a module, or of a whole package, by its first name; none for what has no file."""
    held = sys.modules.get(top)
    spec = reading.spec_of(top)
    folders = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    files = list[Path]()
    for folder in folders:
        files += (programs.program_files(folder) or {path.name: path for path in folder.rglob("*.py")}).values()
    if not folders and (file := getattr(held, "__file__", None) or (spec and spec.origin)):
        files = [Path(file)]
    return [file.absolute() for file in files if file.is_file()]


def _is_own(top: str) -> bool:
    """True for the first name of an own module that has a file, whether this process has imported it or not; a folder
    that a text happens to name has none."""
    path = tuple(sys.path)
    is_there = top in _providers() or top in _once(path, lambda: _names_beside(path))
    return is_there and not is_installed(top)


def _names_beside(path: tuple[str, ...]) -> frozenset[str]:
    """Returns the names of the modules in own folders of Python's search path, whose own search for each of hundreds of
    texts takes a thousand times as long."""
    own = [folder for folder in path if not reading.is_of_others(f"{folder}/")]
    return frozenset(each.name for each in pkgutil.iter_modules(own))


def _values_of(tops: Collection[str], modules: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yields what own modules with the first names `tops` hold, by name, but what their code sets or fills: the text of
    a plain value, or where a function or class is from; and the type of what nothing tells apart. Of a module that was
    not imported with `modules`, which not every process holds, only what is not as its file says."""
    with_them = _imported_with(modules)
    for name, module in sorted(sys.modules.items()):
        syntax = _syntax_of(name) if name.partition(".")[0] in tops else None
        if not syntax:
            continue
        here = str(Path(module.__file__ or "").absolute().parent)
        for key, value in sorted(vars(module).items()):
            if key.startswith("__") or key in syntax.written:
                continue
            said = f"{name}.{key}" if key in syntax.defined else _plain_text(syntax.stated.get(key, ...))
            text = _plain_text(value)
            if isinstance(value, types.FunctionType | type):
                text = f"{value.__module__}.{value.__qualname__}"
            is_changed = text and said and text != said
            if is_changed or (text and name in with_them):
                yield f"{name}.{key}", text.replace(here, "."), ""
            elif _is_unlike(value) and name in with_them:
                yield f"{name}.{key}", "", _kind(value)


def _imported_with(modules: Iterable[str]) -> list[str]:
    """Returns the names of own modules that every process holds which has imported `modules`."""
    names = sorted(modules)
    for name in names:
        if syntax := _syntax_of(name):
            package = sys.modules[name].__package__
            imported = {util.resolve_name(each, package) for each in syntax.imports}
            names += sorted({name.rpartition(".")[0], *imported} - {*names})
    return names


def _syntax_of(module: str) -> Syntax | None:
    """Returns the syntax of an own module that was imported from a file; None for another, and for the main one."""
    file = str(getattr(sys.modules.get(module), "__file__", ""))
    if module == "__main__" or not file.endswith(".py") or is_installed(module):
        return None
    return syntax_of(Path(file))


def _plain_text(value: Any) -> str:
    """Returns the text of a number, a text, a list or table of them, the same in every process; empty for others."""
    kind = type(value)
    if kind in _PLAIN:
        return hex(value) if kind is int else repr(value)
    parts = list(map(_plain_text, value.items() if kind is dict else value)) if kind in _HOLDERS else [""]
    if not all(parts):
        return ""
    return f"{kind.__name__}{sorted(parts) if kind in _SETS else parts}"


def _kind(x: object) -> str:
    return f"a {type(x).__module__}.{type(x).__qualname__}"


def _is_unlike(value: object) -> bool:
    """True for a generator, a stream or a random generator: nothing tells it apart from another one."""
    kind = type(value)
    draws = kind.__module__.startswith(("random", "numpy.random")) or kind.__qualname__ == "Generator"
    return draws or hasattr(kind, "fileno") or isinstance(value, types.GeneratorType)


class _State:
    """A walk through one object: `unknown` are types of what has no identity, `modules` the own ones that it is of,
    `files` those that its texts name, `places` those that Python says its functions are from."""

    def __init__(self, with_weights: bool) -> None:
        self.with_weights = with_weights
        self.unknown = list[str]()
        self.modules = set[str]()
        self.files = set[Path]()
        self.places = set[str]()
        self._known: dict[int, tuple[object, str]] = {}  # with the object, or another takes its address
        self._open: dict[int, int] = {}  # objects that are being walked, by their depth

    def digest_of(self, x: object) -> str:
        """Returns the digest of an object; one that is inside itself counts by its depth."""
        if type(x) in _PLAIN:
            self._note_file(x)
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

    def note_names(self, text: str) -> None:
        """Notes the own modules and the files that a text names."""
        for name in programs.names_of(text):
            if _is_own(top := name.partition(".")[0]):
                self.modules.add(top)
            elif name.startswith("/") and (file := programs.file_named(name, ())):
                self.files.add(file)

    def _note_file(self, x: object) -> None:
        """Notes the file that a text of own code names."""
        if isinstance(x, str | PurePath) and self.modules and (file := programs.file_named(str(x), ())):
            self.files.add(file)

    def _note_unknown(self, x: object) -> str:
        self.unknown.append(_kind(x))
        return "unknown"

    def _origin(self, module: str) -> str:
        """Returns the release of an installed module; notes an own one."""
        if is_installed(module):
            return release(module)
        self.modules.add(module)
        return ""

    def _named(self, x: Any) -> Iterator[str]:
        """Yields where something is defined, and the release of what is installed."""
        module = getattr(x, "__module__", None) or "builtins"
        yield from (module, getattr(x, "__qualname__", x.__name__), self._origin(module))

    def _parts(self, x: Any) -> Iterable[str | bytes]:
        match x:
            case types.FunctionType():
                return self._function(x)
            case types.ModuleType():
                return "module", x.__name__, self._origin(x.__name__)
            case type():
                return self._class(x)
            case types.MethodType():
                return "method", self.digest_of(x.__func__), self.digest_of(x.__self__)
            case set() | frozenset():
                return "set", *sorted(map(self.digest_of, x))
            case PurePath():
                self._note_file(x)
                return "path", x.as_posix()
            case _ if type(x) in (list, tuple):
                return type(x).__name__, *map(self.digest_of, x)
            case _ if type(x) is dict:
                return "dict", *(self.digest_of(each) for pair in x.items() for each in pair)
            case _ if _is_array(x):
                return self._array(x)
            case _:
                return self._instance(x)

    def _function(self, f: types.FunctionType) -> Iterator[str | bytes]:
        """Yields where a function is from; of an own one, and of one made in another, also what it does and holds."""
        yield from ("function", *self._named(f))
        if is_installed(f.__module__ or "") and "<" not in f.__qualname__:
            return
        if not reading.is_of_others(f.__code__.co_filename):
            self.places.add(f.__code__.co_filename)
        has_source = _has_source(f.__module__)
        if not has_source or "<" in f.__qualname__:  # in a file, the file's content says what it does
            yield from _code(f.__code__)
        yield from map(self.digest_of, (f.__defaults__, f.__kwdefaults__, vars(f)))
        for cell in f.__closure__ or ():
            with suppress(ValueError):  # a name that is not bound yet
                yield self.digest_of(cell.cell_contents)
        if not has_source:
            for name in sorted(_names_in(f.__code__) & f.__globals__.keys()):
                yield _hash([name, self.digest_of(f.__globals__[name])])

    def _class(self, cls: type) -> Iterator[str]:
        """Yields where a class is from; of an own one also its bases, and what it holds now."""
        yield from ("class", *self._named(cls))
        if is_installed(cls.__module__) and "<" not in cls.__qualname__:
            return
        yield from map(self.digest_of, cls.__bases__)
        syntax = _syntax_of(cls.__module__)
        written = syntax.written if syntax else ()
        for name, value in sorted(vars(cls).items()):
            value = getattr(value, "__func__", getattr(value, "fget", value))
            is_held = _plain_text(value) and not name.startswith("__") and name not in written
            if is_held or isinstance(value, types.FunctionType):
                yield _hash([name, self.digest_of(value)])

    def _array(self, x: Any) -> Iterator[str | bytes]:
        import numpy as np

        torch: Any = sys.modules.get("torch")
        if torch and isinstance(x, torch.Tensor):
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
        if not is_installed(kind.__module__):
            yield self.digest_of(kind)
        reduced: Any = None
        if not _is_unlike(x):
            with suppress(Exception):  # an object of C without state, or code of others
                known: Any = copyreg.dispatch_table.get(kind)
                reduced = known(x) if known else x.__reduce_ex__(4)
        if reduced is None:
            yield self._note_unknown(x)
        elif isinstance(reduced, str):  # found by its name
            module = getattr(x, "__module__", None) or kind.__module__
            yield from ("named", reduced, self._origin(module))
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
        if "_non_persistent_buffers_set" in held and not self.with_weights:
            others = held["_non_persistent_buffers_set"]
            held["_parameters"] = [*held["_parameters"]]
            held["_buffers"] = {name: name in others and value for name, value in held["_buffers"].items()}
        held = {name: [*value.values()] if str(name).endswith("_hooks") else value for name, value in held.items()}
        if is_installed(kind.__module__):  # MONAI's transforms hold one unasked; those that draw are refused
            held = {name: value for name, value in held.items() if type(value).__name__ != "RandomState"}
        return _hash(_hash([str(name), self.digest_of(held[name])]) for name in sorted(held, key=str))


def _is_array(x: object) -> bool:
    """True for NumPy's arrays and numbers, and PyTorch's tensors, also with further state; not of a class that may do
    otherwise, such as `numpy.matrix` or one's own."""
    kind = type(x)
    if kind.__module__ == "numpy":
        return hasattr(x, "__array__") and kind.__name__ != "matrix"
    torch: Any = sys.modules.get("torch")
    return bool(torch) and isinstance(x, torch.Tensor) and is_installed(kind.__module__)


def _has_source(module: str | None) -> bool:
    """True for a module whose file holds all of its code; a notebook and the text of `python -c` have none."""
    return module != "__main__" and bool(getattr(sys.modules.get(module or ""), "__file__", None))


def _names_in(code: types.CodeType) -> frozenset[str]:
    """Returns the names that code and what is defined in it uses."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return frozenset(code.co_names).union(*map(_names_in, inner))


def _code(code: types.CodeType) -> Iterator[str | bytes]:
    """Yields what a function does by itself, without its docstring: tells functions that were made in memory apart."""
    yield from ("code", code.co_code, repr((code.co_names, code.co_varnames)))
    first, *others = code.co_consts or (None,)
    is_documented = isinstance(first, str) and code.co_flags & inspect.CO_NEWLOCALS and "<" not in code.co_name
    for const in others if is_documented else (first, *others):
        if isinstance(const, types.CodeType):
            yield from _code(const)
        else:
            yield repr(sorted(map(repr, const)) if isinstance(const, frozenset) else const)


def _hash(parts: Iterable[str | bytes]) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode()
        hasher.update(len(content).to_bytes(8, "big") + content)
    return hasher.hexdigest()
