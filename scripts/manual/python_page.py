"""python.md: the public names with their signatures, fields and docstrings.

Names are imported, to learn where they are at home; what is written about them is read from the source, so that
signatures look as they were written, and comments beside the fields of a record count as their meaning.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from markdown_text import block, escape, prose, table

from csp_index import errors
from csp_index.service.documents.manual import anchor
from csp_index.settings import SETTINGS

_WIDE = 100  # characters of a signature in one line
_INTRODUCTION = """\
# Python

The command line calls these functions and classes: what a command does, a program can do.

```python
import csp_index

index = csp_index.open_index("csp-demo/biased.db")
```

These are all public names. What stands elsewhere in the package, and every name that begins with an underscore, may
change without notice."""

#: Headings, and the names below them; public names that no heading lists come last.
_ORDER: Mapping[str, Sequence[str]] = {
    "Open an index": ("open_index", "Index", "NetworkSource"),
    "Before hours are spent": ("network_layers", "doctor", "DoctorReport", "IndexReport"),
    "Results": (
        "Labels",
        "Label",
        "LabelScore",
        "WeightedLabel",
        "LabelTerm",
        "ExamplePair",
        "SqlResult",
        "Layers",
        "LayerView",
        "NeuronView",
    ),
    "Studies of networks": ("LayerEffects", "EffectClass", "SumCheck"),
    "Addresses": ("NeuronKey", "LayerKey"),
    "Options of labels": ("ExampleOptions", "ScoringOptions"),
    "Candidate texts": ("Vocabulary", "CandidateTexts"),
    "Judged labels": ("EvaluationOptions", "Evaluation"),
    "Parts of your own": (
        "Encoder",
        "Network",
        "ScoringMethod",
        "MethodInfo",
        "Evidence",
        "Proposer",
        "Question",
        "Answer",
        "ImageGenerator",
        "VariantGenerator",
        "Original",
        "Variant",
    ),
    "Errors": tuple(name for name, value in vars(errors).items() if inspect.isclass(value)),
}


def python_page(package: ModuleType, service: ModuleType) -> str:
    """Return the page of the names in a package's `__all__`, and in that of its service."""
    public = [name for name in package.__all__ if name != "__version__"]
    groups = {title: [name for name in names if name in public] for title, names in _ORDER.items()}
    listed = {name for names in groups.values() for name in names}
    groups["More"] = [name for name in public if name not in listed]
    sections = {title: [_entry(package, name) for name in names] for title, names in groups.items()}
    sections["Serving"] = [_entry(service, name) for name in service.__all__]
    sections = {title: entries for title, entries in sections.items() if entries}
    contents = [
        f"- [{title}](#{anchor(title)}): " + ", ".join(f"[`{name}`](#{anchor(name)})" for name, _ in entries)
        for title, entries in sections.items()
    ]
    parts = [_INTRODUCTION, "\n".join(contents)]
    for title, entries in sections.items():
        parts += [f"## {title}", *(text for _, text in entries)]
    return "\n\n".join(parts)


def _entry(package: ModuleType, name: str) -> tuple[str, str]:
    """Return a public name with the text about it."""
    value = getattr(package, name)
    head = f"### {name}\n\n`from {package.__name__} import {name}`"
    if inspect.isclass(value):
        parts = [head, *_class(name, value)]
    elif inspect.isfunction(value):
        parts = [head, *_callable(_Source.of(value.__module__).node(value.__qualname__), value.__module__, name)]
    else:  # an alias of types
        parts = [head, block(f"{name} = {_definition(package, name)}", "python")]
    return name, "\n\n".join(part for part in parts if part)


@dataclass(frozen=True)
class _Source:
    """A module's text, its syntax tree, and its comments by line."""

    text: str
    tree: ast.Module
    comments: Mapping[int, str]

    @staticmethod
    @cache
    def of(module: str) -> _Source:
        """Return the source of a module that is imported."""
        text = Path(sys.modules[module].__file__ or "").read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
        return _Source(text, ast.parse(text), comments)

    def node(self, path: str) -> Any:
        """Return the definition of a class or a function at the top of the module."""
        kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        return next(node for node in self.tree.body if isinstance(node, kinds) and node.name == path)

    def written(self, node: ast.AST | None) -> str:
        """Return an expression as it was written, in one line."""
        return "" if node is None else " ".join((ast.get_source_segment(self.text, node) or "").split())

    def beside(self, node: ast.stmt) -> str:
        """Return the comments in the lines of a statement."""
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        found = [self.comments[line].lstrip("#:").strip() for line in lines if line in self.comments]
        return " ".join(text for text in found if not text.startswith(("type:", "noqa")))


def _definition(package: ModuleType, name: str) -> str:
    """Return what a name that is neither a class nor a function stands for, as its module wrote it."""
    homes = {**getattr(package, "_HOMES", {}), package.__name__: ()}
    for home in [home for home, names in homes.items() if name in names] or [package.__name__]:
        source = _Source.of(home)
        for node in source.tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    return source.written(node.value)
    return "..."


