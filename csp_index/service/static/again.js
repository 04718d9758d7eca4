// A page that lacks what the encoder says loads again once, when the encoder is there: a page that loads every 2 s takes
// the place and the focus from whoever reads it.
"use strict";

const PAUSE = 2000; // ms

async function whole() {
  try {
    const reply = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
    return ![202, 429, 503].includes(reply.status); // 202: not yet; the others: too busy to say
  } catch {
    return false; // no service now: it is asked again
  }
}

async function ask() {
  if (await whole()) location.reload();
  else setTimeout(ask, PAUSE);
}

setTimeout(ask, PAUSE);
