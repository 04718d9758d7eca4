"""The protocol of a chat endpoint: request bodies, replies, error messages of the server. Does no I/O.

The protocol is OpenAI's chat completions, which vLLM, Ollama, llama.cpp and hosted services implement. The form of a
server's response is never trusted.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

Encoding = Literal["jpeg", "png"]
Parameter = Literal["max_tokens", "temperature"]
"""Parameters that some models refuse; the request is then repeated without them."""

_TAGS = re.compile(r"<[^<>]*>")
_CUT = ("length", "content_filter")  # reasons why a model stopped in the middle
_MOST = 2**31 - 1  # tokens; a larger count is invalid


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's text, "" for none; `note` says what is unusual about it, `cut` that it is incomplete.

    Token counts are 0 if the server reports none. `served` is the model and the system fingerprint that it names.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    note: str = ""
    served: str = ""
    cut: bool = False


def messages(text: str, images: Sequence[Image.Image], encoding: Encoding) -> bytes:
    """Return the JSON of one user message: the pictures as data URLs, then the text."""
    # Base64 needs no escapes, and json would search for them in half a megabyte.
    parts = [b'{"type": "image_url", "image_url": {"url": "%s"}}' % _data_url(image, encoding) for image in images]
    parts.append(json.dumps({"type": "text", "text": text}).encode())
    return b'[{"role": "user", "content": [%s]}]' % b", ".join(parts)


def request(model: str, tokens: int, chat: bytes, without: frozenset[Parameter] = frozenset()) -> bytes:
    """Return the body of a request: greedy, at most `tokens` new tokens, with the messages `chat`."""
    head: dict[str, object] = {"model": model}
    if "temperature" not in without:
        head["temperature"] = 0
    # Fewer servers know the newer name, but the models that refuse the older one do.
    head["max_completion_tokens" if "max_tokens" in without else "max_tokens"] = tokens
    return json.dumps(head).encode()[:-1] + b', "messages": ' + chat + b"}"


def read_reply(data: bytes) -> Reply:
    """Return the reply in a response's body. Errors: ValueError that says what is wrong with the body."""
    document = _json(data)
    if not isinstance(document, dict):
        raise ValueError(f"the endpoint answered with something that is not JSON: {excerpt(_decoded(data))}")
    choices = document.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        raise ValueError(f"the endpoint's answer has no choices: {server_words(data)}")
    text = _text(message.get("content"))
    note = ""
    if not text.strip() and isinstance(message.get("refusal"), str):
        text, note = storable(message["refusal"]), "the model refused"
    elif first.get("finish_reason") == "length":
        note = "it was cut off: allow more tokens"
    elif first.get("finish_reason") == "content_filter":
        note = "a content filter stopped it"
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    served = (document.get("model"), document.get("system_fingerprint"))
    return Reply(
        text,
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        note,
        " ".join(storable(word) for word in served if isinstance(word, str) and word),
        first.get("finish_reason") in _CUT,
    )


def server_words(data: bytes) -> str:
    """Return the message in an error's body, in one line of at most 300 characters."""
    document = _json(data)
    if isinstance(document, dict):
        inner = document.get("error", document)
        if isinstance(inner, dict):
            inner = inner.get("message", inner.get("detail", inner))
        return excerpt(inner if isinstance(inner, str) else json.dumps(inner))
    text = _decoded(data)
    return excerpt(_TAGS.sub(" ", text) if text.lstrip().startswith("<") else text) or "no message"


def refused_parameter(status: int, data: bytes) -> Parameter | None:
    """Return the parameter that a model refuses, as an error of the server names it; else None."""
    document = _json(data) if status == 400 else None
    error = document.get("error") if isinstance(document, dict) else None
    parameter = error.get("param") if isinstance(error, dict) else None
    return parameter if parameter in ("max_tokens", "temperature") else None


def listed_models(data: bytes) -> dict[str, str]:
    """Return the models of a `GET /models` by name, each with the fields that identify it.

    These are its name, owner and root. Dates are left out, because some servers report the time of the request.
    """
    document = _json(data)
    entries = document.get("data") if isinstance(document, dict) else None
    models: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            identity = {name: entry[name] for name in ("id", "root", "owned_by") if isinstance(entry.get(name), str)}
            models[storable(entry["id"])] = " ".join(f"{name}={storable(word)}" for name, word in identity.items())
    return models


def excerpt(text: str) -> str:
    """Return a text in one line of at most 300 characters."""
    line = " ".join(storable(text).split())
    return line if len(line) <= 300 else line[:297] + "..."


def storable(text: str) -> str:
    """Return a text that UTF-8 can encode: JSON may contain halves of characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _data_url(image: Image.Image, encoding: Encoding) -> bytes:
    with tempfile.TemporaryFile() as file:  # into a real file, Pillow encodes without blocking other threads
        if encoding == "png":
            image.save(file, "PNG", compress_level=1)
        else:
            image.save(file, "JPEG", quality=85)
        file.seek(0)
        data = base64.b64encode(file.read())
    return b"data:image/%s;base64,%s" % (encoding.encode(), data)


def _text(content: object) -> str:
    # Some servers answer in parts, like the request.
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return storable("".join(text for text in texts if isinstance(text, str)))


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else 0


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")
