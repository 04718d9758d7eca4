"""Hostile image files among good ones: the good are indexed, the bad recorded with a reason, and memory stays bounded.

    python scripts/chaos/hostile_images.py [--good 1000] [--bad 1000]

All files are made from a seed. Good files include odd but sound ones: rare modes, animations, wrong endings, pictures
just below the limit of pixels. Prints one row of figures, and the files that ended otherwise than they should.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

_SIDE = 40
_LARGE = 4  # pictures just below the limit of pixels: each takes seconds and memory


@dataclass(frozen=True)
class Figures:
    """What an indexing pass over good and bad files did."""

    good: int
    bad: int
    indexed: int
    recorded: int
    wrong: tuple[str, ...]
    status: int
    seconds: float
    megabytes: float
    message: str

    @property
    def row(self) -> str:
        """One row for the table of all figures."""
        return (
            f"{self.bad} hostile image files among {self.good} good ones: {self.indexed} indexed, {self.recorded} "
            f"recorded, {len(self.wrong)} otherwise, {self.megabytes:.0f} MB at most, {self.seconds:.0f} s"
        )


def _noise(draw: random.Random, mode: str = "RGB", side: int = _SIDE) -> Image.Image:
    image = Image.frombytes("RGB", (side, side), draw.randbytes(3 * side * side))
    return image if mode == "RGB" else image.convert(mode)


def _file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes, *, sound: bool = True) -> bytes:
    check = zlib.crc32(name + data) ^ (0 if sound else 1)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)


def _png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")


def _cut(kind: str) -> Callable[[random.Random], bytes]:
    def make(draw: random.Random) -> bytes:
        whole = _file(_noise(draw), kind)
        return whole[: int(len(whole) * draw.uniform(0.02, 0.6))]

    return make


def _tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A TIFF of one directory at byte 8, whose next directory is at `following`."""
    parts = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + parts + struct.pack("<I", following)


