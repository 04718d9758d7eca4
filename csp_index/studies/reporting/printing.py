"""A page printed as PDF by Chromium, or a browser made of it: without a window, a network, or a profile of the user.

Knows nothing about what the page is. Loads no torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from csp_index import settings
from csp_index.errors import StudyError, one_line
from csp_index.files.regular_files import user_path

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
"""Names under which such a browser is looked for on the PATH, in this order."""
_ARGUMENTS: Final = (
    "--headless",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--no-first-run",
    "--no-default-browser-check",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the page needs nothing from elsewhere, and gets nothing
    "--no-pdf-header-footer",
)


def find_browser(named: str | None = None) -> str:
    """Return the browser that prints: the one named, that of the setting, or the first on the PATH. StudyError if none.

    The error says what was looked for, and what to do.
    """
    wanted = settings.BROWSER.value(named)
    if wanted:
        found = shutil.which(str(user_path(wanted)))
        if found is None:
            raise StudyError(f"the browser {wanted} is no program that can be run: name Chromium or Chrome (--browser)")
        return found
    for name in BROWSERS:
        if (found := shutil.which(name)) is not None:
            return found
    raise StudyError(
        f"no browser that prints a PDF is on the PATH (looked for {', '.join(BROWSERS)}): install Chromium, name one "
        "by --browser FILE, or leave --pdf out and print the page from a browser"
    )


def print_page(browser: str, page: Path, target: Path) -> None:
    """Print a page of HTML as a PDF file. StudyError if the browser fails, or takes longer than the setting allows."""
    seconds = settings.PRINT_SECONDS.value()
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # as root it has no other way
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *_ARGUMENTS, *root, f"--user-data-dir={profile}", f"--print-to-pdf={target.resolve()}"]
        try:
            done = subprocess.run(
                [*command, page.resolve().as_uri()], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise StudyError(
                f"{browser} did not print the page within {seconds:g} s: raise CSP_INDEX_PRINT_SECONDS"
            ) from None
        except OSError as exc:
            raise StudyError(f"{browser} cannot be run: {one_line(exc)}: name another one (--browser)") from exc
    if not _is_pdf(target):
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-200:]
        raise StudyError(f"{browser} printed no PDF (exit status {done.returncode}): {said or 'it says nothing'}")


def _is_pdf(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(5) == b"%PDF-"
    except OSError:
        return False
