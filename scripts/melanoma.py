"""The case study of a network that tells melanomas, over the layout in which ISIC 2019 was published.

    python scripts/melanoma.py IMAGES ISIC_2019_Training_Metadata.csv --network resnet50.pt \\
        --architecture timm:resnet50 --layer layer4 --encoder open_clip:ViT-L-14/datacomp_xl_s13b_b90k --out OUT

index     embeddings and activations of the layer over `ISIC_*.jpg` (or `.dcm`, with the extra `dicom`); metadata and
          the one-hot classes of `..._GroundTruth.csv` joined by the ids, which have no ending; empty cells stay empty
label     every neuron with a dermatology vocabulary: `melanoma/lesion_words.txt` and `melanoma/artefact_words.txt`
contrast  the neurons with the largest effects again, by contrast within each class of lesions and across classes
audit     what the network relies on: the words about lesions are expected, the words about artefacts are not
report    one page with the findings

Results are in OUT: `index.db`, `labels.csv`, `classes.csv`, `findings.jsonl`, `report.html`. Run again, it goes on
where it stopped. `--network` is a weight file with its `--architecture`, or what `csp-index index --network` takes.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "melanoma"))

from class_contrast import Subject, class_labels

from csp_index import Index, NetworkSource, open_index
from csp_index.errors import CspIndexError, ModelError, SourceError
from csp_index.labelling.texts.candidate_names import TextSpace, chosen_templates
from csp_index.labelling.vocabularies import Vocabulary, load_vocabulary, make_vocabulary
from csp_index.models.encoders import load_encoder
from csp_index.models.specs import encoder_spec, network_spec
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.store.image_metadata import image_records
from csp_index.studies.auditing.stored_audits import Audit
from csp_index.studies.classes.image_classes import read_classes

WORDS = Path(__file__).parent / "melanoma"
CLASSES = "MEL,NV,BCC,AK,BKL,DF,VASC,SCC"
CODES = (*CLASSES.split(","), "UNK")
COLUMN = "label"
"""What a join calls the class that neighboring one-hot columns say."""
NAME = "network"
STRONGEST = 8  # neurons of each class that are labeled within and across classes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study, and return the exit status; an error is one line."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        _run(options, lambda line: print(line, flush=True))
    except CspIndexError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of ISIC_*.jpg or ISIC_*.dcm")
    parser.add_argument("metadata", type=Path, help="ISIC_2019_Training_Metadata.csv")
    parser.add_argument(
        "--truth", type=Path, help="one-hot classes; by default ..._GroundTruth.csv beside the metadata"
    )
    parser.add_argument("--network", required=True, help="a weight file, a model directory, or a spec")
    parser.add_argument("--architecture", help="the network that a weight file is of: timm:resnet50, python:MODULE:F")
    parser.add_argument("--classes", default=CLASSES, help=f"what the network's outputs are called ({CLASSES})")
    parser.add_argument("--layer", required=True, help="the layer to study, best the one that the head reads")
    parser.add_argument("--head", help="the module that gives the logits, if the network's output does not")
    parser.add_argument("--encoder", required=True, help="as for `csp-index index`")
    parser.add_argument("--templates", default="csp", help="prompt templates (csp)")
    parser.add_argument("--method", help="of the labels; by default the recommended one")
    parser.add_argument("--class-method", default="csp", help="of the labels within and across classes (csp)")
    parser.add_argument("--words", type=Path, default=WORDS / "lesion_words.txt", help="expected concepts")
    parser.add_argument("--artefacts", type=Path, default=WORDS / "artefact_words.txt", help="other concepts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default=None)
    return parser


def _run(options: argparse.Namespace, tell: Callable[[str], None]) -> None:
    names = [name.strip() for name in options.classes.split(",")]
    truth = options.truth or truth_beside(options.metadata)
    index = open_index(options.out / "index.db", device=options.device)
    source = network_source(options, names)
    make_index(index, options, source, truth, tell)
    key = LayerKey(NAME, options.layer)
    expected, artefacts = load_vocabulary(options.words), load_vocabulary(options.artefacts)
    words = make_vocabulary("dermatology", [*expected.texts, *artefacts.texts])
    labels = index.label(str(key), options.method, vocabulary=words, templates=options.templates)
    fields = ((str(one.neuron), one.state, one.text, one.confidence) for one in labels)
    _write(options.out / "labels.csv", ("neuron", "state", "label", "confidence"), fields)
    named = sum(one.text in artefacts.texts for one in labels)
    tell(f"label: {len(labels):,} neurons, {named:,} of them called by an artefact")
    effects = index.effects(str(key), column=COLUMN, class_names=names, head=options.head)
    strongest = np.unique(np.argsort(-np.nan_to_num(effects.effects), axis=0)[:STRONGEST])
    _contrast(index, options, key, words, effects.neurons[strongest], tell)
    audit = index.audit(
        NAME,
        list(expected.texts),
        by=COLUMN,
        layer=options.layer,
        artefacts=about_images(index),
        class_names=names,
        head=options.head,
        method=options.method,
        vocabulary=words,
        templates=options.templates,
    )
    _tell_audit(audit, options.out, tell)
    tell(f"report: {index.report(audit, options.out / 'report.html', force=True)}")


def truth_beside(metadata: Path) -> Path:
    """Return the published table of classes beside the published table of metadata."""
    truth = metadata.with_name(metadata.name.replace("_Metadata", "_GroundTruth"))
    if truth == metadata or not truth.is_file():
        raise SourceError(
            f"no table of classes is beside {metadata}: expected ISIC_2019_Training_GroundTruth.csv; name it by --truth"
        )
    return truth


def network_source(options: argparse.Namespace, classes: Sequence[str]) -> NetworkSource:
    """Return the network as the index takes it: of a weight file of a timm network, a model directory in OUT.

    Errors: ModelError for a file without its architecture, and for weights that do not fit it.
    """
    file, layers = Path(options.network).expanduser(), (options.layer,)
    if not file.is_file():
        if options.architecture:
            raise ModelError(f"no weight file {options.network} is there; without a file, leave --architecture out")
        return NetworkSource(network_spec(options.network), layers, name=NAME)
    if not options.architecture:
        raise ModelError(f"{file} has weights: name the network they are of, as --architecture timm:resnet50")
    spec = network_spec(options.architecture)
    if spec.startswith("timm:"):
        return NetworkSource(f"timm:{timm_directory(spec, file, classes, options.out / 'network')}", layers, name=NAME)
    return NetworkSource(spec, layers, weights=str(file), name=NAME)


def timm_directory(spec: str, weights: Path, classes: Sequence[str], folder: Path) -> Path:
    """Write a timm network with as many outputs as there are classes, and a file's weights, as a model directory.

    Whoever opens the index later finds the network there, with the names of its outputs.
    """
    import timm

    from csp_index.models.checkpoints import load_weights

    name = spec.removeprefix("timm:").removesuffix("/none")
    if not timm.is_model(name.partition(".")[0]):
        raise ModelError(f"timm has no model {name!r}: write --architecture timm:resnet50")
    module = timm.create_model(name, pretrained=False, num_classes=len(classes))
    try:
        load_weights(module, weights)
    except ModelError as exc:
        raise ModelError(f"{exc} (outputs: {', '.join(classes)}; name others by --classes)") from exc
    settings = {"label_names": list(classes)}
    timm.models.save_for_hf(module, str(folder), model_config=settings, safe_serialization=True)
    return folder.resolve()


def make_index(
    index: Index, options: argparse.Namespace, source: NetworkSource, truth: Path, tell: Callable[[str], None]
) -> None:
    """Index the images that the index lacks, and join both tables.

    Raises SourceError where the truth does not say one class per image.
    """
    encoders = [encoder_spec(options.encoder)]
    summary = index.add_images(options.images, encoders=encoders, networks=[source], metadata=options.metadata)
    tell(f"index: {summary.images:,} images, {summary.added:,} of them new, {summary.failed:,} unreadable")
    if summary.added or not _classed(index):
        for note in index.add_metadata(truth, replace=True).notes:
            tell(f"index: {note}")
    classed = _classed(index)
    if not classed:
        raise SourceError(
            f"{truth} does not say one class per image: expected columns {', '.join(CODES)} with one 1 in each row"
        )
    if classed < summary.images:
        tell(f"index: {summary.images - classed:,} images have no class, and count nowhere")


def _classed(index: Index) -> int:
    """Return how many images have a class."""
    images = catalog.image_count(index.store)
    return sum(record.get(COLUMN) is not None for _, record in image_records(index.store, images))


def about_images(index: Index) -> tuple[str, ...]:
    """Return the columns that must not matter: all but the class and its one-hot columns."""
    columns: dict[str, None] = {}
    for _, record in image_records(index.store, catalog.image_count(index.store)):
        columns.update(dict.fromkeys(record))
    return tuple(name for name in columns if name not in (COLUMN, *CODES))


def _contrast(
    index: Index,
    options: argparse.Namespace,
    key: LayerKey,
    words: Vocabulary,
    neurons: np.ndarray,
    tell: Callable[[str], None],
) -> None:
    """Label neurons within and across classes, and write the table."""
    source, target = catalog.encoder(index.store), catalog.layer(index.store, key)
    templates, load = chosen_templates(index.store, options.templates), partial(load_encoder, options.encoder)
    space = TextSpace(index.store, source, templates, load, keep=False)
    subject = Subject(index, source, target, neurons, space, words, options.class_method)
    rows, few = class_labels(subject, read_classes(index.store, COLUMN, catalog.image_count(index.store)))
    fields = ((f"{key}/{row.neuron}", row.class_name, row.images, row.within, row.across) for row in rows)
    _write(options.out / "classes.csv", ("neuron", "class", "images", "within", "across"), fields)
    same = sum(row.within is not None and row.within == row.across for row in rows)
    tell(f"contrast: {len(rows):,} labels within a class, {same:,} of them the same across classes")
    if few:
        tell(f"contrast: left out, with too few images: {', '.join(few)}")


def _tell_audit(audit: Audit, out: Path, tell: Callable[[str], None]) -> None:
    lines = [json.dumps(finding.as_json()) + "\n" for finding in audit.findings]
    (out / "findings.jsonl").write_text("".join(lines), encoding="utf-8")
    for finding in audit.above:
        tell(f"audit: {finding.score:.2f} {finding.neuron} {finding.class_name}: {finding.statement}")
    for note in audit.notes:
        tell(f"audit: {note}")
    tell(f"audit: {len(audit.above):,} findings above {audit.threshold:g}, {len(audit) - len(audit.above):,} below")


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
