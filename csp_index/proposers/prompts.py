"""Prompts for models that see a neuron's images, and strict parsing of their answers.

Knows nothing about models or pictures. An answer is accepted only in the requested form; anything else is an error with
a reason, so that no candidate is ever guessed from prose.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from csp_index.errors import ProposerError
from csp_index.files.regular_files import read_text, user_path

PLACEHOLDERS: Final = ("examples", "contrasts", "concepts", "words")
SEPARATOR: Final = "---"
"""The line of a prompt file between its text for two sets and its text for activating images only."""

_BOM = "\ufeff"  # an editor puts it before a text; joined files have it within
_IN_BRACES = re.compile(r"\{\s*+(\w*)\s*\}")  # possessive: what does not match is looked at once
_THOUGHTS = re.compile(r"\A\s*+(?:<think(?:ing)?>)?.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OPEN_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>", re.IGNORECASE)
_FENCE = re.compile(r"\A```[\w-]*[ \t]*\n(.*)\n[ \t]*```\Z", re.DOTALL)
_BULLET = re.compile(r"\s*(?:[-*+\u2022\u2013]|\(?\d{1,2}[.)])\s+(.*\S)\s*")
_ASIDE = re.compile(r"[:;!?](?:\s|\Z)|\s[\u2013\u2014-]\s")  # in a list item: an explanation, not a name
_REFUSALS = re.compile(
    r"i(?:['\u2019]m| am| can(?:not)?| do| could| would| see| think)\b.*|(?:sorry|unable|cannot|can['\u2019]t)\b.*"
    r"|no (?:common|clear|shared|single)\b.*|none|nothing|unknown|unclear|n/?a",
    re.IGNORECASE,
)
_LONGEST = 200  # characters of one concept
_CLOSED = ("]", "}", "```")  # the end of a complete list

_ANSWER_FORM = """\
Answer with a JSON list of {concepts} strings, the best first, and nothing else. Each string names one concept in at
most {words} words: an object, a part, a material, a colour, a pattern, a shape, a scene or an action.
Form: ["...", "..."]"""

_CONTRASTIVE = (
    """\
One unit of a vision network reacts to something in images. Here are two sets of images, each laid out as a grid.
Set A (images: {examples}) makes the unit react strongly. Set B (images: {contrasts}) looks much
like set A but leaves the unit silent.
With two pictures, the first is set A and the second is set B; in a single picture, headings mark the two sets.
Find what is present in all images of set A and absent from set B. What both sets share is not the answer.
"""
    + _ANSWER_FORM
)

_POSITIVE = (
    """\
One unit of a vision network reacts to something in images. The picture is a grid of {examples} images, and each makes
the unit react strongly. Find what is present in all of them.
"""
    + _ANSWER_FORM
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A model's prompt: one text for activating and contrastive images, one for activating images alone."""

    name: str
    contrastive: str
    positive: str

    def __post_init__(self) -> None:
        """Refuse an empty text and an unknown placeholder."""
        for text in (self.contrastive, self.positive):
            if not text.strip():
                raise ProposerError(f"the prompt {self.name!r} has an empty text: write what to ask the model")
            for match in _IN_BRACES.finditer(text):
                if match[1] not in PLACEHOLDERS:
                    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                    raise ProposerError(
                        f"the prompt {self.name!r} has the unknown placeholder {match[0]} (has: {known})"
                    )
        if "contrasts" in _IN_BRACES.findall(self.positive):
            raise ProposerError(
                f"the prompt {self.name!r} has {{contrasts}} in its text for activating images only: remove it"
            )

    @property
    def text(self) -> str:
        """Both texts as in a prompt file; the prompt's hash is that of this text."""
        return f"{self.contrastive}\n{SEPARATOR}\n{self.positive}"

    def say(self, examples: int, contrasts: int, concepts: int = 3, words: int = 4) -> str:
        """Return the text for these numbers of images; without contrastive images, the one for activating images alone.

        >>> Prompt("mine", "{examples} against {contrasts}", "{examples}: {concepts} x {words}").say(9, 0)
        '9: 3 x 4'
        """
        values = {"examples": examples, "contrasts": contrasts, "concepts": concepts, "words": words}
        return _IN_BRACES.sub(lambda match: str(values[match[1]]), self.contrastive if contrasts else self.positive)


PROMPTS: Final = {"concepts": Prompt("concepts", _CONTRASTIVE, _POSITIVE)}
"""The built-in prompts, by name."""


def load_prompt(name_or_file: str) -> Prompt:
    """Return a built-in prompt (`concepts`), or the one in a text file.

    The file has the text for two sets, a line `---`, and the text for activating images only. Without that line, its
    text is used for both, unless it contains {contrasts}: then a neuron without contrastive images gets the built-in
    text. Errors: ProposerError for a file that cannot be read, is empty, or has an unknown placeholder.
    """
    if name_or_file in PROMPTS:
        return PROMPTS[name_or_file]
    path = user_path(name_or_file)
    try:
        lines = read_text(path).replace(_BOM, "").splitlines()
    except (OSError, ValueError) as exc:
        raise ProposerError(
            f"prompt {name_or_file!r} is not built in (has: {', '.join(PROMPTS)}) and not a readable text file"
        ) from exc
    parts = _split(lines)
    if len(parts) > 2:
        raise ProposerError(
            f"the prompt file {path} has {len(parts) - 1} lines '{SEPARATOR}': expected at most one, between two texts"
        )
    if len(parts) == 1:
        parts.append(PROMPTS["concepts"].positive if "contrasts" in _IN_BRACES.findall(parts[0]) else parts[0])
    return Prompt(path.stem, parts[0], parts[1])


