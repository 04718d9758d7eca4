"""Tar shards in the layout of webdataset, made from members."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from pictures import encoded, plain


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(count: int) -> dict[str, bytes]:
    parts = {"jpg": lambda n: encoded(plain((n, 0, 0)), "PNG"), "txt": lambda n: b"number %d" % n}
    parts["json"] = lambda n: json.dumps({"caption": f"number {n}", "key": f"{n:09}"}).encode()
    return {f"{n:09}.{ending}": part(n) for n in range(count) for ending, part in parts.items()}
