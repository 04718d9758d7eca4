"""What a shell completes: commands, options, their choices, folders."""

from __future__ import annotations

import pytest
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from csp_index.cli import cli


def completed(shell: type[ShellComplete], *words: str) -> list[tuple[str, str]]:
    items = shell(cli, {}, "csp-index", "_CSP_INDEX_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [(item.type, item.value) for item in items]


@pytest.mark.parametrize("shell", [BashComplete, ZshComplete, FishComplete])
def test_commands_options_and_choices(shell: type[ShellComplete]) -> None:
    assert completed(shell, "lab") == [("plain", "label")]
    assert ("plain", "--neurons") in completed(shell, "label", "birds.db", "--ne")
    assert completed(shell, "export", "birds.db", "--format", "p") == [("plain", "parquet")]


@pytest.mark.parametrize("command", ["status", "label", "serve", "mcp", "index"])
def test_the_index_is_a_folder(command: str) -> None:
    assert completed(BashComplete, command, "bir") == [("dir", "bir")]
    assert completed(BashComplete, "index", "birds.db", "ph") == [("file", "ph")]
    assert completed(BashComplete, "search", "birds.db", "--image", "ze") == [("file", "ze")]


def test_the_source_that_each_shell_reads_names_the_program() -> None:
    for shell in (ZshComplete, FishComplete):  # bash is asked for its version first
        assert "_CSP_INDEX_COMPLETE" in shell(cli, {}, "csp-index", "_CSP_INDEX_COMPLETE").source()
