// The map of a layer on a canvas: it moves and grows under wheel, fingers, buttons and keys; neurons are chosen by
// drawing around them, by what is in view, or by cluster, and come as cards below.
const box = document.getElementById("atlas");
const tools = document.getElementById("tools");
const pointed = document.getElementById("pointed");
const chosenCards = document.getElementById("chosen");
const MOST = 40; // times that the map grows, at most
const REACH = 12; // pixels: so near a point the pointer means it
const LONGEST = 4000; // characters of a list of neurons in an address
const ROUND = 6000; // points that are drawn as circles; of more, squares: they take a quarter of the time
const STEPS = 8;
const HUES = 9;

let page = null; // the map's document
let xs, ys, colours; // of its points, in 0 .. 1 from the upper left; the color of each
let scale = 1, left = 0, top_ = 0; // of the view: what part of the map, from where
let chosen = new Set(); // places of points
let hot = -1; // the point that is pointed at, here or among the cards
let lasso = null; // the line that is being drawn, in the map's units
let canvas, context, tip, width = 0, height = 0, side = 0;

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const toX = (x) => (x - left) * scale * side + (width - side) / 2;
const toY = (y) => (y - top_) * scale * side + (height - side) / 2;
const fromX = (pixel) => (pixel - (width - side) / 2) / side / scale + left;
const fromY = (pixel) => (pixel - (height - side) / 2) / side / scale + top_;

// --- colors, as the style sheet has them in this theme

function colourOf(kind) {
  const probe = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  probe.setAttribute("class", kind);
  box.append(probe);
  const { fill } = getComputedStyle(probe);
  probe.remove();
  return fill;
}

function kindOf(point) {
  if (point.value === null) return "none";
  if (page.groups.length) return `h${point.value % HUES}`;
  const part = page.high > page.low ? (point.value - page.low) / (page.high - page.low) : 1;
  return `s${clamp(Math.floor(part * STEPS), 0, STEPS - 1)}`;
}

let palette = new Map();
let ink, paper, accent, soft;

function readColours() {
  [ink, paper, accent, soft] = ["ink", "panel", "accent", "edge"].map((name) => colourOf(`of-${name}`));
  palette = new Map();
  colours = page.points.map((one) => {
    const kind = kindOf(one);
    if (!palette.has(kind)) palette.set(kind, kind === "none" ? soft : colourOf(kind));
    return kind;
  });
}

// --- drawing

let waiting = false;

function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    paint();
  });
}

function paint() {
  const sharp = devicePixelRatio || 1;
  context.setTransform(sharp, 0, 0, sharp, 0, 0);
  context.clearRect(0, 0, width, height);
  const size = clamp((9 - Math.log2(xs.length) / 2) * 0.75 * Math.sqrt(Math.sqrt(scale)), 1.2, 7);
  const byColour = new Map([...palette.keys()].map((kind) => [kind, []]));
  for (let at = 0; at < xs.length; at++) {
    const x = toX(xs[at]), y = toY(ys[at]);
    if (x > -size && x < width + size && y > -size && y < height + size) byColour.get(colours[at]).push(at);
  }
  for (const [kind, points] of byColour) {
    context.fillStyle = palette.get(kind);
    for (const bright of [false, true]) {
      context.globalAlpha = bright ? (kind === "none" ? 0.6 : 0.9) : 0.25;
      context.beginPath();
      for (const at of points) {
        if ((!chosen.size || chosen.has(at)) === bright) spot(toX(xs[at]), toY(ys[at]), size);
      }
      context.fill();
    }
  }
  context.globalAlpha = 1;
  paintNames();
  if (hot >= 0) {
    context.beginPath();
    context.arc(toX(xs[hot]), toY(ys[hot]), size + 4, 0, 7);
    context.strokeStyle = ink;
    context.lineWidth = 2.5;
    context.stroke();
  }
  if (lasso) paintLasso();
}

