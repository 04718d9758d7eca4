"""The command doctor: what indexing would do, tried on a handful of images before hours are spent."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from csp_index.cli.network_options import chosen_models, network_options
from csp_index.cli.options import (
    SOURCE_OPTIONS,
    device_option,
    dtype_option,
    images_option,
    json_option,
    source_options,
    trust_option,
    whole,
)
from csp_index.cli.output import say, say_json


@click.command()
@click.argument("place", metavar="DB_OR_SOURCE")
@network_options
@source_options
@dtype_option
@click.option("--sample", type=whole("sample"), default=8, show_default=True, help="How many images are tried.")
@device_option
@images_option
@trust_option
@json_option
def doctor(place: str, as_json: bool, device: str | None, trust: bool, **options: Any) -> int:
    """Try a few images through everything, and say what was understood; nothing is written.

    Of a source of images: its files, what metadata joined, each model's input, layers, axes and pools, whether two
    passes agree, dead neurons, and the time and bytes that indexing would take. Of an index: what it holds, and whether
    it can be extended, by new images or by the models you name. Exit 0 if everything would work, else 1, with one line
    per problem.

    \b
    csp-index doctor photos/ --encoder open_clip:ViT-B-32/laion2b_s34b_b79k \\
        --network torchvision:resnet50/IMAGENET1K_V2 --layers layer3,layer4
    csp-index doctor birds.db
    """
    encoders, networks = chosen_models(options)
    from csp_index.indexing.doctor.run import doctor as examine
    from csp_index.store.connect import is_index

    about = {name: options[name] for name in SOURCE_OPTIONS}
    wrong = [name.replace("_", "-") for name, value in about.items() if value is not None]
    if wrong and is_index(place):
        raise click.UsageError(f"--{wrong[0]} is for a source of images, and {place} is an index")
    shared = {"dtype": options["dtype"], "sample": options["sample"], "image_roots": options["image_roots"]}
    report = examine(place, encoders=encoders, networks=networks, device=device, trust=trust, **about, **shared)
    if as_json:
        say_json(asdict(report))
    else:
        for line in report.lines():
            say(line)
    return 0 if report.works else 1


COMMANDS = (doctor,)
