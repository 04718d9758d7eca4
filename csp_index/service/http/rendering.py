"""Documents as HTML: the templates, and how they format numbers and times.

All text from an index is escaped. Documents are only values for the templates here.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from csp_index import __version__
from csp_index.contrast.kinds import CONTRAST_KINDS
from csp_index.evaluation.report.rendering import CompiledOnce
from csp_index.images.files.formats import HEAD, MEDIA_TYPES, kind_of
from csp_index.labelling.methods import METHODS, MethodInfo, default_method, method_names
from csp_index.labelling.review.words import ACTIONS, done
from csp_index.labelling.vocabularies import in_prose
from csp_index.printable import not_turned, shortened
from csp_index.query.picture_html import bytes_told
from csp_index.records.assurance import above_null, of_hundred, stability
from csp_index.service.documents.manual import FIGURES, HELP, figures, first_words
from csp_index.service.documents.map_shapes import PictureMap
from csp_index.service.documents.maps import veil as draw_veil
from csp_index.service.documents.neuron import COLUMNS
from csp_index.service.http.addresses import (
    audit_href,
    classes_href,
    compare_href,
    concept_href,
    effects_href,
    hierarchy_href,
    image_href,
    layer_href,
    meanings_href,
    neuron_href,
    report_href,
    subject_href,
    thumbnail,
    veil,
)
from csp_index.service.http.manual_html import manual_href
from csp_index.service.http.schemas import MOST_EXAMPLES
from csp_index.service.http.static_files import head_script, static_files, version
from csp_index.service.live.queries import CANDIDATES, LETTERS

DASH: Final = "\N{EN DASH}"
_LETTERS: Final = 4_000  # of a value of the metadata that a page shows; its JSON twin has all
_PICTURE_LETTERS: Final = 2**20  # in base64, of a picture in an answer of SQL that a page shows
STABLE: Final = "stable in"  # what `assurance.stability` begins with
_LIMITS: Final = {"most_examples": MOST_EXAMPLES, "most_candidates": CANDIDATES, "most_letters": LETTERS}
_HEADINGS: Final = {
    401: "Sign in first",
    404: "Not found here",
    413: "Too large",
    503: "Busy",
    504: "It took too long",
}


def panel_methods() -> dict[str, tuple[int, str]]:
    """Return for every method its number of examples and its knobs in the live panel, separated by spaces.

    This does not load methods of other packages: they get the defaults and every knob.

    >>> panel_methods()["csp"]
    (30, 'gamma contrast threshold crop')
    """
    every = MethodInfo("", options=("gamma",), needs_contrast=True)
    infos = {name: METHODS.get(name, every) for name in method_names()}
    return {name: (info.examples, " ".join(info.knobs)) for name, info in infos.items()}


def figure(value: float | None) -> str:
    """Return a number with about three digits.

    >>> figure(0.71246), figure(12.345), figure(12345.6), figure(0.00012), figure(-2), figure(1e-12), figure(0)
    ('0.712', '12.3', '12,346', '1.2e-04', '-2.000', '0.000', '0')
    """
    if value is None or not math.isfinite(value):
        return DASH
    size = abs(value)
    if size == 0:
        return "0"
    if 1e-6 < size < 0.0005:
        return f"{value:.1e}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"


def share(value: float | None) -> str:
    """Return a fraction as a percentage.

    >>> [share(value) for value in (0.5, 0.0123, 0.0001, 0.0)]
    ['50\\xa0%', '1.2\\xa0%', '<0.1\\xa0%', '0\\xa0%']
    """
    if value is None or not math.isfinite(value):
        return DASH
    if 0 < value < 0.001:
        return "<0.1\xa0%"
    return f"{100 * value:.0f}\xa0%" if value >= 0.1 or value == 0 else f"{100 * value:.1f}\xa0%"


def count(value: int | None) -> str:
    """Return a whole number with commas between thousands."""
    return DASH if value is None else f"{value:,}"


def column_name(name: str) -> str:
    """Return what people read for a column of numbers.

    >>> column_name("firing_rate"), column_name("confidence"), column_name("probability")
    ('firing rate', 'stability', 'chance to be right')
    """
    said = {"confidence": "stability", "probability": "chance to be right", "auroc": "AUROC for a class"}
    return said.get(name, name.replace("_", " "))


def stable_count(share: float | None) -> str:
    """Return in how many resamples a label stays first, as `assurance.stability` says it without its first words.

    >>> stable_count(0.61), stable_count(1.0)
    ('61 of 100 resamples', '100 of 100 resamples')
    """
    if share is None or not math.isfinite(share):
        return DASH
    return stability(share).removeprefix(f"{STABLE} ")


def right_count(probability: float | None) -> str:
    """Return how many labels like one are right.

    >>> right_count(0.826)
    '83 of 100'
    """
    return DASH if probability is None else of_hundred(probability)


def moment(value: str | datetime | None) -> str:
    """Return a time to the minute, and any other value unchanged.

    >>> moment("2026-11-23T03:31:19.232298+00:00")
    '2026-11-23 03:31'
    """
    instant = _time(value)
    return str(value or DASH) if instant is None else f"{instant:%Y-%m-%d %H:%M}"


def took(span: Sequence[str | datetime | None]) -> str:
    """Return the duration from a start to an end.

    >>> took(["2026-11-23T03:31:19", "2026-11-23T03:33:20"])
    '2 min'
    """
    start, end = map(_time, span)
    if start is None or end is None:
        return DASH
    seconds = (end - start).total_seconds()
    if seconds < 10:
        return f"{seconds:.1f} s"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def plain(value: object) -> str:
    """Return a value of the metadata for readers: text unchanged, anything else as JSON; of a long one its beginning.

    >>> plain(["a", 1]), plain("x" * 9_999)[-25:]
    ('["a", 1]', 'xx… (of 9,999 characters)')
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}… (of {len(text):,} characters)"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes in an answer of SQL: what a page says of them, and the address that holds them if they are a picture."""

    told: str
    address: str | None


