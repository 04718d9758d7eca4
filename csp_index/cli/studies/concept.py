"""The command about a word over all layers: concept."""

from __future__ import annotations

from typing import Any

import click

from csp_index.cli.options import (
    encoder_option,
    json_option,
    read_database,
    templates_option,
    top_option,
    trust_option,
    version_option,
)
from csp_index.cli.output import say, say_json

_WAYS = {
    "labeled": "labeled so",
    "parts": "longer label",
    "near": "near",
    "candidates": "candidate",
}


@click.command()
@read_database
@click.argument("word")
@top_option(12, "Neurons of each way.")
@templates_option
@encoder_option
@trust_option
@version_option
@json_option
def concept(db: str, word: str, trust: bool, version: str | None, as_json: bool, **options: Any) -> None:
    """Say which neurons of all layers answer to WORD, in three ways kept apart.

    Neurons whose label is the word, or has it; neurons whose concept vectors are nearer to it than to chance words; and
    those that have another label, and the word among their stored candidates. Each with its cosine, its place as a
    candidate, and the AUROC for images of the class that the word names, where neurons were compared with it
    (`csp-index associations`). A neuron that answers in several ways has one line, in the strongest; the JSON has the
    lists of all ways and, as `groups`, each neuron once.

    \b
    csp-index concept birds.db striped
    """
    from csp_index.index import open_index
    from csp_index.studies.concepts.wording import ways_of

    found = open_index(db, trust=trust, version=version).concept(word, **options)
    if as_json:
        say_json(found.as_json())
        return
    say(found.sentence)
    for group in found.found.groups:
        for one in group.neurons:
            say(_WAYS[group.way], str(one.neuron), one.label or "(no label)", ways_of(one))
    for line in found.lines():
        say(line, err=True)


COMMANDS = (concept,)