def _sized_jpeg(draw: random.Random) -> bytes:
    data = bytearray(_file(_noise(draw), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def _sized_bmp(draw: random.Random) -> bytes:
    data = bytearray(_file(_noise(draw), "BMP"))
    data[18:26] = struct.pack("<ii", 2**30, 2**30)
    return bytes(data)


def _sized_gif(draw: random.Random) -> bytes:
    data = bytearray(_file(_noise(draw, "P"), "GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


_GREY = ((256, 4, 1, 60_000), (257, 4, 1, 60_000), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 9))

BAD: dict[str, Callable[[random.Random], bytes]] = {
    **{f"cut.{kind.lower()}": _cut(kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA")},
    "empty.png": lambda draw: b"",
    "one_byte.jpg": lambda draw: b"\xff",
    "random.png": lambda draw: draw.randbytes(draw.randint(1, 5000)),
    "random.tif": lambda draw: b"II*\0" + draw.randbytes(draw.randint(1, 500)),
    "random.ico": lambda draw: b"\0\0\1\0\1\0" + draw.randbytes(40),
    "random.jpg": lambda draw: b"\xff\xd8\xff\xe0" + draw.randbytes(300),
    "random.webp": lambda draw: b"RIFF" + struct.pack("<I", 2**31) + b"WEBPVP8 " + draw.randbytes(90),
    "random.psd": lambda draw: b"8BPS\0\1" + bytes(6) + draw.randbytes(60),
    "text.png": lambda draw: b"this is no picture\n" * draw.randint(1, 100),
    "drawing.png": lambda draw: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "page.jpg": lambda draw: b"<!doctype html><script>alert(1)</script>",
    "paper.png": lambda draw: b"%PDF-1.7\n1 0 obj\n" + draw.randbytes(200),
    "script.jpg": lambda draw: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n",
    "archive.png": lambda draw: b"PK\3\4" + draw.randbytes(300),
    "program.jpg": lambda draw: b"\x7fELF" + draw.randbytes(300),
    "bomb.png": lambda draw: _png(50_000, 50_000, data=bytes(10**6)),
    "wide_bomb.png": lambda draw: _png(2**31 - 1, 1),
    "no_width.png": lambda draw: _png(0, 10),
    "bad_bits.png": lambda draw: _png(4, 4, bits=7, data=bytes(52)),
    "no_data.png": lambda draw: _png(400, 400, data=b""),
    "long_chunk.png": lambda draw: b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR" + bytes(30),
    "sized.jpg": _sized_jpeg,
    "sized.bmp": _sized_bmp,
    "sized.gif": _sized_gif,
    "bomb.tif": lambda draw: _tiff(*_GREY),
    "circle.tif": lambda draw: _tiff((256, 4, 1, 4), following=8),
    "far.tif": lambda draw: _tiff((273, 4, 2**31, 2**31), (256, 4, 1, 4), following=2**31),
    "many.tif": lambda draw: b"II*\0" + struct.pack("<IH", 8, 65_535) + bytes(12 * 3000),
}


def _noisy_png(mode: str, draw: random.Random) -> bytes:
    return _file(_noise(draw, mode))


GOOD: dict[str, Callable[[random.Random], bytes]] = {
    "plain.png": lambda draw: _file(_noise(draw)),
    "plain.jpg": lambda draw: _file(_noise(draw), "JPEG"),
    "plain.webp": lambda draw: _file(_noise(draw), "WEBP"),
    "other_ending.jpg": lambda draw: _file(_noise(draw)),
    "other_ending.png": lambda draw: _file(_noise(draw), "TIFF"),
    "moving.gif": lambda draw: _file(
        _noise(draw, "P"), "GIF", save_all=True, append_images=[_noise(draw, "P") for _ in range(5)]
    ),
    **{f"{mode.lower()}.png": partial(_noisy_png, mode) for mode in ("1", "L", "LA", "P", "RGBA")},
    "deep.png": lambda draw: _file(_noise(draw, "L").convert("I").convert("I;16")),
    "deep.tif": lambda draw: _file(_noise(draw, "F"), "TIFF"),
    "print.jpg": lambda draw: _file(_noise(draw, "CMYK"), "JPEG"),
    "behind.png": lambda draw: _file(_noise(draw)) + draw.randbytes(1000),
    # What stands beside the pixels never costs the picture.
    "bad_check.png": lambda draw: _png(4, 4, _chunk(b"gAMA", b"\0\0\0\1", sound=False), data=bytes(52)),
    "text_bomb.png": lambda draw: _png(
        4, 4, _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9)), data=bytes(52)
    ),
}


def _bad_links(folder: Path, number: int) -> list[Path]:
    """Make what is no file: links to devices, pipes and nowhere, and a file of a terabyte of zeros."""
    paths = [folder / f"bad-{number:05d}-{name}.png" for name in ("zero", "pipe", "nowhere", "itself", "long")]
    zero, pipe, nowhere, itself, long = paths
    zero.symlink_to("/dev/zero")
    os.mkfifo(pipe)
    nowhere.symlink_to(folder / "none.png")
    itself.symlink_to(itself)
    with long.open("wb") as file:
        file.truncate(2**40)
    return paths


def make_files(folder: Path, good: int, bad: int) -> tuple[set[str], set[str]]:
    """Write the files, and return the names of the good and of the bad ones."""
    folder.mkdir(parents=True)
    names: tuple[set[str], set[str]] = set(), set()
    names[1].update(path.name for path in _bad_links(folder, 0))
    for kinds, count, found, word in ((GOOD, good, names[0], "good"), (BAD, bad, names[1], "bad")):
        number = 0
        while len(found) < count:
            number += 1
            if word == "good" and number <= _LARGE:
                name, data = "large.png", _png(9_400, 9_400, bits=1, colour=0, data=bytes(9_400 * 1_176))
            else:
                name, make = list(kinds.items())[number % len(kinds)]
                data = make(random.Random(f"{word}/{number}"))
            path = folder / f"{word}-{number:05d}-{name}"
            path.write_bytes(data)
            found.add(path.name)
    return names


def index_files(folder: Path, good: int, bad: int) -> Figures:
    """Make the files in a folder, index them by the command line, and compare what is indexed and what is recorded."""
    from csp_index.demo.network import CLIP_FOLDER, CONCEPT_LAYER, NETWORK_WEIGHTS
    from csp_index.index import open_index

    sound, hostile = make_files(folder / "images", good, bad)
    spec = ["--network", "python:csp_index.demo.network:planted_cnn", "--layers", CONCEPT_LAYER]
    spec += ["--weights", str(NETWORK_WEIGHTS), "--name", "cnn", "--encoder", f"open_clip:{CLIP_FOLDER}"]
    command = [sys.executable, "-c", "from csp_index.cli import main; main()", "index"]
    command += [str(folder / "db"), str(folder / "images"), *spec, "--decode-workers", "0", "--json"]
    root, started = str(Path(__file__).resolve().parents[2]), time.monotonic()
    with (folder / "said").open("w+b") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | {"PYTHONPATH": root})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        message = said.read()[-500:].decode("utf-8", "replace")
    seconds = time.monotonic() - started
    if process.returncode:
        return Figures(len(sound), len(hostile), 0, 0, (), process.returncode, seconds, usage.ru_maxrss / 1024, message)
    with open_index(folder / "db") as index:
        indexed = {Path(row["uri"]).name for row in index.sql("SELECT uri FROM images").rows()}
        rows = index.sql("SELECT uri, reason FROM failures").rows()
    recorded = {Path(row["uri"]).name: row["reason"] for row in rows}
    wrong = sorted(sound - indexed) + sorted(hostile & indexed) + sorted(hostile - recorded.keys())
    wrong += sorted(name for name, reason in recorded.items() if not reason or "\n" in reason or len(reason) > 400)
    return Figures(
        len(sound),
        len(hostile),
        len(indexed),
        len(recorded),
        tuple(f"{name}: {recorded.get(name, 'indexed' if name in indexed else 'lost')}" for name in wrong),
        0,
        seconds,
        usage.ru_maxrss / 1024,
        message,
    )


def main() -> int:
    """Print the row and what went otherwise; the exit status says whether anything did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--good", type=int, default=1000)
    parser.add_argument("--bad", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = index_files(Path(folder), given.good, given.bad)
    print(figures.row)
    for line in figures.wrong:
        print(f"    {json.dumps(line)}")
    if figures.status:
        print(f"status {figures.status}: {figures.message}")
    return bool(figures.wrong or figures.status)


if __name__ == "__main__":
    sys.exit(main())
