"""The command that shows everything at work: demo."""

from __future__ import annotations

import click

from csp_index.cli.output import json_option


@click.command()
@click.argument("directory", default="csp-demo", metavar="[DIR]")
@json_option
def demo(directory: str, as_json: bool) -> None:
    """Render a small world with planted neurons, index it, label it by every method, and compare with the truth.

    Needs no network. DIR (csp-demo) receives the pictures, two indexes and three cards.

    \b
    csp-index demo
    """
    from csp_index.demo.run import run_demo

    run_demo(directory, as_json=as_json)


COMMANDS = (demo,)
