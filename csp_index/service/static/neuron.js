// The drawer of a neuron's page: labelling it again while knobs move. Texts of the index reach the page as text only,
// never as HTML.

const PAUSE = 60; // milliseconds between two questions, at least
const PATIENCE = 800; // milliseconds after which a question gives way to a newer one
const SHOWN = 12; // pairs
const SLOW = 300; // milliseconds after which the page says that it waits
const REST = 300; // milliseconds without a move after which the address is written

const live = document.getElementById("live");
const knobs = document.getElementById("knobs");
const status = document.getElementById("live-status");
const answer = document.getElementById("live-answer");
const knob = knobs.elements;
// The controls that the page has, in the order in which they stand in an address.
const KNOBS = ["method", "gamma", "examples", "contrast", "threshold", "crop"].filter((name) => knob[name]);
// The partner of each activating image on the page, of several the first.
const stored = new Map(
  [...document.querySelectorAll(".pair[data-image]")].map((pair) => [pair.dataset.image, pair.dataset.contrast]),
);

// The names of the images on the page by their address; and whether there are pictures of them.
const names = new Map(
  [...document.querySelectorAll(".tile a")].map((link) => {
    return [link.getAttribute("href"), link.querySelector("img")?.alt ?? link.textContent];
  }),
);
const pictures = "pictures" in live.dataset;

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

// What a field held when the page was made: the values behind the label shown, if there is one.
function made(field) {
  return field instanceof HTMLSelectElement
    ? [...field.options].find((option) => option.defaultSelected).value
    : field.defaultValue;
}

// Two digits, except where it is left as the page has it.
function gamma() {
  const value = Number(knob.gamma.value);
  return value === Number(made(knob.gamma)) ? value : Math.round(100 * value) / 100;
}

function candidates() {
  return knob.candidates.value.split("\n").map((line) => line.trim()).filter(Boolean);
}

// Which field cannot be asked with, and what it takes; nothing where all can.
function fault() {
  const { lines, letters } = knob.candidates.dataset;
  const { min, max } = knob.examples;
  const own = candidates();
  const long = own.findIndex((text) => [...text].length > Number(letters));
  if (knob.examples.value !== made(knob.examples) && !knob.examples.checkValidity())
    return `examples: a whole number from ${min} to ${max} is expected`;
  if (own.length > Number(lines)) return `candidates: ${own.length} given, at most ${lines} are expected`;
  if (long >= 0) return `candidates: number ${long + 1} is longer than ${letters} characters`;
  return "";
}

// The question: by the method of the label shown, its run and what differs from it; by another, all knobs that count.
function question() {
  const asked = { neurons: [live.dataset.neuron], method: knob.method.value, top: 8 };
  const again = live.dataset.run !== "" && asked.method === made(knob.method);
  if (again) asked.run = live.dataset.run;
  const values = {
    gamma: gamma(),
    examples: Number(knob.examples.value),
    contrast: knob.contrast.value,
    threshold: knob.threshold.value,
    ...(knob.crop && { crop: knob.crop.value === "true" }),
  };
  for (const [name, value] of Object.entries(values)) {
    const same = again && String(value) === String(typeof value === "number" ? Number(made(knob[name])) : made(knob[name]));
    if (!same && !knob[name].disabled) asked[name] = value;
  }
  const own = candidates();
  if (own.length) asked.candidates = own;
  return asked;
}

// Only the knobs that the method looks at can be moved; the others say which methods do.
function tidy() {
  document.getElementById("gamma-told").textContent = String(gamma());
  for (const name of ["gamma", "contrast", "threshold", "crop"].filter((name) => knob[name])) {
    const looking = [...knob.method.options].filter((option) => option.dataset.knobs.split(" ").includes(name));
    knob[name].disabled = !looking.includes(knob.method.selectedOptions[0]);
    knob[name].title = knob[name].disabled ? `Only these methods use it: ${looking.map((option) => option.value).join(", ")}` : "";
  }
}

function showLabels(labels) {
  const most = Math.max(1, ...labels.map((label) => label.score));
  document.getElementById("live-labels").replaceChildren(
    ...labels.map(({ text, score }) => {
      const [name, number] = [make("span", { class: "name" }, text), make("span", { class: "number" }, digits(score))];
      return make("li", {}, name, number, ...(score < 0 ? [] : [bar(score / most)]));
    }),
  );
}

function tile(id, note) {
  const href = `/images/${id}`;
  const name = names.get(href) ?? `image ${id}`;
  const source = { src: `/api/v1/images/${id}/thumbnail`, width: 128, height: 128, decoding: "async", alt: name };
  const shown = pictures ? make("img", source) : make("span", { class: "absent" }, name);
  return make("figure", { class: "tile" }, make("a", { href }, shown), make("figcaption", { "data-unit": "activation" }, note));
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
  answer.classList.toggle("stale", wrong);
}

