"""Small indexes, and the commands that are tried on them; each command runs in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from csp_index.proposers.proposer import CandidateKind

ROOT = Path(__file__).resolve().parents[2]
OLD = ROOT / "tests" / "data" / "index_of_2d73c0c.tar.gz"
WORDS = ["red", "green", "blue", "striped", "circle", "square"]
LAYER, NEURONS, IMAGES = "m/l", 12, 60
CONCEPTS = "cnn/concepts"  # of the network of `index_images`

#: Processes start from one that has loaded what takes long, but nothing that must not be forked.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["torch", "duckdb", "lance_namespace", "csp_index.index", "csp_index.query.reader", "csp_index.evaluation.evaluate"]
)


def write_arrays(folder: Path, seed: int = 0) -> None:
    """Write arrays of a small layer, and of texts, into a folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    vectors = rng.standard_normal((IMAGES, 16)).astype(np.float32)
    np.save(folder / "E.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    np.save(folder / "A.npy", np.maximum(rng.standard_normal((IMAGES, NEURONS)), 0).astype(np.float32))
    np.save(folder / "B.npy", np.maximum(rng.standard_normal((IMAGES, NEURONS)), 0).astype(np.float32))


def texts() -> Any:
    """Return candidates with embeddings made elsewhere."""
    import torch

    from csp_index import CandidateTexts

    directions = torch.randn(len(WORDS), 16, generator=torch.Generator().manual_seed(3))
    return CandidateTexts(tuple(WORDS), torch.nn.functional.normalize(directions, dim=1), key="chaos")


class Namer:
    """A proposer that needs no model: it names each neuron after its number."""

    kind: CandidateKind = "captioner"
    name = "chaos:namer"
    revision = "1"
    prompt = "name it"

    def ask(self, questions: Iterable[Any]) -> Iterator[Any]:
        """Yield an answer per question."""
        from csp_index.proposers.proposer import Answer

        for question in questions:
            yield Answer(question.neuron, "answered", raw="x", texts=(WORDS[question.neuron.neuron % len(WORDS)],))


def take_in(db: str, arrays: str) -> None:
    """Import the first layer, in five shards."""
    from csp_index import open_index

    open_index(db).import_arrays(f"{arrays}/A.npy", LAYER, embeddings=f"{arrays}/E.npy", shard_size=12)


def add_layer(db: str, arrays: str) -> None:
    """Import a second layer."""
    from csp_index import open_index

    open_index(db).import_arrays(f"{arrays}/B.npy", "m/second", shard_size=12)


def index_images(db: str, arrays: str) -> None:
    """Index the demo's images, in shards of 12, with its models."""
    from csp_index import NetworkSource, open_index
    from csp_index.demo.network import CLIP_FOLDER, CONCEPT_LAYER, NETWORK_WEIGHTS

    network = "python:csp_index.demo.network:planted_cnn"
    source = NetworkSource(network, (CONCEPT_LAYER,), weights=str(NETWORK_WEIGHTS), name="cnn")
    index = open_index(db)
    index.add_images(f"{arrays}/images", encoders=[f"open_clip:{CLIP_FOLDER}"], networks=[source], shard_size=12)


def label(db: str, arrays: str) -> None:
    """Label the layer."""
    from csp_index import open_index

    open_index(db).label(LAYER, "csp", vocabulary=texts(), bootstrap=10)


def relabel(db: str, arrays: str) -> None:
    """Label the layer again."""
    from csp_index import open_index

    open_index(db).label(LAYER, "csp", vocabulary=texts(), bootstrap=10, recompute=True)


def evaluate(db: str, arrays: str) -> None:
    """Judge labels of the layer."""
    from csp_index import EvaluationOptions, open_index
    from csp_index.evaluation.options import MethodChoice

    options = EvaluationOptions(methods=tuple(map(MethodChoice.parse, ("csp", "semanticlens"))))
    open_index(db).evaluate(LAYER, options, vocabulary=texts())


def prefer(db: str, arrays: str) -> None:
    """Prefer a method."""
    from csp_index import open_index

    open_index(db).prefer("csp")


def candidates(db: str, arrays: str) -> None:
    """Ask a proposer about the layer's neurons; answers are kept in groups of four."""
    from csp_index import open_index

    os.environ["CSP_INDEX_ANSWERS_GROUP"] = "4"
    open_index(db, image_roots=[f"{arrays}/every"]).propose(LAYER, captioner=Namer())


def make_maps(db: str, arrays: str) -> None:
    """Keep where the neurons of a layer without places look."""
    _of_pictures(db, arrays).make_maps(CONCEPTS)


def make_map(db: str, arrays: str) -> None:
    """Place the neurons of a layer on a map."""
    _of_pictures(db, arrays).make_map(CONCEPTS, neighbors=5)


def label_crops(db: str, arrays: str) -> None:
    """Label by crops of images."""
    _of_pictures(db, arrays).label(CONCEPTS, "csp", vocabulary=WORDS, crop=True, examples=5, bootstrap=10)


def _of_pictures(db: str, arrays: str) -> Any:
    from csp_index import open_index

    return open_index(db, image_roots=[f"{arrays}/images"], trust=True)


def repair(db: str, arrays: str) -> None:
    """Repair what is damaged."""
    from csp_index.integrity.verify import verify

    result = verify(db, full=True, repair=True)
    if not result.sound:
        raise RuntimeError(str(result.findings[0]))


def optimize(db: str, arrays: str) -> None:
    """Compact the tables and clean up."""
    from csp_index import open_index

    open_index(db).optimize(keep_hours=0)


def migrate(db: str, arrays: str) -> None:
    """Bring an index of format 2 to the present one."""
    from csp_index.store.connect import open_store
    from csp_index.store.history.migration import migrate as to_present_format

    to_present_format(open_store(db))


def tag(db: str, arrays: str) -> None:
    """Name the last version."""
    from csp_index.query.reader import Reader

    reader = Reader(db)
    if "kept" not in reader.store.log.tags():
        reader.tag("kept")


def nothing(db: str, arrays: str) -> None:
    """Leave the place empty."""


def imported(db: str, arrays: str) -> None:
    """Make an index of the first layer."""
    take_in(db, arrays)


def labelled(db: str, arrays: str) -> None:
    """Make an index of the first layer with labels by two methods."""
    from csp_index import open_index

    take_in(db, arrays)
    label(db, arrays)
    open_index(db).label(LAYER, "semanticlens", vocabulary=texts(), bootstrap=0)


def pictured(db: str, arrays: str) -> None:
    """Make an index of the first layer whose images are files."""
    from csp_index import open_index

    uris = sorted(map(str, Path(arrays, "every").rglob("*.png")))[:IMAGES]
    names = Path(db).with_suffix(".txt")
    names.write_text("\n".join(uris))
    open_index(db).import_arrays(f"{arrays}/A.npy", LAYER, embeddings=f"{arrays}/E.npy", uris=names, shard_size=12)


def named(db: str, arrays: str) -> None:
    """Make an index of pictures whose neurons have labels."""
    index_images(db, arrays)
    _of_pictures(db, arrays).label(CONCEPTS, "csp", vocabulary=WORDS, bootstrap=0)


def mapped(db: str, arrays: str) -> None:
    """Make an index of pictures that says where neurons look."""
    named(db, arrays)
    make_maps(db, arrays)


def damaged(db: str, arrays: str) -> None:
    """Make a labeled index whose marks, statistics and lists of files are wrong; it can be read."""
    _plant(db, arrays, "committed-mark lost", "committed-statistics doubled", "list of files deleted-images")


def unreadable(db: str, arrays: str) -> None:
    """Make a labeled index whose statistics are gone; it cannot be read."""
    _plant(db, arrays, "committed-mark lost", "table gone-neurons")


def _plant(db: str, arrays: str, *names: str) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from damages import all_damages

    labelled(db, arrays)
    plants = {str(damage): damage.plant for damage in all_damages()}
    for name in names:
        plants[name](Path(db))


def of_format_2(db: str, arrays: str) -> None:
    """Unpack an index that an earlier version made."""
    folder = Path(db).parent
    with tarfile.open(OLD) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        archive.extractall(folder)
    (folder / "index").rename(db)


#: Commands that make several versions: what readers see after a kill is not all of it.
IN_STEPS = frozenset({"verify --repair of a lost table"})

#: What is tried: the command, and the state of the index before it.
COMMANDS: dict[str, tuple[Callable[[str, str], None], Callable[[str, str], None]]] = {
    "import": (take_in, nothing),
    "import a layer": (add_layer, imported),
    "index": (index_images, nothing),
    "label": (label, imported),
    "label --recompute": (relabel, labelled),
    "label --crop": (label_crops, mapped),
    "maps": (make_maps, named),
    "map": (make_map, named),
    "candidates": (candidates, pictured),
    "evaluate": (evaluate, labelled),
    "optimize": (optimize, labelled),
    "prefer": (prefer, labelled),
    "tag": (tag, labelled),
    "verify --repair": (repair, damaged),
    "verify --repair of a lost table": (repair, unreadable),
    "migrate": (migrate, of_format_2),
}
