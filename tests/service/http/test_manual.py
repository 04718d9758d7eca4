"""The manual in the explorer: each page and its twin, within the content policy; links, pictures, errors, the token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
from starlette.testclient import TestClient
from strict_html import Seen, assert_strict

from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings
from csp_index.service.documents import manual
from csp_index.service.http import manual_html

HTML = {"accept": "text/html"}
TOKEN = "a token of some length"


@pytest.fixture(scope="module")
def client(arrays: Any) -> Iterator[TestClient]:
    app = make_app(arrays[0].store.uri, ServiceSettings())
    yield TestClient(
        app, base_url="http://127.0.0.1", headers=HTML
    )  # not started: it loads models only when asked for what needs them


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes HTML of a page that says something else; nothing of it is remembered."""

    def html(markdown: str) -> str:
        page = manual.ManualPage("made", "Made", markdown, manual.headings(markdown))
        real = manual.page
        monkeypatch.setattr(manual, "page", lambda name: page if name == "made" else real(name))
        return str(manual_html.manual_html.__wrapped__("made"))

    return html


@pytest.mark.parametrize("name", manual.names())
def test_every_page_and_its_twin(client: TestClient, name: str) -> None:
    reply = client.get(manual_html.manual_href(name))
    assert reply.status_code == 200, reply.text[:2000]
    seen = Seen(reply.text)
    inside = [link for link in seen.all("a") if not (link["href"] or "").startswith("https://")]
    seen.tags = [(tag, found) for tag, found in seen.tags if tag != "a"] + [("a", link) for link in inside]
    assert_strict(seen)
    twin = client.get(f"/docs/{name}.json").json()
    assert f"/docs/{name}.json" in [link["href"] for link in inside]
    assert twin["title"] in "".join(seen.text) and twin["markdown"].startswith(("# ", "<!-- Generated"))
    ids = {found["id"] for _, found in seen.tags if "id" in found}
    assert {heading["anchor"] for heading in twin["headings"]} <= ids
    for link in inside:
        if (link["href"] or "").startswith("/docs/") and not (link["href"] or "").endswith(".json"):
            page, _, anchor = str(link["href"]).removeprefix("/docs/").partition("#")
            assert not anchor or anchor in {one.anchor for one in manual.page(page).headings}, link
    assert "<!--" not in reply.text and "&lt;!--" not in reply.text


def test_the_pages_follow_each_other(client: TestClient) -> None:
    address, visited = "/docs", ["/docs"]
    while following := re.search(r'rel="next" href="([^"]+)"', client.get(address).text):
        address = following[1]
        visited.append(address)
    assert visited == [manual_html.manual_href(name) for name in manual.names()]
    assert 'aria-current="page">Manual</a>' in client.get("/docs").text


def test_a_page_lists_what_is_on_it(client: TestClient) -> None:
    text = client.get("/docs/methods").text
    contents = text[text.index("On this page") : text.index("</nav>", text.index("On this page"))]
    assert '<a href="#stability">Stability</a>' in contents and '<h2 id="stability">' in text


def test_pictures_are_served_and_shown_with_their_size(client: TestClient) -> None:
    reply = client.get("/docs/neuron-page.png")
    assert reply.headers["content-type"] == "image/png" and reply.content == manual.picture("neuron-page.png")[0]
    seen = Seen(client.get("/docs/explorer").text)
    image = next(found for found in seen.all("img") if found["src"] == "/docs/neuron-page.png")
    assert image["alt"] and int(image["width"] or 0) > 100 and int(image["height"] or 0) > 100


@pytest.mark.parametrize(
    "address",
    ["/docs/nowhere", "/docs/methods.md", "/docs/..%2f..%2fsettings", "/docs/%2e%2e", "/docs/a/b", "/docs/no.json"],
)
def test_an_unknown_page_is_told_like_any_other(client: TestClient, address: str) -> None:
    reply = client.get(address)
    assert reply.status_code == 404
    if not address.endswith(".json"):
        assert_strict(Seen(reply.text))
    assert client.get(address, headers={"accept": "*/*"}).json()["error"]["type"] == "missing"


