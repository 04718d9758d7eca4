// The page of a layer's map: neurons are chosen on it by drawing around them, by what is in view, or by cluster, and
// come as cards below; the map moves and grows under wheel, fingers, buttons and keys. `atlas.js` draws it.
const box = document.getElementById("atlas");
const tools = document.getElementById("tools");
const pointed = document.getElementById("pointed");
const chosenCards = document.getElementById("chosen");
const lassoButton = document.getElementById("lasso");
const LONGEST = 4000; // characters of a list of neurons in an address

let page, atlas; // the map's document, and its drawing
const tip = document.createElement("div");

// --- pointing

function point(at, x, y) {
  if (at === atlas.hot) return;
  atlas.hot = at;
  box.classList.toggle("hit", at >= 0);
  atlas.draw();
  tip.hidden = at < 0 || x === undefined;
  if (tip.hidden) return;
  const one = page.points[at];
  const pictured = one.image !== null && document.getElementById("lightbox"); // pages of an index without pictures have none
  tip.replaceChildren(...(pictured ? [picture(one.image)] : []), `${one.index}: ${one.label ?? "no label"}`);
  const room = tip.getBoundingClientRect();
  const [left, top_] = atlas.beside(x, y, room.width, room.height);
  tip.style.transform = `translate(${left}px, ${top_}px)`;
}

function picture(id) {
  const image = document.createElement("img");
  image.src = `/api/v1/images/${id}/thumbnail`;
  image.alt = "";
  return image;
}

// --- choosing

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
  const chosen = (atlas.chosen = new Set(points));
  for (const link of document.querySelectorAll("[data-cluster]")) {
    if (link.dataset.cluster === String(cluster)) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  atlas.draw();
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
  if (atlas.chosen !== chosen) return; // others were chosen meanwhile
  if (answer.ok) chosenCards.replaceChildren(...content.body.childNodes);
  else pointed.textContent = "The cards of these neurons did not come: choose again.";
}

function chooseCluster(number) {
  const own = atlas.every().filter((at) => page.points[at].cluster === number);
  atlas.show(own);
  choose(own, number);
}

// --- what people do

const fingers = new Map();
let dragged = 0;

function here(event) {
  const frame = atlas.canvas.getBoundingClientRect();
  return [event.clientX - frame.left, event.clientY - frame.top];
}

const onMap = ([x, y]) => [atlas.fromX(x), atlas.fromY(y)];

function onDown(event) {
  const at = here(event);
  fingers.set(event.pointerId, at);
  dragged = 0;
  atlas.lasso = fingers.size === 1 && (atlas.draws || event.shiftKey) ? [onMap(at)] : null; // two fingers draw nothing
  if (atlas.lasso || event.pointerType === "mouse") atlas.canvas.setPointerCapture(event.pointerId);
}

function onMove(event) {
  const [x, y] = here(event);
  const before = fingers.get(event.pointerId);
  if (!before) return event.pointerType === "mouse" ? point(atlas.nearest(x, y), x, y) : undefined;
  dragged += Math.hypot(x - before[0], y - before[1]);
  if (fingers.size === 2) {
    const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
    const apart = (from) => Math.hypot(from[0] - other[0], from[1] - other[1]);
    atlas.grow(apart([x, y]) / Math.max(1, apart(before)), (x + other[0]) / 2, (y + other[1]) / 2);
  } else if (atlas.lasso) {
    atlas.lasso.push(onMap([x, y]));
    atlas.draw();
  } else {
    atlas.drag(x - before[0], y - before[1]);
  }
  fingers.set(event.pointerId, [x, y]);
}

