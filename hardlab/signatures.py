"""Reads signatures from source code, so that the options of a class are known without importing it and torch."""

from __future__ import annotations
import __future__

import ast
import copy
import importlib
import importlib.util
import inspect
import linecache
import sys
import typing
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hardlab.errors import HardlabError

# the modules from which annotations may take names: light ones, which are imported
_VOCABULARY = {
    "typing", "collections", "pydantic", "annotated_types", "math", "types", "hardlab.numbers", "hardlab.errors",
}  # fmt: skip


class Unreadable(Exception):
    """The source alone does not determine the signature: import the module."""


def signature(path: str) -> dict[str, inspect.Parameter]:
    """The parameters of ``"module:attribute"``, a function or the constructor of a class, with evaluated annotations.

    A module that is not loaded yet is read, not imported. It is imported only if its source does not determine the
    signature: a decorated function, a base class from another library, a computed annotation or default. ``self`` is
    left out; a parameter without annotation has ``Any``.
    """
    module, _, attribute = path.partition(":")
    if module not in sys.modules:
        try:
            return read(path)
        except Unreadable:
            pass
    return inspected(getattr(importlib.import_module(module), attribute))


@cache
def read(path: str) -> dict[str, inspect.Parameter]:
    """As ``signature``, from the source alone. Raises Unreadable."""
    module, _, attribute = path.partition(":")
    source, node = _defined(Source.of(module), attribute)
    if isinstance(node, ast.ClassDef):
        source, node = _constructor(source, node)
        return dict(list(source.parameters(node).items())[1:])
    return source.parameters(node)


def attribute(path: str, key: str) -> Any:
    """The class attribute ``key`` of ``"module:class"``, read from the source if possible, as ``signature``.

    A static method is one too, if the names in it lead to functions and values that the source states plainly.
    """
    module, _, name = path.partition(":")
    if module not in sys.modules:
        try:
            return read_attribute(path, key)
        except Unreadable:
            pass
    return getattr(getattr(importlib.import_module(module), name), key)


@cache
def read_attribute(path: str, key: str) -> Any:
    """As ``attribute``, from the source alone. Raises Unreadable."""
    source, _, own = _bound(path, key)
    if isinstance(own, ast.Assign | ast.AnnAssign) and own.value is not None:
        return source.value(own.value)
    if isinstance(own, ast.FunctionDef) and [ast.unparse(d) for d in own.decorator_list] == ["staticmethod"]:
        return source.function(own)
    raise Unreadable(f"{path}.{key}")


def binder(path: str, key: str) -> str:
    """The name of the class, of ``"module:class"`` and its bases, that defines ``key``; read as by ``attribute``."""
    module, _, name = path.partition(":")
    if module not in sys.modules:
        try:
            return _bound(path, key)[1].name
        except Unreadable:
            pass
    made = getattr(importlib.import_module(module), name)
    return next(cls.__name__ for cls in made.__mro__ if key in vars(cls))


def inspected(cls: Any) -> dict[str, inspect.Parameter]:
    """As ``signature``, of the function or class itself."""
    function = cls.__init__ if inspect.isclass(cls) else cls
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.items())[inspect.isclass(cls) :]
    return {name: p.replace(annotation=hints.get(name, Any)) for name, p in parameters}


def text(module: str) -> str:
    """The source of a module, without importing it. Raises HardlabError if it has none, or ImportError."""
    spec = sys.modules[module].__spec__ if module in sys.modules else importlib.util.find_spec(module)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
    if not str(spec.origin).endswith(".py"):
        raise HardlabError(f"{module} has no source code that identifies its version: write it in a Python file.")
    return Path(str(spec.origin)).read_text(encoding="utf-8")


def texts(made: type) -> list[str]:
    """The sources of a class and its bases, except for bases from hardlab or an installed library."""
    words: list[str] = []
    for cls in made.__mro__:
        if cls.__module__.split(".")[0] in ("builtins", "hardlab", "torch", "typing", "abc"):
            continue
        loaded = sys.modules.get(cls.__module__)
        if cls.__module__ != "__main__" and getattr(loaded, "__spec__", None) is not None:
            words.append(text(cls.__module__))
        else:
            words.append(_script(cls) or _cell(cls))
    return list(dict.fromkeys(words))