def test_the_token_protects_the_manual(arrays: Any) -> None:
    app = make_app(arrays[0].store.uri, ServiceSettings(token=TOKEN))
    with TestClient(app, base_url="http://127.0.0.1") as asking:
        for address in ("/docs", "/docs/methods", "/docs/methods.json", "/docs/neuron-page.png"):
            assert asking.get(address).status_code == 401
            assert asking.get(address, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_headings_ask_each_question_of_the_table_once_a_page() -> None:
    folder = resources.files("csp_index.service") / "templates"
    asked = [re.findall(r"about\(\"(\w+)\"\)", file.read_text("utf-8")) for file in folder.iterdir()]
    assert {key for keys in asked for key in keys} == set(manual.HELP)
    assert all(len(set(keys)) == len(keys) for keys in asked)
    assert all(help_.question.endswith("?") for help_ in manual.HELP.values())


def test_a_heading_leads_to_its_place_in_the_manual(client: TestClient) -> None:
    text = client.get("/search").text
    assert '<h1>Search</h1><a class="about" href="/docs/explorer#search" title="' in text
    assert ">how does search work?</a>" in text


def test_html_is_shown_and_comments_are_left_out(written: Any) -> None:
    html = written("# T\n\n<!-- a\nb -->\nText <b onclick=x>bold</b><!-- c -->.\n\n<script>alert(1)</script>\n")
    assert html.startswith("<p>Text &lt;b onclick=x&gt;bold&lt;/b&gt;.</p>")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "<script" not in html and "--" not in html


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("[x](methods.md#stability)", '<a href="/docs/methods#stability">x</a>'),
        ("[methods.md](methods.md)", '<a href="/docs/methods">Labeling methods</a>'),
        ("[x](index.md)", '<a href="/docs">x</a>'),
        ("[x](#here)", '<a href="#here">x</a>'),
        ("[x](https://arxiv.org/abs/1)", '<a href="https://arxiv.org/abs/1" rel="noopener">x</a>'),
        ("[*x*](../../README.md) [y](nowhere.md)", "<em>x</em> y"),
        ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
        ("![*p*](nowhere.png)", '<span class="soft">p</span>'),
        ("![p](https://elsewhere.example/p.png)", '<span class="soft">p</span>'),
        ('`<i>` "q" & <x@y.example>', "<code>&lt;i&gt;</code> &quot;q&quot; &amp; x@y.example"),
    ],
)
def test_links_and_pictures_lead_to_what_the_explorer_has(written: Any, markdown: str, html: str) -> None:
    assert written(f"# T\n\n{markdown}") == f"<p>{html}</p>\n"


def test_tables_and_code_scroll_within_themselves_without_styles(written: Any) -> None:
    html = written("# T\n\n| a | b |\n|---|---:|\n| 1 | 2 |\n\n```html\n<b>\n```\n\n    indented\n")
    assert '<div class="scroll" tabindex="0" role="region" aria-label="Table 1"><table>' in html
    assert '<th scope="col">b</th>' in html and "style" not in html
    assert 'aria-label="Code 1"><code>&lt;b&gt;\n</code></pre>' in html and 'aria-label="Code 2"><code>indented' in html


def test_long_lines_are_folded_unless_they_are_aligned(written: Any) -> None:
    html = written("# T\n\n```\nname   value\na      1\n```\n\n```\nx = 1   # one\ny = 2\n```\n")
    assert '<pre class="aligned" tabindex="0" role="region" aria-label="Code 1">' in html
    assert '<pre tabindex="0" role="region" aria-label="Code 2">' in html


@pytest.mark.parametrize("text", ["--prior-weight", "-h", "--method csp"])
def test_an_option_is_not_folded_at_its_hyphens(written: Any, text: str) -> None:
    assert written(f"# T\n\n`{text}`, `csp-index label`") == (
        f'<p><code class="option">{text}</code>, <code>csp-index label</code></p>\n'
    )


def test_the_first_heading_is_left_to_the_page(written: Any) -> None:
    assert written("<!-- made -->\n\n# T `x`\n\n## A\n\n## A\n") == '<h2 id="a">A</h2>\n<h2 id="a-1">A</h2>\n'
