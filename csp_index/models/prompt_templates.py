"""Prompt templates: the sentences a label is put into before its text is embedded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from csp_index.errors import SettingError
from csp_index.regular_files import read_text

_OWN_SETS: dict[str, tuple[str, ...]] = {
    "none": ("{}",),
    # The six of CSP, arXiv 2604.22477.
    "csp": ("{}", "{}-like", "a {}", "an image of a {}", "a closeup of a {}", "an image of a closeup of {}"),
}
TEMPLATE_SETS: tuple[str, ...] = (*_OWN_SETS, "openai")
"""The names of the sets: ``none``, ``csp`` (the paper's six) and ``openai`` (80 sentences for ImageNet)."""


def templates(name: str) -> tuple[str, ...]:
    """Return the templates of a set, or those in a text file, one per line; each holds exactly one ``{}``.

    >>> templates("csp")[:3]
    ('{}', '{}-like', 'a {}')
    """
    if name in _OWN_SETS:
        return _OWN_SETS[name]
    if name == "openai":
        return _openai()
    return _from_file(name)


@cache
def _openai() -> tuple[str, ...]:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def fill(template: str, text: str) -> str:
    """Return the template with the text in place of its ``{}``; braces in the text stay unchanged."""
    return template.replace("{}", text, 1)


def _from_file(name: str) -> tuple[str, ...]:
    path = Path(name).expanduser()
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as exc:
        known = ", ".join(TEMPLATE_SETS)
        raise SettingError(
            f"template set {name!r} is unknown (has: {known}; or a text file, one template a line)"
        ) from exc
    result = tuple(line.strip() for line in lines if line.strip())
    if not result:
        raise SettingError(f"the template file {path} is empty: write one template with {{}} a line")
    for line in result:
        if line.count("{}") != 1:
            raise SettingError(f"the template {line!r} in {path} must hold exactly one {{}}")
    return result
