"""`doctor`: what indexing a source, or extending an index, would do; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csp_index import settings
from csp_index.errors import SettingError
from csp_index.indexing.doctor.examination import SAMPLE, Examination
from csp_index.indexing.doctor.index import examine_index
from csp_index.indexing.doctor.report import DoctorReport
from csp_index.indexing.doctor.source import examine_source
from csp_index.models.index_models import Models, NetworkSource
from csp_index.models.objects import Encoder, Network
from csp_index.store import originals
from csp_index.store.connect import is_index


def doctor(
    place: str | Path | Any,
    *,
    encoders: Sequence[str | Encoder] = (),
    networks: Sequence[NetworkSource | Network] = (),
    name: str | None = None,
    metadata: str | Path | None = None,
    metadata_key: str | None = None,
    class_names: str | Path | None = None,
    image_column: str | None = None,
    dtype: str | None = None,
    sample: int = SAMPLE,
    device: str | None = None,
    image_roots: Sequence[str | Path] = (),
    trust: bool = False,
) -> DoctorReport:
    """Try a few images through everything, as `csp-index doctor` does, and report what was understood.

    `place` is a source of images as `Index.add_images` takes it, or an index; the other arguments are those of
    `add_images` and `open_index`. `sample` images are tried, chosen at random but always the same. Of an index the
    models you give are tried, or else its own (see `Index.doctor`). What would not work is a line of the report's
    `problems`; only arguments that do not go together raise SettingError. Nothing is written.
    """
    models = Models(settings.DEVICE.value(device), None, trust=trust)
    request = Examination(models, tuple(encoders), tuple(networks), dtype, sample)
    about = {"name": name, "metadata": metadata, "metadata_key": metadata_key, "class_names": class_names}
    about["image_column"] = image_column
    if not isinstance(place, str | Path) or not is_index(place):
        return examine_source(place, request, **about)
    if unfit := [option for option, value in about.items() if value is not None]:
        raise SettingError(f"{unfit[0]} is for a source of images, and {place} is an index: leave it out")
    originals.allow(place, image_roots)
    return examine_index(place, request)