def _class(name: str, value: type) -> Iterator[str]:
    """Yield the paragraphs about a class: construction, docstring, fields, then what its instances can do."""
    source = _Source.of(value.__module__)
    node = source.node(value.__qualname__)
    has_fields = hasattr(value, "__dataclass_fields__") or getattr(value, "_is_protocol", False)
    fields = list(_fields(source, node)) if has_fields else []
    making = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    if making is not None and not issubclass(value, BaseException):
        yield block(_signature(name, _arguments(source, making.args, bound=True), ""), "python")
    yield prose(ast.get_docstring(node, clean=False))
    if fields:
        yield table(("field", "type", "default", "meaning"), fields)
    if issubclass(value, BaseException):
        return
    for owner in value.__mro__:
        if owner.__module__.split(".")[0] != value.__module__.split(".")[0]:
            continue
        for member in _Source.of(owner.__module__).node(owner.__qualname__).body:
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(member, value, owner):
                title = f"{name}.{member.name}"
                yield "\n\n".join([f"#### {title}", *_callable(member, owner.__module__, title)])


def _is_public(member: Any, value: type, owner: type) -> bool:
    """Return whether a member is shown: public, not overridden below its owner, and no overload."""
    hidden = member.name.startswith("_") or any("overload" in ast.unparse(one) for one in member.decorator_list)
    first = next(base for base in value.__mro__ if member.name in vars(base))
    return not hidden and first is owner


def _fields(source: _Source, node: ast.ClassDef) -> Iterator[tuple[str, ...]]:
    """Yield name, type, default and meaning of the fields of a record."""
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            kind, meaning = source.written(field.annotation), escape(source.beside(field))
            yield f"`{field.target.id}`", f"`{kind}`", _default(source, field.value), meaning


def _default(source: _Source, value: ast.expr | None) -> str:
    """Return the default of a field: as written, or the setting that gives it."""
    if isinstance(value, ast.Call) and source.written(value.func) == "field":
        given = {word.arg: word.value for word in value.keywords}
        made = source.written(given.get("default_factory"))
        setting = re.fullmatch(r"settings\.(\w+)\.value", made)
        if setting:
            return f"`{SETTINGS[setting[1].lower()].variable}`"
        return {"dict": "`{}`", "list": "`[]`", "tuple": "`()`"}.get(
            made, "" if made else _code(source, given.get("default"))
        )
    return _code(source, value)


def _code(source: _Source, node: ast.expr | None) -> str:
    written = source.written(node)
    return f"`{written}`" if written and not written.startswith("_") else ""


def _callable(node: Any, module: str, title: str) -> Iterator[str]:
    """Yield the signature and the docstring of a function, a method or a property."""
    source = _Source.of(module)
    marks = {source.written(one) for one in node.decorator_list}
    returns = source.written(node.returns)
    if marks & {"property", "cached_property", "functools.cached_property"}:
        yield block(f"{title}: {returns}", "python")
    else:
        bound = [one.arg for one in [*node.args.posonlyargs, *node.args.args]][:1] in (["self"], ["cls"])
        yield block(_signature(title, _arguments(source, node.args, bound), returns), "python")
    yield prose(ast.get_docstring(node, clean=False))
    yield from _options(source, node.args.kwarg, module)


def _signature(title: str, arguments: Sequence[str], returns: str) -> str:
    ending = f" -> {returns}" if returns else ""
    line = f"{title}({', '.join(arguments)}){ending}"
    if len(line) <= _WIDE:
        return line
    return "\n".join([f"{title}(", *(f"    {argument}," for argument in arguments), f"){ending}"])


def _arguments(source: _Source, given: ast.arguments, bound: bool) -> list[str]:
    """Return the arguments as written, without `self` or `cls`."""
    plain = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(plain) - len(given.defaults)), *given.defaults]
    found = [_argument(source, *pair) for pair in zip(plain, defaults, strict=True)]
    if given.posonlyargs:
        found.insert(len(given.posonlyargs), "/")
    found = found[1:] if bound else found
    if given.vararg or given.kwonlyargs:
        found.append(f"*{_argument(source, given.vararg, None)}" if given.vararg else "*")
    found += [_argument(source, *pair) for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return found + ([f"**{_argument(source, given.kwarg, None)}"] if given.kwarg else [])


def _options(source: _Source, given: ast.arg | None, module: str) -> Iterator[str]:
    """Yield the keywords behind `**options: Unpack[...]`, each with its type."""
    typed = re.fullmatch(r"Unpack\[([\w.]+)\]", source.written(given.annotation)) if given else None
    if given is None or typed is None:
        return
    kind = attrgetter(typed[1])(sys.modules[module])
    home = _Source.of(kind.__module__)
    keys = [f"`{name.strip('`')}: {kind.strip('`')}`" for name, kind, *_ in _keys(home, home.node(kind.__name__))]
    yield f"`{given.arg}`: {', '.join(keys)}."


def _keys(source: _Source, node: ast.ClassDef) -> Iterator[tuple[str, ...]]:
    """Yield the keys of a TypedDict, those of the ones it extends first."""
    for base in map(source.written, node.bases):
        if base != "TypedDict":
            yield from _keys(source, source.node(base))
    yield from _fields(source, node)


def _argument(source: _Source, given: ast.arg, default: ast.expr | None) -> str:
    kind = f": {source.written(given.annotation)}" if given.annotation else ""
    equals = " = " if kind else "="
    return f"{given.arg}{kind}{equals + source.written(default) if default else ''}"