def prompt_hash(text: str) -> str:
    """Return 16 hexadecimal digits that identify a prompt's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_answer(raw: str, concepts: int, words: int, cut: bool = False, note: str = "") -> tuple[tuple[str, ...], str]:
    """Return the concepts of an answer, as `parse_answer`, and a remark; () and the reason, if it cannot be parsed.

    An answer that was `cut` off may end in half a word: of a list of lines, the complete ones are read. `note` is added
    to the remark.

    >>> read_answer("- red star\\n- blue pat", 3, 4, cut=True, note="stopped after 8 tokens")
    (('red star',), 'the last line of the answer is left out (stopped after 8 tokens)')
    """
    suffix = f" ({note})" if note else ""
    incomplete = cut and not raw.rstrip().endswith(_CLOSED)
    if incomplete:
        complete_lines, _, rest = raw.rpartition("\n")
        with suppress(ProposerError):
            remark = f"the last line of the answer is left out{suffix}" if rest.strip() else ""
            return parse_answer(complete_lines, concepts, words), remark
    try:
        texts = parse_answer(raw, concepts, words)
    except ProposerError as exc:
        return (), f"{exc}{suffix}"
    return ((), f"the only item of the answer may be half a word{suffix}") if incomplete else (texts, "")


def parse_answer(raw: str, concepts: int, words: int) -> tuple[str, ...]:
    """Return the concepts of an answer, best first: 1 to `concepts` texts of 1 to `words` words each.

    Accepted are a JSON list of strings, a JSON object whose `concepts` is such a list, and a list of short phrases, one
    per line, each after a number or a bullet; a code fence around it and a block of thoughts before it are ignored.
    Spaces are normalized, texts that differ only in case or Unicode form are merged (with the first spelling), and at
    most `concepts` texts are returned. Errors: ProposerError that says why the answer cannot be parsed.

    >>> parse_answer('["Red star", "red  star", "star"]', 3, 4)
    ('Red star', 'star')
    """
    body = _without_thoughts(raw).strip()
    if fence := _FENCE.match(body):
        body = fence[1].strip()
    if not body:
        raise ProposerError("the answer is empty")
    items = _from_json(body) if body[0] in "[{" else _from_lines(body)
    if not items:
        raise ProposerError("the answer is an empty list")
    spelling_of: dict[str, str] = {}
    for item in items:
        text = " ".join(unicodedata.normalize("NFC", item).split())
        _check_concept(text, words)
        spelling_of.setdefault(text.casefold(), text)
    return tuple(spelling_of.values())[:concepts]


def _split(lines: Sequence[str]) -> list[str]:
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.strip() == SEPARATOR:
            parts.append([])
        else:
            parts[-1].append(line)
    return ["\n".join(part).strip() for part in parts]


def _without_thoughts(raw: str) -> str:
    # Some chat templates open the block themselves, so the answer has only its end.
    after = _THOUGHTS.sub("", raw, count=1)
    if _OPEN_THOUGHTS.match(after):
        raise ProposerError("the answer ends inside its thoughts: allow more new tokens")
    return after


def _from_json(body: str) -> list[str]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise ProposerError(f"the answer is not valid JSON: {_excerpt(body)}") from None
    if isinstance(document, dict):
        document = document.get("concepts")
    if not isinstance(document, list) or not all(isinstance(item, str) for item in document):
        raise ProposerError(f"the answer is not a JSON list of strings: {_excerpt(body)}")
    return document


def _from_lines(body: str) -> list[str]:
    items = []
    for line in filter(str.strip, body.splitlines()):
        match = _BULLET.fullmatch(line.strip())
        if match is None:
            raise ProposerError(f"the answer is prose, not a JSON list of strings: {_excerpt(body)}")
        item = match[1].rstrip(".,").strip("*\"'`\u201c\u201d").rstrip(".,").strip()
        if _ASIDE.search(item):
            raise ProposerError(f"an item of the answer is not a short phrase: {_excerpt(item)}")
        items.append(item)
    return items


def _check_concept(text: str, words: int) -> None:
    if not text:
        raise ProposerError("the answer has an empty concept")
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Co", "Cn") for letter in text) or "\ufffd" in text:
        raise ProposerError(f"a concept of the answer has characters that are not text: {_excerpt(text)}")
    if not any(letter.isalnum() for letter in text):
        raise ProposerError(f"a concept of the answer has no word in it: {_excerpt(text)}")
    if len(text.split()) > words:
        raise ProposerError(
            f"a concept has {len(text.split())} words, at most {words} were requested: {_excerpt(text)}"
        )
    if len(text) > _LONGEST:
        raise ProposerError(f"a concept has {len(text)} characters: expected at most {_LONGEST}: {_excerpt(text)}")
    if _REFUSALS.fullmatch(text):
        raise ProposerError(f"the answer names no concept: {_excerpt(text)}")


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    excerpt = line if len(line) <= 60 else line[:57] + "..."
    return ascii(excerpt) if any("\ud800" <= letter <= "\udfff" for letter in excerpt) else repr(excerpt)
