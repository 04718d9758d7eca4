"""The command verify: whether an index is whole, and what repairs it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from csp_index.cli.options import database, json_option, opening_options
from csp_index.cli.output import progress, say, say_json

if TYPE_CHECKING:
    from csp_index.integrity.findings import Verification


@click.command()
@database
@click.option("--full", is_flag=True, help="Check everything: all bytes, shards, statistics, pairs and lists.")
@click.option("--repair", is_flag=True, help="Repair what is broken from what is left, and check again.")
@opening_options
@json_option
def verify(
    db: str, full: bool, repair: bool, device: str | None, image_roots: tuple[str, ...], trust: bool, as_json: bool
) -> int:
    """Check that an index is whole, and name what is wrong, what that affects and what repairs it.

    Without --full, records, files, marks, order and references are checked, and seeded samples of the rest. With
    --repair, only what is broken is made again, as one new version. Exit 0 if nothing is wrong, else 1.

    \b
    csp-index verify birds.db
    csp-index verify birds.db --full --repair
    """
    from csp_index import settings
    from csp_index.integrity import verify as integrity
    from csp_index.models.index_models import Models
    from csp_index.models.weights import resolve_device
    from csp_index.store import originals

    device = settings.DEVICE.value(device)
    resolve_device(device)  # also where no model will run
    originals.allow(db, image_roots)
    find = partial(integrity.encoder_at_hand, Models(device, None, trust=trust))
    with progress() as report:
        result = integrity.verify(db, full=full, repair=repair, find_encoder=find, progress=report)
    if as_json:
        say_json(result.as_json())
    else:
        _say(result)
    return 0 if result.sound else 1


def _say(result: Verification) -> None:
    for line in result.repaired:
        say(f"repaired: {line}")
    for note in result.notes:
        say(f"note: {note}")
    for finding in result.findings:
        say(str(finding))
    say(result.summary())


COMMANDS = (verify,)
