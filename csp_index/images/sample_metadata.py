"""What files beside an image say about it: a .json (an object's fields), a .txt (a caption) and a .cls (a number).

webdataset keeps them as members of a tar shard, img2dataset and programs for captions also as files in a folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from csp_index.errors import SourceError
from csp_index.files.regular_files import decoded

METADATA_ENDINGS = frozenset({"json", "cls", "txt"})
_DEEPEST = 64  # lists and objects inside each other that metadata may have


def sample_metadata(ending: str, data: bytes) -> Mapping[str, object]:
    """Return the metadata in a member or file. Raises SourceError for what could not be stored with an image."""
    try:
        text = decoded(data)[0].strip()
    except ValueError:  # no text: what can be read of it is shown
        text = data.decode("utf-8", "replace").strip()
    if ending == "txt":
        return {"txt": text}
    if ending == "cls":
        return {"cls": _number(text) if text.removeprefix("-").isdecimal() else text}
    try:
        value = json.loads(text)
    except ValueError:  # metadata that cannot be parsed must not cost the image
        return {"json": text}
    except RecursionError:
        value = None
    if (value is None and text != "null") or _is_deeper(value, _DEEPEST):
        raise SourceError(f"the metadata has more than {_DEEPEST} lists and objects inside each other")
    if r"\ud" in text.lower():  # an escape may name half a character, which no text can hold
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value if isinstance(value, dict) else {"json": value}


def _number(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise SourceError(f"the class number has {len(text.lstrip('-')):,} digits: expected one of 64 bits")
    return int(text)


def _is_deeper(value: object, depth: int) -> bool:
    """Return whether lists and objects lie more than `depth` deep inside each other."""
    level = [value]
    while depth >= 0 and level:
        inner = (list(one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level, depth = [item for items in inner for item in items], depth - 1
    return bool(level)