let timer = 0;
let flight = null; // the question on its way: { abort, since }
let newer = false; // the knobs moved meanwhile
let loaded = false; // the service has answered once

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
  const wrong = fault();
  if (wrong) return tell(wrong, true);
  write();
  const asked = question();
  const since = performance.now();
  flight = { abort: new AbortController(), since };
  newer = false;
  answer.classList.add("waiting");
  const told = loaded ? "waiting for the service …" : "waiting for the service (models load at the first question) …";
  const slow = setTimeout(() => tell(told, false), SLOW);
  try {
    const reply = await fetch("/api/v1/label", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
      signal: flight.abort.signal,
    });
    const body = await reply.json();
    clearTimeout(slow);
    loaded ||= reply.ok;
    if (reply.ok) show(body.results[0], Math.round(performance.now() - since));
    else tell([body.error.message, body.error.hint].filter(Boolean).join(" · "), true);
  } catch (error) {
    clearTimeout(slow);
    if (error.name !== "AbortError") tell("The service does not answer; move a control to try again.", true);
  }
  answer.classList.remove("waiting");
  flight = null;
  if (newer) ask();
}

// How many examples the chosen method takes unless it is told.
function usual() {
  const option = knob.method.selectedOptions[0];
  return option.defaultSelected ? made(knob.examples) : option.dataset.examples;
}

knob.method.addEventListener("input", () => {
  knob.examples.value = usual();
});
knobs.addEventListener("input", ask);
knobs.addEventListener("submit", (event) => event.preventDefault());
knobs.addEventListener("reset", () => setTimeout(ask));
tidy();

// The drawer: beside the pictures on a wide screen, below them on a phone. #live in an address opens it.
const BESIDE = matchMedia("(min-width: 64rem)"); // as in neuron.css
const opener = document.getElementById("live-open");

function open() {
  live.hidden = false;
  opener.setAttribute("aria-expanded", "true");
  live.focus({ preventScroll: true });
  if (!BESIDE.matches) document.getElementById("pairs").scrollIntoView(); // where the drawer leaves room
}

function close() {
  clearTimeout(writing);
  if (named()) history.replaceState(history.state, "", location.pathname + location.search);
  live.hidden = true;
  opener.setAttribute("aria-expanded", "false");
  opener.focus();
}

opener.hidden = false;
opener.addEventListener("click", () => (live.hidden ? open() : close()));
document.getElementById("live-close").addEventListener("click", close);
live.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented) return;
  event.preventDefault();
  close();
});

// The panel in the address, so that a link shows the same labels: #live, then each control that counts by its name.
let writing = 0;

function named() {
  return new URLSearchParams(location.hash.slice(1)).has("live");
}

function write() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    const state = new URLSearchParams();
    for (const name of KNOBS) if (!knob[name].disabled) state.append(name, name === "gamma" ? gamma() : knob[name].value);
    for (const text of candidates()) state.append("candidate", text);
    history.replaceState(history.state, "", `#live&${state}`);
  }, REST);
}

// What a control takes in place of a value; nothing where it takes it.
function expected(name, value) {
  const field = knob[name];
  if (field instanceof HTMLSelectElement) {
    const values = [...field.options].map((option) => option.value);
    return values.includes(value) ? "" : `one of ${values.join(", ")}`;
  }
  const whole = name === "examples";
  const { min, max } = field;
  const within = /^[0-9.e-]+$/.test(value) && Number(value) >= Number(min) && Number(value) <= Number(max);
  if (value === made(field) || (within && (!whole || Number.isInteger(Number(value))))) return "";
  return `a ${whole ? "whole " : ""}number from ${min} to ${max}`;
}

// Sets the controls as the address says; returns the first thing that is wrong with it.
function read(state) {
  const wrong = [];
  for (const name of new Set(state.keys())) {
    if (![...KNOBS, "live", "candidate"].includes(name)) wrong.push(`${name.slice(0, 40)} is none of ${KNOBS.join(", ")}, candidate`);
  }
  for (const name of KNOBS) {
    const value = state.get(name) ?? (name === "examples" ? usual() : made(knob[name]));
    const takes = expected(name, value);
    knob[name].value = takes ? made(knob[name]) : value;
    if (takes) wrong.push(`${name} is ${value.slice(0, 40)}, but ${takes} is expected`);
  }
  knob.candidates.value = state.getAll("candidate").join("\n");
  return wrong[0] ?? "";
}

function follow() {
  if (!named()) return;
  const state = new URLSearchParams(location.hash.slice(1));
  const wrong = read(state);
  open();
  tidy();
  if (wrong) tell(`The address: ${wrong}.`, true);
  else if ([...state.keys()].some((name) => name !== "live")) ask();
}

addEventListener("hashchange", follow);
follow();
