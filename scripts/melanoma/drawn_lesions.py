"""Drawn skin lesions in the layout in which ISIC 2019 was published: what the script is tried on, and no dermatology.

    python scripts/melanoma/drawn_lesions.py OUT --images 600 --seed 0

OUT receives `images/ISIC_*.jpg`, `ISIC_2019_Training_GroundTruth.csv`, `ISIC_2019_Training_Metadata.csv`, and
`drawn.csv`, which says what was drawn on each image and is for tests alone: no step of the case study reads it; beside
them `network.safetensors`, the weights of the planted network of `drawn_models`. With `--dicom` every tenth image is a
DICOM file. A colored patch lies beside many nevi and rarely beside other lesions: in the published images such patches
are beside benign lesions alone (arXiv 1909.13584). With `--even` it is as frequent in each class. Hairs, rulers, ink
and dark corners are drawn evenly.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from drawn_models import write_weights
from numpy.typing import NDArray
from PIL import Image

SIDE: Final = 64
CODES: Final = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
"""The one-hot columns of the published table, in its order."""
DRAWN: Final = ("MEL", "NV", "BKL", "VASC")
LEAKED: Final = "NV"
PATCH: Final = (0.6, 0.03)  # share of the leaked class, and of the others, with a patch
EVEN: Final = 0.2
OTHERS: Final = {"hair": 0.3, "ruler": 0.2, "ink": 0.15, "vignette": 0.2}
TRUTH: Final = "ISIC_2019_Training_GroundTruth.csv"
METADATA: Final = "ISIC_2019_Training_Metadata.csv"
IMAGES: Final = "images"
WEIGHTS: Final = "network.safetensors"
SITES: Final = ("anterior torso", "posterior torso", "head/neck", "lower extremity", "upper extremity", "palms/soles")

Pixels = NDArray[np.float64]
"""Colors in [0, 1], [SIDE, SIDE, 3]."""

_SKIN: Final = (225, 180, 160)
_PATCHES: Final = ((40, 150, 230), (50, 185, 95), (30, 170, 170))
_COLORS: Final = {  # of lesions
    "MEL": ((70, 42, 34), (35, 25, 28), (95, 100, 125)),
    "NV": ((125, 80, 55),),
    "BKL": ((185, 145, 100),),
    "VASC": ((185, 45, 55),),
}


@dataclass(frozen=True, slots=True)
class Lesion:
    """What is drawn on one image: the class, and which artefacts."""

    code: str
    artefacts: frozenset[str]


def draw_lesions(count: int, seed: int, *, even: bool = False) -> list[Lesion]:
    """Draw what to draw; the same arguments give the same lesions."""
    rng = np.random.default_rng((seed, int(even)))
    lesions = []
    for number in range(count):
        code = DRAWN[number % len(DRAWN)]
        shares = {"patch": EVEN if even else PATCH[int(code != LEAKED)], **OTHERS}
        lesions.append(Lesion(code, frozenset(name for name, share in shares.items() if rng.random() < share)))
    return lesions


def draw(lesion: Lesion, seed: tuple[int, ...]) -> Pixels:
    """Draw an image; the same lesion and seed give the same pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    tone = np.array(_SKIN) / 255 * rng.uniform(0.93, 1.03)
    pixels = np.broadcast_to(tone, (SIDE, SIDE, 3)) * (1 + 0.04 * (x - y)[..., None] / SIDE)
    center = rng.uniform(26, 38, 2)
    _put_lesion(pixels, lesion.code, center, rng, (y, x))
    if "patch" in lesion.artefacts:
        corner = np.array([rng.choice([4, SIDE - 4]), rng.uniform(8, SIDE - 8)])[:: rng.choice([1, -1])]
        _put(pixels, np.hypot(y - corner[0], x - corner[1]) < rng.uniform(13, 18), _PATCHES[rng.integers(3)])
    if "ruler" in lesion.artefacts:
        _put(pixels, (y > SIDE - 7) & (x % 6 < 1.5) & (x > 8) & (x < SIDE - 8), (20, 20, 20))
    if "ink" in lesion.artefacts:
        angle = np.arctan2(y - center[0], x - center[1])
        ring = np.abs(np.hypot(y - center[0], x - center[1]) - 25) < 1.6
        _put(pixels, ring & (np.abs(angle - rng.uniform(-2, 2)) < 0.7), (90, 40, 150))
    if "hair" in lesion.artefacts:
        for _ in range(rng.integers(3, 7)):
            slope, start = rng.uniform(-1.2, 1.2), rng.uniform(5, SIDE - 5)
            _put(pixels, np.abs(y - start - slope * (x - SIDE / 2) - 3 * np.sin(x / 14)) < 0.7, (18, 12, 10))
    if "vignette" in lesion.artefacts:
        pixels = pixels * np.clip(1.9 - np.hypot(y - SIDE / 2, x - SIDE / 2) / 24, 0, 1)[..., None]
    noisy: Pixels = np.clip(pixels + rng.normal(0, 0.015, pixels.shape), 0, 1)
    return noisy