function onUp(event) {
  const [x, y] = here(event);
  const alone = fingers.size === 1;
  fingers.delete(event.pointerId);
  if (atlas.lasso) {
    const line = atlas.lasso;
    atlas.lasso = null;
    if (line.length > 2 && event.type === "pointerup") choose(atlas.every().filter((at) => inside([atlas.xs[at], atlas.ys[at]], line)));
    return atlas.draw();
  }
  if (event.type !== "pointerup" || dragged > 4 || !alone) return;
  const at = atlas.nearest(x, y);
  if (at >= 0 && (event.pointerType === "mouse" || at === atlas.hot)) location.assign(`${box.dataset.layer}/${page.points[at].index}`);
  else point(at, x, y);
}

const STEP = 0.15; // of what is seen, a key
const KEYS = {
  ArrowLeft: () => atlas.step(-STEP, 0),
  ArrowRight: () => atlas.step(STEP, 0),
  ArrowUp: () => atlas.step(0, -STEP),
  ArrowDown: () => atlas.step(0, STEP),
  "+": () => atlas.grow(1.5),
  "=": () => atlas.grow(1.5),
  "-": () => atlas.grow(1 / 1.5),
  0: () => atlas.whole(),
  Escape: () => choose([]),
};

function onKey(event) {
  if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
}

function listen() {
  const { canvas } = atlas;
  canvas.addEventListener("pointerdown", onDown);
  canvas.addEventListener("pointermove", onMove);
  canvas.addEventListener("pointerup", onUp);
  canvas.addEventListener("pointercancel", onUp);
  canvas.addEventListener("pointerleave", ({ pointerType }) => pointerType !== "mouse" || fingers.size || point(-1)); // a finger leaves as it is lifted
  const wheel = (event) => atlas.grow(Math.exp(-event.deltaY / 400), ...here(event)) && event.preventDefault();
  canvas.addEventListener("wheel", wheel, { passive: false });
  const pinch = (event) => event.touches.length > 1 && event.cancelable && event.preventDefault(); // else it scrolls the page
  canvas.addEventListener("touchmove", pinch, { passive: false });
  box.addEventListener("keydown", onKey);
  document.getElementById("closer").addEventListener("click", () => atlas.grow(1.5));
  document.getElementById("farther").addEventListener("click", () => atlas.grow(1 / 1.5));
  document.getElementById("whole").addEventListener("click", () => atlas.whole());
  document.getElementById("seen").addEventListener("click", () => choose(atlas.seen()));
  lassoButton.addEventListener("click", () => {
    atlas.draws = !atlas.draws;
    lassoButton.setAttribute("aria-pressed", String(atlas.draws));
    box.classList.toggle("drawing", atlas.draws);
    atlas.hold();
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
  const again = () => atlas.readColours();
  new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  new ResizeObserver(() => atlas.fit()).observe(box);
}

// What the address chooses is bright from the start; the server has sent its cards.
function first() {
  const terms = new URL(location.href).searchParams;
  const cluster = terms.get("cluster");
  const numbers = new Set();
  for (const part of (terms.get("neurons") ?? "").split(",").filter(Boolean)) {
    const [low, high] = part.split("-").map(Number);
    for (let number = low; number <= Math.min(high ?? low, low + 100000); number++) numbers.add(number);
  }
  const is = (one) => (cluster !== null ? one.cluster === Number(cluster) : numbers.has(one.index));
  atlas.chosen = new Set(atlas.every().filter((at) => is(page.points[at])));
  if (cluster !== null) atlas.show([...atlas.chosen]);
}

async function start() {
  const answer = await fetch(box.dataset.json);
  if (!answer.ok) return; // the drawing without scripts stays
  page = await answer.json();
  atlas = new globalThis.Atlas(box, page);
  tip.className = "tip";
  tip.hidden = true;
  const told = box.querySelector("svg").getAttribute("aria-label");
  box.replaceChildren(atlas.canvas, tip);
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `${told} Arrows move it, + and − make it larger and smaller, 0 shows all of it.`);
  tools.hidden = false;
  atlas.fit();
  atlas.readColours();
  listen();
  first();
}

if (box) start();
