// A layer's page: the map under the pointer, and forms that answer at once.
"use strict";

for (const form of [document.getElementById("query"), document.getElementById("colours")]) {
  if (!form) continue;
  form.addEventListener("change", (event) => {
    if (event.target instanceof HTMLSelectElement) form.requestSubmit();
  });
  form.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) if (value === "") formData.delete(name); // a shorter address
  });
}

const map = document.getElementById("map");
const pointed = document.getElementById("pointed");
const REACH = 4; // of the map's 100 units: so near a point the pointer means it

function place(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
  return [point.x, point.y];
}

function nearest(points, [x, y]) {
  let best = null;
  let least = REACH * REACH;
  for (const point of points) {
    const distance = (point.x * 100 - x) ** 2 + (100 - point.y * 100 - y) ** 2;
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}

let under = null; // the neuron that is told of

function tellOf(points, colour, event) {
  under = nearest(points, place(event));
  map.classList.toggle("hit", under !== null);
  if (under === null) {
    pointed.textContent = "";
    return;
  }
  const value = under.value === null ? "no value" : Number(under.value).toPrecision(3);
  pointed.textContent = `${under.index}: ${under.label ?? "no label"} · ${colour.replace("_", " ")} ${value}`;
}

let wanted = null; // the map's document, asked for once

function load() {
  wanted ??= fetch(map.dataset.json).then(async (answer) => {
    if (!answer.ok) return;
    const { points, colour } = await answer.json();
    const tell = (event) => tellOf(points, colour, event);
    map.addEventListener("pointermove", tell);
    map.addEventListener("pointerdown", tell);
    map.addEventListener("pointerleave", () => (pointed.textContent = ""));
    return tell;
  });
  return wanted;
}

// Opens the neuron that is told of. The first tap may come before the points: it waits for them.
async function go(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (under === null && event.target.closest("a")) return; // a link of its own
  event.preventDefault();
  const tell = await load();
  if (under === null && tell) tell(event);
  if (under !== null) location.assign(`${map.dataset.layer}/${under.index}`);
}

if (map) {
  map.addEventListener("pointerenter", load, { once: true });
  map.addEventListener("click", go);
  const dots = new Map([...map.querySelectorAll("a")].map((dot) => [dot.getAttribute("href"), dot]));
  for (const card of document.querySelectorAll(".neuron")) {
    const dot = dots.get(card.querySelector("a").getAttribute("href"));
    if (!dot) continue;
    const show = () => {
      dot.classList.add("on");
      map.append(dot); // above the others
    };
    card.addEventListener("pointerenter", show);
    card.addEventListener("focusin", show);
    card.addEventListener("pointerleave", () => dot.classList.remove("on"));
    card.addEventListener("focusout", () => dot.classList.remove("on"));
  }
}
