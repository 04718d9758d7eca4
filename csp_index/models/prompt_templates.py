"""Prompt templates: the sentences a label is put into before its text is embedded.

An index stores a set as one of our names, or as its text: a title, then one template per line. It never names a file,
since the index may come from a stranger, and the file is the reader's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from csp_index.errors import SettingError
from csp_index.files.regular_files import read_text, user_path

_OWN_SETS: dict[str, tuple[str, ...]] = {
    "none": ("{}",),
    # The six of CSP, arXiv 2604.22477.
    "csp": ("{}", "{}-like", "a {}", "an image of a {}", "a closeup of a {}", "an image of a closeup of {}"),
}
TEMPLATE_SETS: tuple[str, ...] = (*_OWN_SETS, "openai")
"""The names of the sets: ``none``, ``csp`` (the paper's six) and ``openai`` (80 sentences for ImageNet)."""


def templates(name: str) -> tuple[str, ...]:
    """Return the templates of a set, by its name or text, or those in a text file, one per line.

    Each holds exactly one ``{}``.

    >>> templates("csp")[:3]
    ('{}', '{}-like', 'a {}')
    """
    if name in _OWN_SETS:
        return _OWN_SETS[name]
    if name == "openai":
        return _openai()
    if is_text(name):
        title, *lines = name.split("\n")
        return _checked(lines, f"the template set {title!r}")
    return _from_file(name)


def is_text(name: str) -> bool:
    """Return whether a template set is given by its text."""
    return "\n" in name


def as_stored(name: str) -> str:
    """Return what an index stores of a set that a user gives: its name, or the text of its file behind its title.

    >>> as_stored("openai")
    'openai'
    """
    if name in TEMPLATE_SETS or is_text(name):
        return name
    return "\n".join([Path(name).stem, *_from_file(name)])


def from_index(stored: str) -> str:
    """Return a set that an index stores. Raises SettingError for one that is neither a name of ours nor a text."""
    if stored in TEMPLATE_SETS or is_text(stored):
        return stored
    raise SettingError(
        f"the index names the template file {stored!r}, and an index never opens one of your files: give the templates "
        "again (--templates FILE, or one of none, csp, openai)"
    )


@cache
def _openai() -> tuple[str, ...]:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def fill(template: str, text: str) -> str:
    """Return the template with the text in place of its ``{}``; braces in the text stay unchanged."""
    return template.replace("{}", text, 1)


def _from_file(name: str) -> tuple[str, ...]:
    path = user_path(name)
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as exc:
        known = ", ".join(TEMPLATE_SETS)
        raise SettingError(
            f"template set {name!r} is unknown (has: {known}; or a text file, one template a line)"
        ) from exc
    return _checked(lines, f"the template file {path}")


def _checked(lines: Sequence[str], where: str) -> tuple[str, ...]:
    result = tuple(line.strip() for line in lines if line.strip())
    if not result:
        raise SettingError(f"{where} is empty: write one template with {{}} a line")
    for line in result:
        if line.count("{}") != 1:
            raise SettingError(
                f"the template {line!r} in {where.removeprefix('the template file ')} must hold exactly one {{}}"
            )
    return result
