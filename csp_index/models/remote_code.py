"""Files of a model are settings and tensors, never code: what the libraries of models would run is refused.

A configuration of transformers may name code that lies beside it (`auto_map`), and open_clip hands a configuration's
`tokenizer_kwargs` to transformers as they are, `trust_remote_code` among them. Knows nothing about indexes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from csp_index.errors import ModelError, one_line
from csp_index.models.hub import why_not_downloaded

NEVER: Final[dict[str, Any]] = {"trust_remote_code": False}
"""The keyword for every `from_pretrained`: without it transformers asks at the terminal, and a file may answer."""


@contextmanager
def no_questions() -> Iterator[None]:
    """Let transformers refuse a model's own code where a library in between does not pass `NEVER` on."""
    from transformers import dynamic_module_utils

    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE  # at 0, as in continuous integration, it does not ask
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


def safe_tokenizer(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that overrule what an open_clip configuration's `text_cfg` tells transformers' tokenizers."""
    return dict(NEVER) if text.get("hf_tokenizer_name") else {}


def cannot_load(what: str, exc: Exception) -> ModelError:
    """Return the error for a model that a library cannot load; it says so where the reason is the model's own code."""
    message = str(exc)
    if any(words in message for words in ("trust_remote_code", "custom code", "remote code")):
        return ModelError(f"{what} needs code of its own, which is never run: name a model that its library supports")
    if (reason := why_not_downloaded(exc)) is not None:
        return ModelError(
            f"{what} is not on this machine and cannot be downloaded ({reason}): give a local directory in "
            "place of its name, for a network also its weights (--weights FILE), or random ones (NAME/none)"
        )
    return ModelError(f"{what} cannot be loaded: {one_line(exc)}")
