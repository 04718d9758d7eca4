"""The tables of labeling methods and of contrast kinds, as the manual and the README show them."""

from __future__ import annotations

from collections.abc import Sequence

from markdown_text import escape, table

from csp_index.contrast.kinds import CONTRAST_KINDS
from csp_index.labelling.methods import METHODS, RECOMMENDED, MethodInfo


def method_table() -> str:
    """Return the table of the methods with what each takes."""
    heads = ["`--method`", "score of a label", "activating images", "contrastive images of each", "options", "source"]
    rows = [
        [f"`{name}`", _summary(name, info), _images(info), _partners(info), _options(info.options), info.source]
        for name, info in METHODS.items()
    ]
    return table(heads, rows)


def short_method_table() -> str:
    """Return the table of the methods for a first look."""
    rows = [
        [f"`{name}`", _summary(name, info), info.contrast or ("yes" if info.needs_contrast else "no")]
        for name, info in METHODS.items()
    ]
    return table(["`--method`", "score of a label", "needs contrast"], rows)


def contrast_table() -> str:
    """Return the table of the kinds of contrastive images."""
    rows = [
        [f"`{name}`", escape(info.summary), "made" if info.made else "indexed", _options(info.options), info.source]
        for name, info in CONTRAST_KINDS.items()
    ]
    return table(["`--contrast`", "the partner of an activating image", "images", "options", "source"], rows)


def _summary(name: str, info: MethodInfo) -> str:
    return f"{escape(info.summary)} (the default)" if name == RECOMMENDED else escape(info.summary)


def _images(info: MethodInfo) -> str:
    if info.ignores_images:
        return "none"
    if info.needs_correlation:
        return f"all; {info.examples} are shown"
    return f"{info.examples}, and all for the response" if info.needs_response else str(info.examples)


def _partners(info: MethodInfo) -> str:
    return f"{info.neighbours}{f', {info.contrast}' if info.contrast else ''}" if info.needs_contrast else "none"


def _options(fields: Sequence[str]) -> str:
    """Return fields of options as the command line writes them."""
    return ", ".join(f"`--{field.replace('_', '-')}`" for field in fields)
