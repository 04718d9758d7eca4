// Versions of the index: says when a newer one is shown than this page has, and keeps what the address says in its links.
"use strict";

const EVERY = 15000; // milliseconds between two questions
const shown = document.documentElement.dataset.version;
const newer = document.getElementById("newer");

function withVersion(version) {
  const address = new URL(location.href);
  address.searchParams.delete("at");
  if (version) address.searchParams.set("at", version);
  return `${address.pathname}${address.search}${address.hash}`;
}

for (const link of document.querySelectorAll('#permalink, .edition a[href^="?at="]')) {
  const version = new URLSearchParams(link.getAttribute("href")).get("at");
  for (const event of ["pointerdown", "focus", "mouseenter"]) {
    link.addEventListener(event, () => { link.href = withVersion(version); });
  }
}

function tell(version) {
  const link = document.createElement("a");
  link.href = withVersion("");
  link.textContent = "load this page again";
  newer.replaceChildren(`The index has changed since this page was made (${version.command}): `, link);
  newer.hidden = false;
}

async function look() {
  if (document.hidden) return;
  try {
    const response = await fetch("/api/v1/version", { cache: "no-store" });
    if (!response.ok) return;
    const version = await response.json();
    if (version.version !== shown) tell(version);
  } catch {
    // the service does not answer: the next look will tell
  }
}

if (shown && newer) {
  setInterval(() => { if (newer.hidden) look(); }, EVERY);
  document.addEventListener("visibilitychange", look);
}
