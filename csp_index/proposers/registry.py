"""Proposers by name: `openai:BASE_URL`, `transformers:ID_OR_DIRECTORY`, `python:package.module:factory`.

A model and the library that runs it are loaded only when they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

from csp_index.errors import ProposerError
from csp_index.models.plugins import call_factory, load_plugins
from csp_index.proposers.grids import Layout
from csp_index.proposers.prompts import load_prompt
from csp_index.proposers.proposer import CandidateKind, Proposer

_NAMES = {
    "vlm": "openai:BASE_URL, transformers:ORG/NAME, transformers:/local/directory or python:package.module:factory",
    "captioner": "transformers:ORG/NAME, transformers:/local/directory or python:package.module:factory",
}


@dataclass(frozen=True, slots=True)
class ProposerOptions:
    """Options of a model; None means the model's own default. Captioners and factories use only some of them."""

    model: str | None = None  # the model's name at an endpoint
    prompt: str = "concepts"  # a built-in prompt or a file
    layout: Layout = field(default_factory=Layout)
    concepts: int = 3  # candidates requested per neuron
    words: int = 4  # per candidate, at most
    new_tokens: int | None = None  # per answer, at most
    concurrency: int | None = None  # simultaneous requests
    timeout: float | None = None  # seconds per request
    device: str = "auto"


def load_proposer(kind: CandidateKind, spec: str, options: ProposerOptions | None = None) -> Proposer:
    """Return the proposer of a kind that `spec` names. Errors: ProposerError for a spec or model that is unusable."""
    applied = options or ProposerOptions()
    library, _, name = spec.partition(":")
    known = {"vlm": ("openai", "transformers", "python"), "captioner": ("transformers", "python")}.get(kind, ())
    if library not in known or not name:
        raise ProposerError(f"{kind} {spec!r} names no model: write {_NAMES.get(kind, 'another kind')}")
    if library == "openai":
        return _remote(name, applied)
    load_plugins()  # takes seconds, and a remote model needs none
    if library == "python":
        return check_proposer(call_factory(name, ProposerError), kind, spec)
    return _captioner(spec, applied) if kind == "captioner" else _local(spec, applied)


def check_proposer(made: object, kind: CandidateKind, spec: str) -> Proposer:
    """Return the result of a factory if it is a proposer of that kind. Errors: ProposerError."""
    proposer: Any = made
    missing = [part for part in ("kind", "name", "revision", "prompt", "ask") if not hasattr(made, part)]
    if missing:
        raise ProposerError(f"{spec} made a {type(made).__name__} without {', '.join(missing)}: see Proposer")
    for part in ("name", "revision", "prompt"):
        if not isinstance(getattr(made, part), str):
            raise ProposerError(f"{spec} made a proposer whose {part} is {getattr(made, part)!r}: expected a text")
    if proposer.kind != kind:
        kinds = ", ".join(get_args(CandidateKind))
        raise ProposerError(f"{spec} made a proposer of kind {proposer.kind!r}, expected {kind} (kinds: {kinds})")
    checked: Proposer = proposer
    return checked


def _remote(base_url: str, options: ProposerOptions) -> Proposer:
    from csp_index.proposers.openai_endpoint import RemoteModel, RemoteOptions

    if not options.model:
        raise ProposerError(f"openai:{base_url} serves models by name: name one (--vlm-model NAME)")
    values = _set(options, "concepts", "words", "concurrency", "timeout", "new_tokens")
    prompt = load_prompt(options.prompt)
    return RemoteModel(base_url, options.model, prompt, options.layout, RemoteOptions(**values))


def _local(spec: str, options: ProposerOptions) -> Proposer:
    from csp_index.proposers.local_vlm import LocalModel

    values = _set(options, "concepts", "words", "device", "new_tokens")
    return LocalModel(spec, load_prompt(options.prompt), options.layout, **values)


def _captioner(spec: str, options: ProposerOptions) -> Proposer:
    from csp_index.proposers.captioner import Captioner

    return Captioner(spec, **_set(options, "device", "new_tokens"))


def _set(options: ProposerOptions, *names: str) -> dict[str, Any]:
    """Return the named options that are not None."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}