def blob(text: str) -> Blob:
    """Return bytes that JSON has as base64.

    >>> blob("YWJj"), blob("/9j/4A==")
    (Blob(told='3 bytes', address=None), Blob(told='JPEG, 4 bytes', address='data:image/jpeg;base64,/9j/4A=='))
    """
    head = b64decode(text[: 4 * HEAD])
    kind = MEDIA_TYPES.get(kind_of(head) or "") if len(text) <= _PICTURE_LETTERS else None
    told = bytes_told(head, len(text) // 4 * 3 - text[-2:].count("="))
    return Blob(told, None if kind is None else f"data:{kind};base64,{text}")


def coded(message: str) -> Markup:
    """Return a message as HTML: what stands in backticks as code, all else as text.

    >>> coded("run `csp-index label <DB>` & wait")
    Markup('run <span class="code">csp-index label &lt;DB&gt;</span> &amp; wait')
    """
    parts = (escape(not_turned(part)) for part in re.split("`([^`]+)`", message))
    code = Markup('<span class="code">{}</span>')
    return Markup("").join(code.format(part) if at % 2 else part for at, part in enumerate(parts))


def veil_data(where: PictureMap, size: tuple[int, int]) -> str:
    """Return a veil over a picture that was sent, of `size`, as an address that has it inside."""
    levels = np.frombuffer(b64decode(where["map"]), np.uint8).reshape(where["height"], where["width"])
    return f"data:image/png;base64,{b64encode(draw_veil(levels / 255, where['box'], size)).decode()}"


def static(name: str) -> str:
    """Return the address of a static file; it changes whenever any of these files does.

    >>> static("style.css").partition("?")[0]
    '/static/style.css'
    """
    if name not in static_files():
        raise KeyError(f"{name} is no static file, and static_files.JOINED joins none of that name")
    return f"/static/{name}?v={version()}"


class _Documents(jinja2.Environment):
    """Templates in which `document.field` is looked up as an item first: what they show are dictionaries."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


_COMPILED: Final = CompiledOnce()  # each version of an index that is shown has pages of its own


def environment() -> jinja2.Environment:
    """Return the templates with everything they use; a missing value in a document is an error."""
    templates = _Documents(
        bytecode_cache=_COMPILED,
        loader=jinja2.PackageLoader("csp_index.service"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=not_turned,
    )
    filters = (
        figure,
        share,
        count,
        column_name,
        stable_count,
        right_count,
        above_null,
        moment,
        took,
        plain,
        blob,
        coded,
        layer_href,
        neuron_href,
        audit_href,
        report_href,
        classes_href,
        concept_href,
        effects_href,
        hierarchy_href,
        meanings_href,
        image_href,
        thumbnail,
        veil,
        veil_data,
        compare_href,
        manual_href,
        first_words,
        shortened,
        in_prose,
        done,
        subject_href,
        static,
    )
    templates.filters |= {function.__name__: function for function in filters}
    return templates


def _time(value: str | datetime | None) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


@dataclass(frozen=True, slots=True)
class Site:
    """What every page shows of the service: the index's name and version, whether there is SQL, what pictures are."""

    name: str
    snapshot: str = ""  # empty where it is not shown
    sql: bool = False
    tiny: bool = False  # pictures have few pixels and are drawn without blur
    pictures: bool = True  # False if images came as arrays: pages show their names instead
    preferred: str | None = None  # the method that the index prefers
    form: str = ""  # the proof of its forms, where readers may write notes, or people rate labels
    write: bool = False
    rate: bool = False
    number: int | None = None  # of the version, as `csp-index versions` lists it
    old: str = ""  # what version this is, where it is not the one that is shown


class Renderer:
    """Draws the pages of one service; all threads share it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._templates = environment()
        self._templates.globals.update(
            _LIMITS,
            pictures=site.pictures,
            inside={},  # pictures that a page has inside, by image id
            head_script=Markup(head_script()),  # a file of ours  # nosec B704
            manual=HELP,
            figures=figures(),
            figures_place=FIGURES,
            columns=COLUMNS,
            stable=STABLE,
            panel_methods=panel_methods(),
            default_method=lambda scale: site.preferred or default_method(scale),
            actions=ACTIONS,
            live_contrast=[name for name, info in CONTRAST_KINDS.items() if info.live],
        )

    def page(self, template: str, *, twin: str | None = None, status: int = 200, **context: Any) -> HTMLResponse:
        """Return a page; `twin` is the address of the same document as JSON."""
        page = self._templates.get_template(f"{template}.html")
        site = {**asdict(self.site), "version": __version__, "page": template, "twin": twin}
        return HTMLResponse(page.render(site=site, **context), status)

    def error(self, status: int, error: Mapping[str, str]) -> HTMLResponse:
        """Return the page of an error with the fields type, message, hint and request_id."""
        heading = _HEADINGS.get(status, "This did not work" if status < 500 else "The service could not answer")
        return self.page("error", status=status, heading=heading, error=error)

    def login(self, next_page: str = "/", message: str = "", status: int = 200) -> HTMLResponse:
        """Return the sign-in form, which leads to `next_page`, an address of this service."""
        return self.page("login", status=status, next=next_page, message=message)