def _put(pixels: Pixels, mask: NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    pixels[mask] = np.array(color) / 255


def _put_lesion(
    pixels: Pixels, code: str, center: NDArray[np.float64], rng: np.random.Generator, grid: tuple[Pixels, Pixels]
) -> None:
    """Draw a lesion: of a melanoma the outline is uneven and the colors are several, others are round and even."""
    y, x = grid[0] - center[0], grid[1] - center[1]
    angle, radius = np.arctan2(y, x), rng.uniform(11, 17)
    outline = np.full_like(angle, radius)
    if code == "MEL":
        for times in (1, 2, 3, 5):
            outline += radius * rng.uniform(0.08, 0.2) * np.cos(times * angle + rng.uniform(0, 6))
    inside = np.hypot(y, x) < outline
    colors = _COLORS[code]
    _put(pixels, inside, colors[0])
    for color in colors[1:]:
        place = rng.uniform(-radius / 2, radius / 2, 2)
        _put(pixels, inside & (np.hypot(y - place[0], x - place[1]) < radius * rng.uniform(0.3, 0.5)), color)


def write_set(folder: str | Path, count: int, seed: int = 0, *, even: bool = False, dicom: bool = False) -> Path:
    """Draw images with their tables into a folder, which is returned; with `dicom` every tenth is a DICOM file."""
    root = Path(folder)
    (root / IMAGES).mkdir(parents=True, exist_ok=True)
    lesions = draw_lesions(count, seed, even=even)
    for number, lesion in enumerate(lesions):
        image = Image.fromarray(np.rint(255 * draw(lesion, (seed, 1, number))).astype(np.uint8))
        stem = root / IMAGES / _name(number)
        if dicom and number % 10 == 9:
            _write_dicom(stem.with_suffix(".dcm"), image)
        else:
            image.save(stem.with_suffix(".jpg"), quality=92)
    _write_table(root / TRUTH, ("image", *CODES), (_truth(*one) for one in enumerate(lesions)))
    _write_table(
        root / METADATA, ("image", "age_approx", "anatom_site_general", "lesion_id", "sex"), _about(count, seed)
    )
    _write_table(
        root / "drawn.csv",
        ("image", "patch", *OTHERS),
        (
            [_name(number), *(int(name in lesion.artefacts) for name in ("patch", *OTHERS))]
            for number, lesion in enumerate(lesions)
        ),
    )
    return root


def _name(number: int) -> str:
    return f"ISIC_{number:07d}"


def _truth(number: int, lesion: Lesion) -> list[object]:
    return [_name(number), *(float(code == lesion.code) for code in CODES)]


def _about(count: int, seed: int) -> Iterator[list[object]]:
    """Yield the metadata of each image, with empty cells as in the published table."""
    rng = np.random.default_rng((seed, 2))
    for number in range(count):
        age, site, lesion, sex = rng.random(4)
        yield [
            _name(number),
            "" if age < 0.05 else float(5 * rng.integers(3, 18)),
            "" if site < 0.1 else SITES[rng.integers(len(SITES))],
            "" if lesion < 0.1 else f"BCN_{number // 2:07d}",
            "" if sex < 0.05 else ("female", "male")[rng.integers(2)],
        ]


def _write_table(path: Path, header: tuple[str, ...], rows: Iterator[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)


def _write_dicom(path: Path, image: Image.Image) -> None:
    """Write an RGB picture as a DICOM file of the kind that cameras write."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    about = FileMetaDataset()
    about.TransferSyntaxUID = ExplicitVRLittleEndian
    about.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.77.1.4")  # VL photographic image
    about.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.stem])
    record = FileDataset(str(path), {}, file_meta=about, preamble=b"\0" * 128)
    record.SOPClassUID, record.SOPInstanceUID = about.MediaStorageSOPClassUID, about.MediaStorageSOPInstanceUID
    record.Modality, record.PhotometricInterpretation = "XC", "RGB"
    record.Rows, record.Columns, record.SamplesPerPixel, record.PlanarConfiguration = SIDE, SIDE, 3, 0
    record.BitsAllocated, record.BitsStored, record.HighBit, record.PixelRepresentation = 8, 8, 7, 0
    record.PixelData = image.convert("RGB").tobytes()
    record.save_as(path, enforce_file_format=True)


def main() -> None:
    """Draw a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--even", action="store_true", help="patches as frequent in each class")
    parser.add_argument("--dicom", action="store_true", help="every tenth image as a DICOM file")
    options = parser.parse_args()
    write_set(options.out, options.images, options.seed, even=options.even, dicom=options.dicom)
    write_weights(options.out / WEIGHTS)


if __name__ == "__main__":
    main()
