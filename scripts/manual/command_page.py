"""cli.md: every command with its help, usage, examples and options, as click knows them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click
from markdown_text import block, escape, table

from csp_index.service.documents.manual import anchor

_INTRODUCTION = """\
# Command line

Every command explains itself with `--help`. A neuron is `model/layer/index` everywhere. Commands print progress on a
terminal and plain lines otherwise; `--json` prints one JSON object per line for machines.

Exit status: 0 for success, 1 for an error (one line on stderr), 2 for wrong usage. Defaults that hold for every command
are in [settings.md](settings.md).

A shell completes commands, options and their choices, files and folders after one line in its start-up file:

```sh
eval "$(_CSP_INDEX_COMPLETE=bash_source csp-index)"             # bash, in ~/.bashrc
eval "$(_CSP_INDEX_COMPLETE=zsh_source csp-index)"              # zsh, in ~/.zshrc, behind compinit
_CSP_INDEX_COMPLETE=fish_source csp-index | source              # fish, in ~/.config/fish/completions/csp-index.fish
```"""


def command_page(root: click.Group, name: str) -> str:
    """Return the page of a command line whose program is called `name`."""
    commands = list(
        _commands(
            root, click.Context(root, info_name=name, help_option_names=root.context_settings.get("help_option_names"))
        )
    )
    rows = [[f"[`{path}`](#{anchor(path)})", escape(_first(command))] for path, command, _ in commands]
    contents = table(["command", "what it does"], rows)
    return "\n\n".join([_INTRODUCTION, contents, *(_section(*one) for one in commands)])


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Go through all commands, also those of groups inside, in the order in which they were added."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        inner = click.Context(command, parent=context, info_name=name)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)
        else:
            yield inner.command_path, command, inner


def _first(command: click.Command) -> str:
    """Return the first paragraph of a command's help, as one line."""
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


def _section(path: str, command: click.Command, context: click.Context) -> str:
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"## {path}"]
    examples = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            examples.append(paragraph.removeprefix("\b").strip("\n"))
        else:
            parts.append(escape(paragraph))
    parts.append(block(usage, "text"))
    parts += [block(example, "sh") for example in examples]
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    parts.append("\n".join(_option(option, context) for option in options))
    return "\n\n".join(part for part in parts if part)


def _option(option: click.Option, context: click.Context) -> str:
    names = " / ".join([", ".join(option.opts), *option.secondary_opts])
    notes = ["required"] if option.required else []
    notes += ["can be repeated"] if option.multiple else []
    notes += [bounds] if (bounds := _bounds(option.type)) else []
    default = option.get_default(context)
    if isinstance(default, str | int | float) and not option.is_flag:
        notes.append(f"default `{default}`")
    note = f" ({', '.join(notes)})" if notes else ""
    return f"- `{names}{_value(option, context)}`{note}: {escape(option.help or '')}"


def _value(option: click.Option, context: click.Context) -> str:
    """Return what follows an option, in front of it a space; nothing after a flag."""
    if option.is_flag:
        return ""
    if option.metavar is None and isinstance(option.type, click.Choice):
        return " " + "|".join(map(str, option.type.choices))
    return " " + (option.metavar or option.type.name.removesuffix(" range").upper())


def _bounds(kind: click.ParamType[Any]) -> str:
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    if kind.min is not None and kind.max is not None:
        return f"{kind.min} to {kind.max}"
    return f"at least {kind.min}" if kind.min is not None else f"at most {kind.max}"
