"""What goes over the wire to a chat endpoint: the body of a request, a reply, the server's words. Does no I/O.

The protocol is the one of OpenAI's chat completions, which vLLM, Ollama, llama.cpp and hosted services speak. Nothing a
server sends is trusted to have the form it should have.
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
"""What some models refuse to be told; they are asked again without it."""

_TAGS = re.compile(r"<[^>]*>")
_CUT = ("length", "content_filter")  # why a model stopped in the middle
_MOST = 2**31 - 1  # tokens; a larger count is no count


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, "" for nothing; `note` says what is odd about it, `cut` that it did not come to its end.

    Token counts are 0 where the server tells none. `served` is the model and the system fingerprint it names.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    note: str = ""
    served: str = ""
    cut: bool = False


def messages(text: str, images: Sequence[Image.Image], encoding: Encoding) -> bytes:
    """Return the JSON of one user's message: the pictures as data URLs, then the text."""
    # Base64 needs no escapes, and json would look for them in half a megabyte.
    parts = [b'{"type": "image_url", "image_url": {"url": "%s"}}' % _data_url(image, encoding) for image in images]
    parts.append(json.dumps({"type": "text", "text": text}).encode())
    return b'[{"role": "user", "content": [%s]}]' % b", ".join(parts)


def request(model: str, tokens: int, said: bytes, without: frozenset[Parameter] = frozenset()) -> bytes:
    """Return the body of a request: greedy, at most `tokens` new tokens, with the messages `said`."""
    head: dict[str, object] = {"model": model}
    if "temperature" not in without:
        head["temperature"] = 0
    # The newer name is known to fewer servers, and to the models that refuse the older one.
    head["max_completion_tokens" if "max_tokens" in without else "max_tokens"] = tokens
    return json.dumps(head).encode()[:-1] + b', "messages": ' + said + b"}"


def read_reply(data: bytes) -> Reply:
    """Return the reply in a response's body. Errors: ValueError, saying what is not as it should be."""
    found = _json(data)
    if not isinstance(found, dict):
        raise ValueError(f"the endpoint answered with something that is not JSON: {excerpt(_decoded(data))}")
    choices = found.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        raise ValueError(f"the endpoint's answer holds no choices: {server_words(data)}")
    text = _text(message.get("content"))
    note = ""
    if not text.strip() and isinstance(message.get("refusal"), str):
        text, note = storable(message["refusal"]), "the model refused"
    elif first.get("finish_reason") == "length":
        note = "it was cut off: allow more tokens"
    elif first.get("finish_reason") == "content_filter":
        note = "a content filter stopped it"
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    told = (found.get("model"), found.get("system_fingerprint"))
    return Reply(
        text,
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        note,
        " ".join(storable(word) for word in told if isinstance(word, str) and word),
        first.get("finish_reason") in _CUT,
    )


def server_words(data: bytes) -> str:
    """Return what an error's body says, in one line of at most 300 characters."""
    found = _json(data)
    if isinstance(found, dict):
        inner = found.get("error", found)
        if isinstance(inner, dict):
            inner = inner.get("message", inner.get("detail", inner))
        return excerpt(inner if isinstance(inner, str) else json.dumps(inner))
    text = _decoded(data)
    return excerpt(_TAGS.sub(" ", text) if text.lstrip().startswith("<") else text) or "no words"


def refused_parameter(status: int, data: bytes) -> Parameter | None:
    """Return the parameter that a model does not take, as the server names it in an error; else None."""
    found = _json(data) if status == 400 else None
    error = found.get("error") if isinstance(found, dict) else None
    named = error.get("param") if isinstance(error, dict) else None
    return named if named in ("max_tokens", "temperature") else None


def listed_models(data: bytes) -> dict[str, str]:
    """Return the models of a `GET /models` by name, each with what the server tells that pins it.

    That is its name, owner and root. Dates are left out: some servers give the time of the question.
    """
    found = _json(data)
    entries = found.get("data") if isinstance(found, dict) else None
    models: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            told = {name: entry[name] for name in ("id", "root", "owned_by") if isinstance(entry.get(name), str)}
            models[storable(entry["id"])] = " ".join(f"{name}={storable(word)}" for name, word in told.items())
    return models


def excerpt(text: str) -> str:
    """Return a text in one line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."


def storable(text: str) -> str:
    """Return a text that UTF-8 can hold: JSON may carry halves of characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _data_url(image: Image.Image, encoding: Encoding) -> bytes:
    with tempfile.TemporaryFile() as file:  # into a file of the system Pillow encodes without holding up other threads
        if encoding == "png":
            image.save(file, "PNG", compress_level=1)
        else:
            image.save(file, "JPEG", quality=85)
        file.seek(0)
        data = base64.b64encode(file.read())
    return b"data:image/%s;base64,%s" % (encoding.encode(), data)


def _text(content: object) -> str:
    # Some servers answer in parts, as they are asked.
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
