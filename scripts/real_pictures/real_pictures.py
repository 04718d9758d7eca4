"""Judge labels on real pictures with words that nobody here wrote: emoji of several artists, keywords by Unicode.

    python scripts/real_pictures/real_pictures.py OUT --emoji google=DIR --emoji twitter=DIR [--emoji NAME=DIR ...]
        --held-out NAME --keywords emojibase-data/ [--clip-art DIR] [--stamps DIR] [--seeds 0-2] [--quick]

The packages are the user's own, unpacked and named by path (`npm pack emoji-datasource-google` and so on); nothing is
downloaded. For each model seed it trains a tiny CLIP and a network under study, composes probing sets (background
random, and biased), runs csp-index on them (index, import, label, evaluate), and writes OUT/table.md with its twin
OUT/results.json, and arrays for a search of methods in OUT/arrays. Every stage is resumable.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import picture_packages as packages
import probing
import product
import report
import seed_models
import torch
import world_arrays
from picture_packages import Emoji, LayoutError, Pictures
from picture_views import BACKGROUNDS
from picture_words import Words, words_of
from planted_neurons import plant
from stages import Stages, fingerprint

from csp_index.errors import CspIndexError

STAGES: Final = ("models", "arrays", "probing", "labels", "evaluation", "table")
CONDITIONS: Final = ("unbiased", "biased", "held-unbiased", "held-biased")
#: Views of each picture in a probing set: of artists that were trained on, and of the held-out one.
VIEWS: Final = {"unbiased": 2, "biased": 2, "held-unbiased": 3, "held-biased": 3}
#: Layers that the product evaluates, and with which vocabulary.
EVALUATED_LAYERS: Final = (("net", "words"), ("planted", "keywords"), ("hidden", "keywords"))
#: Conditions that become files and are labeled by the product where no others are named.
LABELED: Final = ("unbiased", "biased")


@dataclass(frozen=True, slots=True)
class Material:
    """What all stages read: pictures and words."""

    emoji: list[Emoji]
    words: Words
    pictures: Pictures
    held_out: str
    digest: str


def say(text: str) -> None:
    """Print one line of progress with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def seed_list(text: str) -> list[int]:
    """Return the seeds of a list like 0-2,5.

    >>> seed_list("0-2,5")
    [0, 1, 2, 5]
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds (expected for example 0-2 or 0,3)")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(seeds))


def condition_list(text: str) -> tuple[str, ...]:
    """Return the conditions of a list with commas.

    >>> condition_list("unbiased,held-biased")
    ('unbiased', 'held-biased')
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [name for name in names if name not in CONDITIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no condition (has: {', '.join(CONDITIONS)})")
    return names


def artist_folder(text: str) -> tuple[str, Path]:
    """Return the artist and the folder of NAME=DIR."""
    name, separator, folder = text.partition("=")
    if not (separator and name and folder):
        raise argparse.ArgumentTypeError(
            f"{text!r} names no artist and folder (expected NAME=DIR, as google=packages/g)"
        )
    return name, Path(folder)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of all results")
    parser.add_argument("--emoji", type=artist_folder, action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--held-out", required=True, metavar="NAME", help="the artist that no model is trained on")
    parser.add_argument("--keywords", type=Path, required=True, metavar="DIR", help="unpacked emojibase-data")
    parser.add_argument("--clip-art", type=Path, metavar="DIR", help="unpacked openclipart-png")
    parser.add_argument("--stamps", type=Path, metavar="DIR", help="unpacked tuxpaint-stamps-default")
    parser.add_argument("--seeds", type=seed_list, default=[0, 1, 2], help="model seeds (0-2)")
    parser.add_argument(
        "--conditions",
        type=condition_list,
        default=LABELED,
        help=f"what to label, of {', '.join(CONDITIONS)} (first two)",
    )
    parser.add_argument("--until", choices=STAGES, default="table", help="the last stage to run")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1: best on a busy machine)")
    parser.add_argument("--quick", action="store_true", help="a few steps and methods, for tests")
    return parser.parse_args(arguments)


def read_material(out: Path, chosen: argparse.Namespace, stages: Stages) -> Material:
    """Return pictures and words; pictures are read from the packages once and kept in `pictures.npz`."""
    artists = dict(chosen.emoji)
    if len(artists) < 2 or chosen.held_out not in artists:
        raise LayoutError(
            f"--held-out {chosen.held_out} of --emoji {', '.join(artists)}: expected one of at least two artists"
        )
    emoji = packages.read_keywords(chosen.keywords)
    files = {name: packages.emoji_files(folder, name) for name, folder in artists.items()}
    listed = {name: sorted((code, file.stat().st_size) for code, file in rows.items()) for name, rows in files.items()}
    others = [str(folder) for folder in (chosen.clip_art, chosen.stamps) if folder]
    mark = fingerprint(listed, others, [[e.code, e.name, e.keywords, e.category] for e in emoji])
    file = out / "pictures.npz"

    def read() -> None:
        pictures = packages.read_pictures(emoji, artists, chosen.clip_art, chosen.stamps, say)
        np.savez(file, **{name: getattr(pictures, name) for name in ("pixels", "concept", "artist", "caption")})

    stages.run("pictures", mark, read)
    with np.load(file) as stored:
        pictures = Pictures(stored["pixels"], stored["concept"], stored["artist"], stored["caption"])
    for name in artists:
        count = int((pictures.artist == name).sum())
        license_ = packages.LICENSES.get(name, "license unknown to this script")
        say(f"{name}: {count} of {len(emoji)} emoji ({license_}){', held out' if name == chosen.held_out else ''}")
    words = words_of(emoji)
    say(f"{words.keywords} keywords of two and more emoji, {len(words.texts)} single texts")
    return Material(emoji, words, pictures, chosen.held_out, mark)


def probing_sets(material: Material, seed: int, names: Sequence[str]) -> dict[str, probing.ProbingSet]:
    """Return some conditions' sets of a seed; the judging set is drawn apart from all of them."""
    pictures, homes = material.pictures, probing.home_colors(material.words)
    emoji_rows = pictures.concept >= 0
    held = pictures.artist == material.held_out
    result = {}
    for name in names:
        rows = np.flatnonzero(emoji_rows & (held if name.startswith("held") else ~held))
        views = np.tile(rows, VIEWS.get(name, 1))
        place = 100 * (1 + (*CONDITIONS, "judge").index(name))
        biased = homes if name.endswith("-biased") or name == "biased" else {}
        result[name] = probing.compose_set(pictures, views, material.words, biased, place + seed)
    return result


def train_seed(folder: Path, material: Material, seed: int, steps: seed_models.Steps, stages: Stages) -> str:
    """Train both models of a seed; return the fingerprint of what was trained."""
    mark = fingerprint(material.digest, material.held_out, seed, steps.settings())
    folder.mkdir(parents=True, exist_ok=True)
    common = (material.pictures, material.words, material.held_out, seed, steps, say)
    file = folder / seed_models.TABLE_FILE
    stages.run(f"seed{seed}/table", mark, lambda: seed_models.train_first(file, *common))
    stages.run(f"seed{seed}/clip", mark, lambda: seed_models.train_clip(folder / "clip", *common))
    stages.run(f"seed{seed}/network", mark, lambda: seed_models.train_studied(folder / "network.safetensors", *common))
    return mark


def write_arrays(out: Path, material: Material, seed: int) -> None:
    """Write the arrays of all conditions of a seed."""
    words, homes = material.words, probing.home_colors(material.words)
    models = seed_models.load_models(out / f"seed{seed}")
    planted = plant(words, material.emoji)
    texts = world_arrays.all_texts(words, planted)
    vectors = seed_models.text_vectors(models, texts.texts)
    judge = probing_sets(material, seed, ["judge"])["judge"]
    shared = world_arrays.shared_arrays(models, texts, vectors, judge, words, homes)
    shared |= world_arrays.neuron_arrays(words, planted) | {"emoji_names": world_arrays.emoji_names(material.emoji)}
    folder = out / "arrays"
    world_arrays.write_layout(folder)
    good = int(shared["good_net"][: len(words.output_words)].sum())
    say(f"seed {seed}: {good} of {len(words.output_words)} keyword outputs reach AP .5 on the judge images")
    for place, name in enumerate(CONDITIONS):
        one = probing_sets(material, seed, [name])[name]
        world_arrays.write_condition(folder / f"seed{seed}-{name}.npz", models, one, planted, shared, 10 * place + seed)


def write_probing(out: Path, material: Material, seed: int, name: str) -> None:
    """Write the files and the metadata of one condition."""
    one = probing_sets(material, seed, [name])[name]
    probing.write_set(out / f"seed{seed}" / name, one, material.emoji, material.words)
    say(f"seed {seed}, {name}: {len(one.concept)} files")


def run_product(
    out: Path, material: Material, seed: int, condition: str, mark: str, stages: Stages, evaluate: bool
) -> None:
    """Index, import, label and perhaps evaluate one condition of a seed, each a stage of its own."""
    folder, name = out / f"seed{seed}", f"seed{seed}/{condition}"
    db, place = folder / f"{condition}.db", folder / condition
    planted = plant(material.words, material.emoji)
    texts = world_arrays.all_texts(material.words, planted)
    with np.load(out / "arrays" / f"seed{seed}-{condition}.npz") as stored:
        chosen = {vocabulary: stored[f"in_{vocabulary}"] for vocabulary in product.VOCABULARIES}
        accepted = {layer: stored[f"accepted_{layer}"].tolist() for layer in ("net", "planted")}
        kinds = {layer: stored[f"kind_{layer}"].tolist() for layer in ("net", "planted")}
        judged = {"net": np.flatnonzero(stored["good_net"]), "planted": np.arange(len(planted))}
        values = stored["activations_planted"]
    vocabularies = product.write_vocabularies(out / "vocabularies", texts, chosen)
    stages.run(f"{name}/index", mark, lambda: product.index_set(db, place, folder, values, mark))
    for method, settings in product.METHODS.items():
        file = product.label_file(folder, condition, method)
        stages.run(
            f"{name}/label-{method.replace(' ', '-')}",
            fingerprint(mark, settings),
            partial(product.label_all, db, file, vocabularies, ("net", "planted"), method),
        )
    for layer, vocabulary in EVALUATED_LAYERS if evaluate else ():
        truth = place / f"truth-{layer}.csv" if layer in accepted else None
        if truth and not len(judged[layer]):
            say(f"{name}: no good neuron in {layer}, nothing to evaluate")
            continue
        if truth:
            product.write_truth(truth, accepted[layer], kinds[layer], judged[layer].tolist())
        report_folder = folder / f"evaluation-{condition}-{layer}"
        stages.run(
            f"{name}/evaluate-{layer}",
            fingerprint(mark, product.EVALUATED, vocabulary),
            partial(product.evaluate_layer, db, layer, vocabularies[vocabulary], truth, report_folder),
        )


def run(chosen: argparse.Namespace) -> None:
    """Run all stages up to the last one asked for."""
    out, last = chosen.out, STAGES.index(chosen.until)
    stages = Stages(out, say)
    material = read_material(out, chosen, stages)
    steps = seed_models.QUICK if chosen.quick else seed_models.Steps()
    with product.offered_models(out / "plugin", len(material.words.output_words) + len(BACKGROUNDS)):
        for seed in chosen.seeds:
            mark = train_seed(out / f"seed{seed}", material, seed, steps, stages)
            if last >= STAGES.index("arrays"):
                stages.run(f"seed{seed}/arrays", mark, partial(write_arrays, out, material, seed))
            for name in chosen.conditions:
                if last >= STAGES.index("probing"):
                    stages.run(
                        f"seed{seed}/{name}/probing",
                        mark,
                        partial(write_probing, out, material, seed, name),
                    )
                if last >= STAGES.index("labels"):
                    run_product(out, material, seed, name, mark, stages, last >= STAGES.index("evaluation"))
    if last >= STAGES.index("table"):
        report.write(out, chosen.seeds, material.held_out, chosen.conditions, stages.seconds())
        say(f"wrote {out / 'table.md'} and {out / 'results.json'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; return 2 for packages that cannot be read, 1 where a command failed or it was interrupted."""
    chosen = options(arguments)
    torch.set_num_threads(chosen.threads)
    try:
        run(chosen)
    except (LayoutError, product.CommandError, CspIndexError) as exc:
        print(f"real_pictures: {' '.join(str(exc).split())}", file=sys.stderr)
        return 2 if isinstance(exc, LayoutError) else 1
    except KeyboardInterrupt:
        print("real_pictures: interrupted; the same command goes on with the stage that it was in", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