def file(cls: type) -> Path | None:
    """The file or script that defines a class; None for a class of a notebook's cell."""
    where = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(where) if where and (cls.__module__ != "__main__" or _script(cls)) else None


def _files(cls: type) -> list[str]:
    """The file names under which the functions of a class were compiled."""
    functions = (inspect.unwrap(f) for f in vars(cls).values() if inspect.isfunction(f))
    return [f.__code__.co_filename for f in functions]


def _class(source: str, name: str) -> ast.ClassDef | None:
    """The source text of the statement that defines a class."""
    nodes = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == name)
    return next(nodes, None)


def _script(cls: type) -> str | None:
    """The text of the script, running as ``__main__``, that defines a class; None for a class from a notebook cell."""
    script = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if script is None or not Path(script).is_file():
        return None
    files = _files(cls)
    if files and Path(script).resolve() not in [Path(f).resolve() for f in files]:
        return None
    source = Path(script).read_text(encoding="utf-8")
    return source if _class(source, cls.__name__) else None


def _cell(cls: type) -> str:
    """The text of a class from a notebook cell, located through one of its functions."""
    for file in _files(cls):
        node = _class("".join(linecache.getlines(file)), cls.__name__)
        if node is not None:
            return ast.unparse(node)
    raise HardlabError(
        f"The source of {cls.__qualname__} cannot be read: define the class in a cell or file, with a function in it."
    )


