// A neuron's page: labelling it again while knobs move, and copying its query. Texts of the index reach the page as
// text only, never as HTML.

const PAUSE = 60; // milliseconds between two questions, at least
const PATIENCE = 800; // milliseconds after which a question gives way to a newer one
const SHOWN = 12; // pairs
const GAMMA = ["csp", "random-contrast"]; // the methods that look at it

const live = document.getElementById("live");
const knobs = document.getElementById("knobs");
const status = document.getElementById("live-status");
const answer = document.getElementById("live-answer");
const knob = knobs.elements;
// The partner of each activating image on the page, of several the first.
const stored = new Map(
  [...document.querySelectorAll(".pair[data-image]")].map((pair) => [pair.dataset.image, pair.dataset.contrast]),
);

function make(name, attributes = {}, ...children) {
  const svg = name === "svg" || name === "rect";
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function digits(value) {
  if (value === null || value === undefined) return "–";
  return value === 0 ? "0" : Math.abs(value) < 10 ? value.toFixed(3) : value.toFixed(1);
}

function bar(part) {
  const width = 100 * Math.min(1, Math.max(0, part));
  return make(
    "svg",
    { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    make("rect", { class: "track", width: 100, height: 8 }),
    make("rect", { class: "fill", width: width.toFixed(2), height: 8 }),
  );
}

// The defaults of the method as set; for the one of the page the values that its label was made with.
function chosen() {
  const { method, examples, neighbours } = live.dataset;
  const own = knob.method.selectedOptions[0].dataset;
  return knob.method.value === method ? { examples, neighbours: neighbours || own.neighbours } : own;
}

// The question as the knobs have it, or null while one of them holds no valid value.
function question() {
  if (!knobs.checkValidity()) return null;
  const asked = {
    neurons: [live.dataset.neuron],
    method: knob.method.value,
    gamma: Number(knob.gamma.value),
    examples: Number(knob.examples.value),
    contrast: knob.contrast.value,
    threshold: knob.threshold.value,
    neighbours: Number(chosen().neighbours),
    top: 8,
  };
  const own = knob.candidates.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (own.length) asked.candidates = own;
  return asked;
}

function tidy() {
  document.getElementById("gamma-told").textContent = Number(knob.gamma.value).toFixed(2);
  knob.gamma.disabled = !GAMMA.includes(knob.method.value);
}

function showLabels(labels) {
  const scores = labels.map((label) => label.score);
  const low = Math.min(0, ...scores);
  const width = Math.max(1, ...scores) - low;
  document.getElementById("live-labels").replaceChildren(
    ...labels.map(({ text, score }) => {
      const [name, number] = [make("span", { class: "name" }, text), make("span", { class: "number" }, digits(score))];
      return make("li", {}, name, number, bar((score - low) / width));
    }),
  );
}

function tile(id, note) {
  const address = `/api/v1/images/${id}/thumbnail`;
  const image = make("img", { src: address, width: 128, height: 128, decoding: "async", alt: `image ${id}` });
  return make("figure", { class: "tile" }, make("a", { href: `/images/${id}` }, image), make("figcaption", {}, note));
}

// Pairs as columns: an activating image, its partners below it, and whether these are others than on the page.
function showPairs(pairs) {
  const columns = new Map();
  for (const pair of pairs) {
    const held = columns.get(pair.image_id) ?? [];
    columns.set(pair.image_id, [...held, pair]);
  }
  let compared = 0;
  let changed = 0;
  const drawn = [];
  for (const [image, partners] of columns) {
    const before = stored.get(String(image));
    const other = before !== undefined && before !== String(partners[0].contrast_id ?? "");
    if (before !== undefined) compared += 1;
    if (other) changed += 1;
    if (drawn.length === SHOWN) continue;
    const column = make("li", { class: other ? "pair changed" : "pair" }, tile(image, digits(partners[0].activation)));
    for (const pair of partners) {
      const told = `${digits(pair.contrast_activation)} · cos ${digits(pair.similarity)}`;
      if (pair.contrast_id === null) column.append(make("p", { class: "none" }, "no partner"));
      else column.append(tile(pair.contrast_id, told));
    }
    if (other) column.append(make("p", { class: "mark" }, "changed"));
    else if (before === undefined) column.append(make("p", { class: "mark" }, "new"));
    drawn.push(column);
  }
  document.getElementById("live-pairs").replaceChildren(...drawn);
  const rest = columns.size > SHOWN ? `, ${SHOWN} of ${columns.size} shown` : "";
  document.getElementById("live-pairs-title").textContent =
    columns.size === 0 ? "No pairs" : `Contrast now: ${changed} of ${compared} partners changed${rest}`;
}

function show(result, milliseconds) {
  answer.hidden = false;
  showLabels(result.labels);
  showPairs(result.pairs ?? []);
  const best = result.labels[0];
  const told = best ? `${best.text}, ${digits(best.score)}` : `no label: ${result.note || result.state}`;
  const doubt = result.uncertain ? ", uncertain" : "";
  tell(`${told}${doubt} · ${milliseconds} ms` + (best && result.note ? ` · ${result.note}` : ""), false);
}

function tell(text, wrong) {
  status.textContent = text;
  status.classList.toggle("error", wrong);
}

let timer = 0;
let flight = null; // the question on its way: { abort, since }
let newer = false; // the knobs moved meanwhile

function ask() {
  tidy();
  if (timer) return;
  timer = setTimeout(() => {
    timer = 0;
    send();
  }, PAUSE);
}

async function send() {
  if (flight) {
    newer = true;
    if (performance.now() - flight.since < PATIENCE) return;
    flight.abort.abort();
    return;
  }
  const asked = question();
  if (asked === null) return tell("A field holds no valid number.", true);
  const since = performance.now();
  flight = { abort: new AbortController(), since };
  newer = false;
  answer.classList.add("waiting");
  try {
    const reply = await fetch("/api/v1/label", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
      signal: flight.abort.signal,
    });
    const body = await reply.json();
    if (reply.ok) show(body.results[0], Math.round(performance.now() - since));
    else tell([body.error.message, body.error.hint].filter(Boolean).join(" · "), true);
  } catch (error) {
    if (error.name !== "AbortError") tell("The service does not answer; move a knob to try again.", true);
  }
  answer.classList.remove("waiting");
  flight = null;
  if (newer) ask();
}

knob.method.addEventListener("input", () => (knob.examples.value = chosen().examples));
knobs.addEventListener("input", ask);
knobs.addEventListener("submit", (event) => event.preventDefault());
knobs.addEventListener("reset", () => setTimeout(ask));
live.hidden = false;
tidy();

// The query as text: to the clipboard, or marked so that the keys of the system copy it.
async function copy(button) {
  const told = document.getElementById("copied");
  const text = document.getElementById(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(text.textContent);
    told.textContent = `${button.textContent.replace("Copy as ", "")}: copied.`;
  } catch {
    text.closest("details").open = true;
    getSelection().selectAllChildren(text);
    told.textContent = "The browser does not let pages copy: the text is marked, press Ctrl+C.";
  }
}

document.getElementById("copies").hidden = false;
for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", () => copy(button));
