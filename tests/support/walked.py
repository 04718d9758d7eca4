"""The addresses that walks and axe look at, by name: every page of the service is in one of these lists.

`SERVED` are those of the index of `served.py`, `STUDIED` those of `studied.py`; the addresses of `BEHIND` stand on
other pages of that index; `BARE` are those of an index of arrays alone, `AUDITED` of one whose audit
found something, `GUARDED` of a service with a token.
"""

from __future__ import annotations

LAYER, PLACED = "cnn/concepts", "cnn/layers.17"  # with all studies; whose neurons have places in the image

SERVED = {
    "home": "/",
    "search": "/search?q=ring",
    "words": "/concepts",
    "word": "/concepts/ring",
    "word that labels no neuron": "/concepts/and%2For",
    "layer": "/layers/cnn/concepts",
    "layer in small pictures": "/layers/cnn/concepts?limit=12",
    "layer by label": "/layers/cnn/concepts/labels",
    "map of a layer": "/layers/cnn/concepts/map",
    "neuron": "/neurons/cnn/concepts/0",
    "neuron with the drawer open": "/neurons/cnn/concepts/0?method=csp#live",
    "dead neuron": "/neurons/cnn/concepts/8",
    "image": "/images/3",
    "compare": "/compare?neurons=cnn/concepts/0,cnn/concepts/1",
    "sql": "/sql",
    "manual": "/docs",
    "a page of the manual": "/docs/methods",
    "missing": "/neurons/cnn/concepts/99999",
}

STUDIED = {
    "home": "/",
    "layer with links to its studies": f"/layers/{LAYER}",
    "layer in small pictures": f"/layers/{LAYER}?view=small&limit=12",
    "layer whose neurons have places": f"/layers/{PLACED}",
    "layer by label": f"/layers/{LAYER}/labels",
    "map with clusters": f"/layers/{LAYER}/map",
    "map with chosen neurons": f"/layers/{LAYER}/map?neurons=0-5",
    "neuron with all studies": f"/neurons/{LAYER}/0",
    "neuron with a reader's name": f"/neurons/{LAYER}/3",
    "neuron with places": f"/neurons/{PLACED}/5",
    "neuron with the drawer open": f"/neurons/{LAYER}/0?method=csp#live",
    "dead neuron": f"/neurons/{LAYER}/8",
    "word": "/concepts/ring",
    "word of the metadata": "/concepts/star",
    "words": "/concepts",
    "classes": f"/classes/{LAYER}?by=shape",
    "class": f"/classes/{LAYER}?by=shape&name=triangle",
    "effects": f"/effects/{LAYER}",
    "one class's effects": f"/effects/{LAYER}?class_index=0",
    "audit": "/audit/cnn",
    "report of an audit": "/audit/cnn/report",
    "layers compared": "/matches",
    "layers through training": "/evolution",
    "broader words": f"/hierarchy/{LAYER}",
    "meanings": f"/meanings/{LAYER}",
    "image": "/images/3",
    "nothing searched yet": "/search",
    "search": "/search?q=ring",
    "search by an image": "/search?image_id=3",
    "search by a neuron": f"/search?neuron={LAYER}/0",
    "compare": f"/compare?neurons={LAYER}/0,fresh/concepts/1",
    "compare nothing": "/compare",
    "notes": "/notes",
    "rate": "/rate",
    "a question to rate": "/rate?rater=bea",
    "sql": "/sql",
    "manual": "/docs/studies",
    "earlier version": "/?at=1",
}

BEHIND = {
    "two layers compared": ("/matches", "/matches/"),
    "a layer through training": ("/evolution", "/evolution/"),
    "a broader word": (f"/hierarchy/{LAYER}", f"/hierarchy/{LAYER}?word="),
}
"""By name: the page that has the link, and what the link begins with."""

BARE = {
    "home without pictures": "/",
    "layer without pictures": "/layers/net/grouped",
    "map without pictures": "/layers/net/grouped/map",
    "neuron without pictures": "/neurons/net/grouped/0",
    "image without a picture": "/images/0",
    "words without pictures": "/concepts",
}

AUDITED = {"audit with findings": "/audit/net", "report with findings": "/audit/net/report"}

GUARDED = {"login": "/login?next=/notes"}