class Source(Mapping[str, Any]):
    """The top-level names of a module, evaluated on demand: literals, aliases, and imports from the light modules."""

    def __init__(self, module: str) -> None:
        try:
            spec = importlib.util.find_spec(module)  # imports the parent packages
        except ModuleNotFoundError:
            spec = None
        if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
            raise Unreadable(module)
        self.module = module
        self.package = module if spec.submodule_search_locations else module.rpartition(".")[0]
        self.nodes: dict[str, ast.stmt] = {}
        for node in ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8")).body:
            for name in _binds(node):
                self.nodes[name] = node

    @staticmethod
    @cache
    def of(module: str) -> Source:
        """The source of a module, parsed once."""
        return Source(module)

    def __iter__(self) -> typing.Iterator[str]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> Any:
        node = self.nodes[name]  # a KeyError leads to the builtins
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            return self.value(node.value)
        if isinstance(node, ast.ImportFrom):
            origin, original = self.origin(node, name)
            if {origin, origin.split(".")[0]} & _VOCABULARY:
                return getattr(importlib.import_module(origin), original)
            return Source.of(origin)[original]
        if isinstance(node, ast.Import):
            alias = next(a for a in node.names if name in (a.asname, a.name))
            if alias.name.split(".")[0] in _VOCABULARY:
                return importlib.import_module(alias.name)
        raise Unreadable(f"{self.module}:{name}")

    def origin(self, node: ast.ImportFrom, name: str) -> tuple[str, str]:
        """The module of a ``from ... import`` statement, and the name of ``name`` in it."""
        alias = next(a for a in node.names if name in (a.asname, a.name))
        relative = "." * node.level + (node.module or "")
        return importlib.util.resolve_name(relative, self.package), alias.name

    def value(self, node: ast.expr) -> Any:
        """The value of an expression; text is a postponed annotation."""
        try:
            return eval(compile(ast.Expression(node), self.module, "eval"), {}, self)
        except Unreadable:
            raise
        except Exception as e:
            raise Unreadable(f"{self.module}: {ast.unparse(node)}: {e}") from e

    def function(self, node: ast.FunctionDef) -> Callable[..., Any]:
        """A function made of its statement alone, with those names of the module that it uses; annotations are text."""
        bare = copy.deepcopy(node)
        bare.decorator_list = []
        inside = {name.id for part in [*bare.body, *bare.args.defaults] for name in ast.walk(part)
                  if isinstance(name, ast.Name)}  # fmt: skip
        scope = {name: self.used(name) for name in sorted(inside & self.nodes.keys())}
        flags = __future__.annotations.compiler_flag
        exec(compile(ast.Module([bare], []), self.module, "exec", flags=flags, dont_inherit=True), scope)
        made: Callable[..., Any] = scope[node.name]
        return made

    def used(self, name: str) -> Any:
        """What a function uses under this name: another function, or a value."""
        try:
            source, node = _defined(self, name)
        except Unreadable:
            return self[name]
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            return source.function(node)
        return self[name]

    def parameters(self, node: ast.stmt) -> dict[str, inspect.Parameter]:
        """The parameters of a function; those without a default are no options, so their annotations are skipped."""
        if not isinstance(node, ast.FunctionDef) or node.decorator_list:
            raise Unreadable(self.module)
        a = node.args
        places = [*a.posonlyargs, *a.args]
        defaults: list[ast.expr | None] = [None] * (len(places) - len(a.defaults)) + list(a.defaults)
        kinds: list[Any] = [inspect.Parameter.POSITIONAL_ONLY] * len(a.posonlyargs)
        kinds += [inspect.Parameter.POSITIONAL_OR_KEYWORD] * len(a.args)
        rows: list[tuple[ast.arg, Any, ast.expr | None]] = list(zip(places, kinds, defaults, strict=True))
        rows += [(a.vararg, inspect.Parameter.VAR_POSITIONAL, None)] if a.vararg else []
        rows += [(p, inspect.Parameter.KEYWORD_ONLY, d) for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
        rows += [(a.kwarg, inspect.Parameter.VAR_KEYWORD, None)] if a.kwarg else []
        return {p.arg: self._parameter(p, kind, default) for p, kind, default in rows}

    def _parameter(self, node: ast.arg, kind: Any, default: ast.expr | None) -> inspect.Parameter:
        if default is None:
            return inspect.Parameter(node.arg, kind)
        annotation = Any if node.annotation is None else self.value(node.annotation)
        if isinstance(annotation, str):
            annotation = self.value(ast.parse(annotation, mode="eval").body)
        return inspect.Parameter(node.arg, kind, default=self.value(default), annotation=annotation)


def _binds(node: ast.stmt) -> list[str]:
    """The names that a top-level statement of a module binds."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [a.asname or a.name for a in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [t.id for t in targets if isinstance(t, ast.Name)]


def _defined(source: Source, name: str) -> tuple[Source, ast.stmt]:
    """The source and statement that define a class or function, found by following imports."""
    node = source.nodes.get(name)
    if isinstance(node, ast.ImportFrom):
        origin, original = source.origin(node, name)
        return _defined(Source.of(origin), original)
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
        raise Unreadable(f"{source.module}:{name}")
    return source, node


def _bound(path: str, key: str) -> tuple[Source, ast.ClassDef, ast.stmt]:
    """The source, class and statement that bind the attribute ``key`` of ``"module:class"``. Raises Unreadable."""
    module, _, name = path.partition(":")
    source, node = _defined(Source.of(module), name)
    while isinstance(node, ast.ClassDef):
        for own in node.body:
            if key in _binds(own):
                return source, node, own
        source, node = _base(source, node)
    raise Unreadable(f"{path}.{key}")


def _constructor(source: Source, node: ast.ClassDef) -> tuple[Source, ast.stmt]:
    """``__init__`` of a class or of its only base; None for a class without ``__init__`` and base."""
    if node.decorator_list or node.keywords:
        raise Unreadable(f"{source.module}:{node.name}")
    for own in node.body:
        if isinstance(own, ast.FunctionDef) and own.name == "__init__":
            return source, own
        if getattr(own, "name", None) == "__new__":
            raise Unreadable(f"{source.module}:{node.name}")
    if not node.bases:
        return source, ast.parse("def __init__(self): ...").body[0]
    return _constructor(*_base(source, node))


def _base(source: Source, node: ast.ClassDef) -> tuple[Source, ast.ClassDef]:
    """The one base of a class. Raises Unreadable if it has none, several, or one that is an expression."""
    if len(node.bases) != 1 or not isinstance(node.bases[0], ast.Name):
        raise Unreadable(f"{source.module}:{node.name}")
    above, base = _defined(source, node.bases[0].id)
    if not isinstance(base, ast.ClassDef):
        raise Unreadable(f"{source.module}:{node.name}")
    return above, base
