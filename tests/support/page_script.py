"""A page of the manual as a script: the files it writes, the commands it runs, and the outputs it shows.

A block of Python, or one without a language, is a file whose name is the last one in backquotes above it. A line of a
console block that begins with `$ ` is a command, and the lines below it are its output. A block of sh has commands that
print nothing.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checkout import ROOT

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"`([\w-]+\.(?:py|csv|txt))`")
_RUN_ID = re.compile(r"\b\d{8}T\d{12}-[0-9a-f]{6}\b")
_SECONDS = re.compile(r"\(\d+\.\d s\)")
_LONG = re.compile(r"(?<=│)\s+(-?\d+\.\d{5,})(?= │)")  # a number of a table, with its spaces
_PROGRESS = re.compile(r"^[\d,]+ of [\d,]+ .*\n", re.MULTILINE)  # what a bar is where stderr is no terminal
_OFFLINE = {"HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


@dataclass(frozen=True)
class File:
    """A file that the reader writes."""

    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command that the reader types, and the output that the page shows for it."""

    text: str
    output: str
    line: int


def steps_of(page: str) -> list[File | Command]:
    """Return what a page tells its reader to do, in order."""
    steps: list[File | Command] = []
    for block in _BLOCK.finditer(page):
        language, text = block.groups()
        line = page.count("\n", 0, block.start(2)) + 1
        if language in ("python", ""):
            steps.append(File(_FILE.findall(page, 0, block.start())[-1], text))
        elif language == "sh":
            steps += [Command(typed, "", line) for typed in text.splitlines()]
        else:
            assert language == "console" and text.startswith("$ "), f"line {line}: a block of {language!r}"
            steps += _typed(text, line)
    return steps


def _typed(text: str, line: int) -> Iterator[Command]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        length = next(n for n in range(1, len(lines) + 1) if _complete("".join(lines[:n])))
        yield Command("".join(lines[:length]).rstrip(), "".join(lines[length:]), line)
        line += len(lines)


def _complete(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:  # a quotation is open
        return False
    return not command.endswith("\\\n")


def differences(shown: str, real: str, folder: Path) -> list[str]:
    """Return the lines, as of a diff, by which a real output differs from the one a page shows.

    Run ids, seconds and the folder may differ, and in tables the last of six digits, which depends on the machine's
    threads. A line `...` of the page stands for any lines.
    """
    shown, real = _comparable(shown, folder), _comparable(real, folder)
    real = _with_numbers_of(shown, real)
    parts = [re.escape(part) for part in re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)]
    if re.fullmatch(r"(?:.*\n)*?".join(parts), real):
        return []
    return list(difflib.unified_diff(shown.splitlines(), real.splitlines(), "the page", "the output", lineterm="", n=0))


def _comparable(text: str, folder: Path) -> str:
    text = _PROGRESS.sub("", text).replace(str(folder), "...")
    text = _SECONDS.sub("(0.0 s)", _RUN_ID.sub("RUN", text))
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _with_numbers_of(shown: str, real: str) -> str:
    """Return the real output, with the shown numbers of tables where they are equal to a part in ten thousand."""
    numbers = list(_LONG.finditer(shown))
    if len(numbers) != len(_LONG.findall(real)):
        return real
    pairs = iter(numbers)
    return _LONG.sub(lambda cell: _near(next(pairs), cell), real)


def _near(shown: re.Match[str], real: re.Match[str]) -> str:
    return (shown if math.isclose(float(shown[1]), float(real[1]), rel_tol=1e-4) else real)[0]


class Reader:
    """Who types the commands of a page: in a folder of its own, offline, with the checkout's `csp-index`."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """Write `python` and `csp-index` into a folder for programs."""
        self.folder = folder.resolve()
        for name, code in (("python", ""), ("csp-index", "-c 'from csp_index.cli import main; main()' ")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {code}"$@"\n')
            program.chmod(0o755)
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        self._environment = os.environ | _OFFLINE | {"PATH": path, "PYTHONPATH": str(ROOT)}
        self._environment |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}  # in order; no threads that wait

    def follow(self, page: str) -> list[str]:
        """Do all that a page says, in order; return where an output differs from the one shown, and how."""
        complaints = []
        for step in steps_of(page):
            if isinstance(step, File):
                (self.folder / step.name).write_text(step.text, encoding="utf-8")
            elif lines := differences(step.output, self._output(step.text), self.folder):
                complaints.append("\n".join([f"line {step.line}: {step.text}", *lines]))
        return complaints

    def _output(self, command: str) -> str:
        """Type a command; return what it prints, stderr included."""
        if command.startswith("csp-index serve "):
            return self._visit(command)
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=1200,
            check=False,
        )
        return done.stdout + (f"exit status {done.returncode}\n" if done.returncode else "")

    def _visit(self, command: str) -> str:
        """Start a service, read its first page, and end it; return what it prints on stdout, as if on port 8000."""
        with subprocess.Popen(
            f"exec {command} --port 0",
            shell=True,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        ) as service:
            try:
                assert service.stdout is not None
                line = service.stdout.readline()
                address = re.search(r"http://[\d.]+:(\d+)/", line)
                assert address, f"{command} prints {line!r}"
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address[0], timeout=120) as page:
                    assert page.status == 200
            finally:
                service.send_signal(signal.SIGINT)
            return (line + service.stdout.read()).replace(f":{address[1]}/", ":8000/")