function spot(x, y, size) {
  if (page.points.length > ROUND) return context.rect(x - size, y - size, 2 * size, 2 * size);
  context.moveTo(x + size, y);
  context.arc(x, y, size, 0, 7);
}

// Names in the order of the clusters' sizes; one that would cover another waits until the map has grown.
function paintNames() {
  context.font = `600 13px ${getComputedStyle(box).fontFamily}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round"; // of the edge around letters
  const taken = [];
  for (const one of page.clusters) {
    const name = one.labels[0] ?? "";
    const half = context.measureText(name).width / 2 + 3;
    const at = toX(one.x), x = clamp(at, half, width - half), y = toY(1 - one.y) - 14;
    if (!name || at < 0 || at > width || y < 9 || y > height - 9) continue;
    if (taken.some((other) => Math.abs(other.y - y) < 18 && Math.abs(other.x - x) < other.half + half)) continue;
    taken.push({ x, y, half });
    context.strokeStyle = paper;
    context.lineWidth = 4;
    context.strokeText(name, x, y);
    context.fillStyle = ink;
    context.fillText(name, x, y);
  }
}

function paintLasso() {
  context.beginPath();
  for (const [x, y] of lasso) context.lineTo(toX(x), toY(y));
  context.closePath();
  context.globalAlpha = 0.12;
  context.fillStyle = accent;
  context.fill();
  context.globalAlpha = 1;
  context.strokeStyle = accent;
  context.lineWidth = 1.5;
  context.stroke();
}

// --- moving

function grow(factor, x = width / 2, y = height / 2) {
  const before = scale;
  const at = [fromX(x), fromY(y)];
  scale = clamp(scale * factor, 1, MOST);
  left += at[0] - fromX(x);
  top_ += at[1] - fromY(y);
  hold();
  return scale !== before;
}

function move(right, down) {
  left += right;
  top_ += down;
  hold();
}

function hold() {
  const room = 0.05;
  left = clamp(left, -room, 1 + room - 1 / scale);
  top_ = clamp(top_, -room, 1 + room - 1 / scale);
  if (scale === 1) [left, top_] = [0, 0];
  box.classList.toggle("held", scale > 1 || drawsLasso());
  draw();
}

function show(points) {
  if (!points.length) return;
  const [x0, x1] = [Math.min(...points.map((at) => xs[at])), Math.max(...points.map((at) => xs[at]))];
  const [y0, y1] = [Math.min(...points.map((at) => ys[at])), Math.max(...points.map((at) => ys[at]))];
  scale = clamp(0.6 / Math.max(x1 - x0, y1 - y0, 0.02), 1, MOST / 4);
  left = (x0 + x1) / 2 - 0.5 / scale;
  top_ = (y0 + y1) / 2 - 0.5 / scale;
  hold();
}

// --- pointing

function nearest(x, y) {
  let best = -1, least = REACH * REACH;
  for (let at = 0; at < xs.length; at++) {
    const distance = (toX(xs[at]) - x) ** 2 + (toY(ys[at]) - y) ** 2;
    if (distance < least) [best, least] = [at, distance];
  }
  return best;
}

function point(at, x, y) {
  if (at === hot) return;
  hot = at;
  box.classList.toggle("hit", at >= 0);
  draw();
  tip.hidden = at < 0 || x === undefined;
  if (at < 0) return;
  const one = page.points[at];
  if (tip.hidden) return;
  const pictured = one.image !== null && document.getElementById("lightbox"); // pages of an index without pictures have none
  tip.replaceChildren(...(pictured ? [picture(one.image)] : []), `${one.index}: ${one.label ?? "no label"}`);
  const room = tip.getBoundingClientRect();
  tip.style.transform = `translate(${clamp(x + 14, 0, width - room.width)}px, ${clamp(y + 14, 0, height - room.height)}px)`;
}

function picture(id) {
  const image = document.createElement("img");
  image.src = `/api/v1/images/${id}/thumbnail`;
  image.alt = "";
  return image;
}

// --- choosing

const drawsLasso = () => document.getElementById("lasso").getAttribute("aria-pressed") === "true";

function inside([x, y], line) {
  let is = false;
  for (let at = 0, last = line.length - 1; at < line.length; last = at++) {
    const [ax, ay] = line[at], [bx, by] = line[last];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) is = !is;
  }
  return is;
}

function ranges(numbers) {
  const parts = [];
  let length = 0;
  for (let at = 0; at < numbers.length; at++) {
    const first = numbers[at];
    while (numbers[at + 1] === numbers[at] + 1) at++;
    const part = first === numbers[at] ? `${first}` : `${first}-${numbers[at]}`;
    length += part.length + 1;
    if (length > LONGEST) return [parts.join(","), numbers.length];
    parts.push(part);
  }
  return [parts.join(","), 0];
}

async function choose(points, cluster = null) {
  chosen = new Set(points);
  for (const link of document.querySelectorAll("[data-cluster]")) {
    if (link.dataset.cluster === String(cluster)) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  draw();
  const [list, cut] = ranges([...points].map((at) => page.points[at].index).sort((a, b) => a - b));
  pointed.textContent = cut ? `${cut} neurons: their list is too long for an address, which has the first of them` : "";
  const address = new URL(location.href);
  address.searchParams.delete("cluster");
  address.searchParams.delete("neurons");
  const asked = new URL(box.dataset.cards, location.href);
  const term = cluster === null ? ["neurons", list] : ["cluster", String(cluster)];
  if (points.length || cluster !== null) {
    address.searchParams.set(...term);
    asked.searchParams.set(...term);
  }
  history.replaceState(null, "", address);
  const answer = await fetch(asked, { headers: { accept: "text/html" } });
  const content = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (answer.ok && chosen.size === new Set(points).size) chosenCards.replaceChildren(...content.body.childNodes);
  else if (!answer.ok) pointed.textContent = "The cards of these neurons did not come: choose again.";
}

const every = () => [...xs.keys()];

function chooseCluster(number) {
  const own = every().filter((at) => page.points[at].cluster === number);
  show(own);
  choose(own, number);
}

// --- what people do

const fingers = new Map();
let dragged = 0;

function here(event) {
  const frame = canvas.getBoundingClientRect();
  return [event.clientX - frame.left, event.clientY - frame.top];
}

function onDown(event) {
  const [x, y] = here(event);
  fingers.set(event.pointerId, [x, y]);
  dragged = 0;
  if (fingers.size === 1 && (drawsLasso() || event.shiftKey)) lasso = [[fromX(x), fromY(y)]];
  if (lasso || event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
}

function onMove(event) {
  const [x, y] = here(event);
  const before = fingers.get(event.pointerId);
  if (!before) return event.pointerType === "mouse" ? point(nearest(x, y), x, y) : undefined;
  dragged += Math.hypot(x - before[0], y - before[1]);
  if (fingers.size === 2) {
    const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
    const apart = (from) => Math.hypot(from[0] - other[0], from[1] - other[1]);
    grow(apart([x, y]) / Math.max(1, apart(before)), (x + other[0]) / 2, (y + other[1]) / 2);
  } else if (lasso) {
    lasso.push([fromX(x), fromY(y)]);
    draw();
  } else {
    move((before[0] - x) / side / scale, (before[1] - y) / side / scale);
  }
  fingers.set(event.pointerId, [x, y]);
}

function onUp(event) {
  const [x, y] = here(event);
  const alone = fingers.size === 1;
  fingers.delete(event.pointerId);
  if (lasso) {
    const line = lasso;
    lasso = null;
    if (line.length > 2) choose(every().filter((at) => inside([xs[at], ys[at]], line)));
    return draw();
  }
  if (event.type !== "pointerup" || dragged > 4 || !alone) return;
  const at = nearest(x, y);
  if (at >= 0 && (event.pointerType === "mouse" || at === hot)) location.assign(`${box.dataset.layer}/${page.points[at].index}`);
  else point(at, x, y);
}

function onKey(event) {
  const step = 0.15 / scale;
  const keys = {
    ArrowLeft: () => move(-step, 0),
    ArrowRight: () => move(step, 0),
    ArrowUp: () => move(0, -step),
    ArrowDown: () => move(0, step),
    "+": () => grow(1.5),
    "=": () => grow(1.5),
    "-": () => grow(1 / 1.5),
    0: () => grow(1 / MOST),
    Escape: () => choose([]),
  };
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
}

function listen() {
  canvas.addEventListener("pointerdown", onDown);
  canvas.addEventListener("pointermove", onMove);
  canvas.addEventListener("pointerup", onUp);
  canvas.addEventListener("pointercancel", onUp);
  canvas.addEventListener("pointerleave", () => fingers.size || point(-1));
  const wheel = (event) => grow(Math.exp(-event.deltaY / 400), ...here(event)) && event.preventDefault();
  canvas.addEventListener("wheel", wheel, { passive: false });
  box.addEventListener("keydown", onKey);
  document.getElementById("closer").addEventListener("click", () => grow(1.5));
  document.getElementById("farther").addEventListener("click", () => grow(1 / 1.5));
  document.getElementById("whole").addEventListener("click", () => grow(1 / MOST));
  document.getElementById("lasso").addEventListener("click", ({ currentTarget }) => {
    currentTarget.setAttribute("aria-pressed", String(!drawsLasso()));
    box.classList.toggle("drawing", drawsLasso());
    hold();
  });
  document.getElementById("seen").addEventListener("click", () => {
    const within = (at) => clamp(toX(xs[at]), 0, width) === toX(xs[at]) && clamp(toY(ys[at]), 0, height) === toY(ys[at]);
    choose(every().filter(within));
  });
  for (const link of document.querySelectorAll("[data-cluster]")) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      chooseCluster(Number(link.dataset.cluster));
    });
  }
  const lit = (event) => {
    const card = event.target instanceof Element && event.target.closest(".neuron");
    const number = card ? Number(card.querySelector("a").getAttribute("href").split("/").pop()) : -1;
    point(card ? page.points.findIndex((one) => one.index === number) : -1);
  };
  for (const kind of ["pointerover", "focusin"]) chosenCards.addEventListener(kind, lit);
  for (const kind of ["pointerleave", "focusout"]) chosenCards.addEventListener(kind, () => point(-1));
  const again = () => (readColours(), draw());
  new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  new ResizeObserver(fit).observe(box);
}

function fit() {
  ({ width, height } = canvas.getBoundingClientRect());
  side = Math.min(width, height) * 0.94;
  const sharp = devicePixelRatio || 1;
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  draw();
}

function first() {
  const terms = new URL(location.href).searchParams;
  const cluster = terms.get("cluster");
  const numbers = new Set();
  for (const part of (terms.get("neurons") ?? "").split(",").filter(Boolean)) {
    const [low, high] = part.split("-").map(Number);
    for (let number = low; number <= Math.min(high ?? low, low + 100000); number++) numbers.add(number);
  }
  const is = (one) => (cluster !== null ? one.cluster === Number(cluster) : numbers.has(one.index));
  chosen = new Set(every().filter((at) => is(page.points[at])));
  if (cluster !== null) show([...chosen]);
}

async function start() {
  const answer = await fetch(box.dataset.json);
  if (!answer.ok) return; // the drawing without scripts stays
  page = await answer.json();
  xs = Float32Array.from(page.points, (one) => one.x);
  ys = Float32Array.from(page.points, (one) => 1 - one.y);
  canvas = document.createElement("canvas");
  context = canvas.getContext("2d");
  tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  const told = box.querySelector("svg").getAttribute("aria-label");
  box.replaceChildren(canvas, tip);
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `${told} Arrows move it, + and − make it larger and smaller, 0 shows all of it.`);
  tools.hidden = false;
  fit();
  readColours();
  listen();
  first();
  draw();
}

if (box) start();
