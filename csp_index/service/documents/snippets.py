"""Commands that reproduce the label on a neuron's page: Python, command line, curl, SQL.

Pure functions of the neuron's document: the settings of the label's run say how it was made. Every name is quoted for
the language of the command, so that a hostile name stays a name.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from csp_index.labelling.methods import CROP, default_method, methods_with
from csp_index.labelling.review.words import PINNED
from csp_index.labelling.vocabularies import BUILT_IN
from csp_index.models.prompt_templates import TEMPLATE_SETS
from csp_index.records import ExampleOptions, NeuronKey, ScoringOptions
from csp_index.service.documents.neuron_shapes import ComparedNeuron, Snippets
from csp_index.store.catalog import of_layer, sql_text

BASE = "http://127.0.0.1:8000"

_DEFAULTS = {**asdict(ExampleOptions()), **asdict(ScoringOptions()), CROP: False}
_ALWAYS = ("examples", "contrast", "neighbours", "threshold")  # written even if they have the default value
_HASH = "[0-9a-f]{12}"
# `NAME@hash TEMPLATES@hash`, then ` + KINDS@hash` if models named candidates; without NAME if they named all of them.
_CANDIDATES = re.compile(
    rf"(?:(?P<vocabulary>.+@{_HASH}) )?(?P<templates>(?!\+ ).+?)@{_HASH}"
    rf"(?: \+ (?P<kinds>[a-z+]+)@{_HASH}(?P<pooled> pooled)?)?",
    re.DOTALL,
)
_ARRAYS = ("T.npy", "T.txt")  # the index does not store candidates that came as arrays


@dataclass(frozen=True, slots=True)
class _Query:
    """How a label was made: the arguments of `Index.label`, from the settings of its run."""

    name: str  # the index's
    key: NeuronKey
    method: str
    run_id: str | None = None  # None: there is no label yet
    options: dict[str, Any] = field(default_factory=dict)
    together: tuple[int, ...] = ()  # the neurons labeled together, if the method looks at them all
    vocabulary: str | None = None  # its name, if it is built in or a metadata column
    own_list: str | None = None  # the key of a vocabulary that only the index has
    templates: str | None = None
    kinds: str | None = None  # of candidates, if models named some
    pooled: bool = False
    arrays: bool = False
    encoder: str | None = None  # None: a folder, which documents do not show in full


def snippets(document: ComparedNeuron, name: str) -> Snippets:
    """Return commands that reproduce the document's label in an index called `name`, by language.

    For a neuron without a label they make one, and the SQL shows its statistics. Candidates that came as arrays appear
    as the files T.npy and T.txt, which the index does not store.
    """
    query = _query(document, name)
    return {"python": _python(query), "cli": _cli(query), "curl": _curl(query), "sql": _sql(query)}


def _query(document: ComparedNeuron, name: str) -> _Query:
    provenance = document["provenance"]
    key, run, logit_scale = NeuronKey.parse(document["neuron"]), provenance["run"], provenance["encoder"]["logit_scale"]
    method = document["method"]
    if method == PINNED:  # nothing makes a name: the commands make the label beside it
        method = run and str(run["settings"].get("method") or "")
    method = method or default_method(logit_scale)
    if run is None or not run["settings"]:
        return _Query(name, key, method, run and run["run_id"])
    settings = run["settings"]
    options = {**settings.get("scoring", {}), **settings.get("examples", {})}
    options |= {CROP: True} if CROP in settings else {}
    match = _CANDIDATES.fullmatch(settings.get("candidates", ""))
    parts = match.groupdict() if match else {}
    vocabulary, kinds, templates = (parts.get(part) for part in ("vocabulary", "kinds", "templates"))
    encoder = str(settings.get("encoder", ""))
    named = (vocabulary or "").rpartition("@")[0]
    known = named in BUILT_IN or named.startswith("metadata:")
    return _Query(
        name,
        key,
        method,
        run["run_id"],
        _shown_options(method, options, logit_scale, settings.get("kept", 0)),
        tuple(settings.get("neurons", ())),
        named if known else None,
        None if known else vocabulary,
        templates if templates in TEMPLATE_SETS else None,
        ",".join([*(["vocabulary"] if vocabulary else []), *kinds.split("+")]) if kinds else None,
        bool(parts.get("pooled")),
        match is None,
        encoder if encoder.startswith("python:") or "/" in encoder else None,
    )


def _shown_options(method: str, options: Mapping[str, Any], logit_scale: float | None, top: int) -> dict[str, Any]:
    """Return the options that differ from the defaults, and those that a reader is likely to change."""
    selected = {"gamma": options["gamma"]} if method in methods_with("gamma") and "gamma" in options else {}
    selected |= {name: options[name] for name in _ALWAYS if name in options}
    selected |= {name: value for name, value in options.items() if name in _DEFAULTS and value != _DEFAULTS[name]}
    if selected.get("logit_scale") == logit_scale:
        selected.pop("logit_scale", None)
    return selected | ({"top": top} if top > 20 else {})


def _python(query: _Query) -> str:
    lines = ["from csp_index import open_index"]
    head = [f"index = open_index({query.name!r})"]
    arguments = [f"method={query.method!r}"]
    if query.arrays:
        lines.append("from csp_index.labelling.candidates import read_text_arrays")
        arguments.append("vocabulary=read_text_arrays({!r}, {!r})".format(*_ARRAYS))
    elif query.own_list:
        lines[0] = "from csp_index import Vocabulary, open_index"
        head.append(f"rows = index.sql({_texts_of(query.own_list)!r}).rows()")
        named = query.own_list.rpartition("@")[0]
        head.append(f"vocabulary = Vocabulary({named!r}, tuple(row['text'] for row in rows))")
        arguments.append("vocabulary=vocabulary")
    elif query.vocabulary:
        arguments.append(f"vocabulary={query.vocabulary!r}")
    arguments += [f"encoder={query.encoder!r}"] if query.encoder else []
    arguments += [f"templates={query.templates!r}"] if query.templates else []
    arguments += [f"candidates={query.kinds!r}"] if query.kinds else []
    arguments += ["pool_candidates=True"] if query.pooled else []
    arguments += [f"{option}={value!r}" for option, value in query.options.items()]
    neurons, pick = repr(str(query.key)), "[0]"
    if query.together:
        spans = [f"*range({first}, {last + 1})" for first, last in _spans(query.together)]
        head += [f"layer = {str(query.key.layer_key)!r}", f"numbers = [{', '.join(spans)}]"]
        neurons = '[f"{layer}/{number}" for number in numbers]'
        pick = f"[{sorted(query.together).index(query.key.neuron)}]"
    call = "".join(f"    {argument},\n" for argument in [neurons, *arguments])
    output = "print(label.text, label.labels)"
    return "\n".join([*lines, "", *head, f"label = index.label(\n{call}){pick}", output])


def _cli(query: _Query) -> str:
    name = f"./{query.name}" if query.name.startswith("-") else query.name
    words: list[str] = ["csp-index", "label", name, "--layer", str(query.key.layer_key)]
    words += ["--neurons", _ranges(query.together or (query.key.neuron,)), "--method", query.method]
    before = ""
    if query.arrays:
        words += ["--text-embeddings", _ARRAYS[0], "--texts", _ARRAYS[1]]
    elif query.own_list:
        file = f"vocabulary-{query.own_list.rpartition('@')[2]}.csv"  # a name that no file of the reader has
        export = ["csp-index", "sql", name, _texts_of(query.own_list), "--format", "csv", "--out", file]
        before = f"{shlex.join(export)}\n"
        words += ["--vocabulary", f"{file}:text"]
    elif query.vocabulary:
        words += ["--vocabulary", query.vocabulary]
    words += ["--encoder", query.encoder] if query.encoder else []
    words += ["--templates", query.templates] if query.templates else []
    words += ["--candidates", query.kinds] if query.kinds else []
    words += ["--pool-candidates"] if query.pooled else []
    for option, value in query.options.items():
        flag = option.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return before + shlex.join(words)


def _curl(query: _Query) -> str:
    """Return a request for the stored label, or one that makes a label for a neuron without any."""
    if query.run_id is None:
        body = json.dumps({"neurons": [str(query.key)], "method": query.method})
        return shlex.join(["curl", "-s", f"{BASE}/api/v1/label", "-H", "Content-Type: application/json", "-d", body])
    place = "/".join(quote(part, safe="") for part in (query.key.model, query.key.layer, str(query.key.neuron)))
    return shlex.join(["curl", "-s", f"{BASE}/api/v1/neurons/{place}?method={quote(query.method, safe='')}"])


def _sql(query: _Query) -> str:
    neuron = f"{of_layer(query.key.layer_key)} AND neuron = {query.key.neuron}"
    if query.run_id is None:
        return f"SELECT *\nFROM neurons\nWHERE {neuron}"
    return (
        "SELECT rank, text, score, score_low, score_high, confidence, uncertain, note\n"
        f"FROM labels\nWHERE {neuron}\n    AND run_id = {sql_text(query.run_id)}\nORDER BY rank"
    )


def _texts_of(vocabulary: str) -> str:
    return f"SELECT text FROM vocabularies WHERE vocabulary = {sql_text(vocabulary)} ORDER BY position"


def _ranges(numbers: Sequence[int]) -> str:
    """Return neuron numbers in the form of `--neurons`.

    >>> _ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in _spans(numbers))


def _spans(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and the last number of each span of numbers without a gap, in order."""
    ordered = sorted(set(numbers))
    ends = [at for at, (a, b) in enumerate(pairwise(ordered)) if b != a + 1]
    starts = [0, *(at + 1 for at in ends)]
    return [(ordered[a], ordered[b]) for a, b in zip(starts, [*ends, len(ordered) - 1], strict=True)]
