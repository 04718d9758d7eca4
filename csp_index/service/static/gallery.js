// A layer's page: one long list that loads as one scrolls, which neurons are chosen, ranges dragged over histograms.
// Without this script the list has pages, boxes choose neurons of one page, and ranges are written as numbers.

const list = document.getElementById("list");
const bar = document.getElementById("chosen-bar");
const KEPT = 6; // blocks of rows that stay in the page; others are loaded again when they come near

// Neurons as the addresses of pages have them: 3,8,100-120.
function asRanges(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const parts = [];
  for (let at = 0; at < sorted.length; ) {
    let end = at;
    while (sorted[end + 1] === sorted[end] + 1) end++;
    parts.push(end > at ? `${sorted[at]}-${sorted[end]}` : `${sorted[at]}`);
    at = end + 1;
  }
  return parts.join(",");
}

function* fromRanges(text) {
  for (const part of text.split(",").filter(Boolean)) {
    const [first, last] = part.split("-").map(Number);
    for (let number = first; number <= (last ?? first); number++) yield number;
  }
}

const chosen = new Set(); // numbers of neurons, also of those that are not in the page just now
let lastBox = null;

const boxes = () => [...list.querySelectorAll('input[name="neurons"]')];
const numberOf = (box) => Number(box.value.slice(box.value.lastIndexOf("/") + 1));

function mark(part) {
  for (const box of part.querySelectorAll('input[name="neurons"]')) box.checked = chosen.has(numberOf(box));
}

function tell() {
  const some = chosen.size > 0;
  document.getElementById("chosen").textContent = some ? `${chosen.size.toLocaleString("en-US")} chosen:` : "None chosen:";
  document.getElementById("compare").disabled = chosen.size < 2 || chosen.size > 4;
  for (const button of bar.querySelectorAll("button[formaction], #choose-none, #tag-open")) button.disabled = !some;
  bar.classList.toggle("some", some);
}

function choosing() {
  const form = bar.closest("form");
  for (const box of boxes()) if (box.checked) chosen.add(numberOf(box)); // of a form that the browser filled again
  form.addEventListener("click", (event) => {
    const box = event.target;
    if (!(box instanceof HTMLInputElement) || box.name !== "neurons") return;
    const all = boxes();
    const span = event.shiftKey && lastBox?.isConnected ? [all.indexOf(lastBox), all.indexOf(box)].sort((a, b) => a - b) : null;
    for (const one of span ? all.slice(span[0], span[1] + 1) : [box]) {
      one.checked = box.checked;
      if (box.checked) chosen.add(numberOf(one));
      else chosen.delete(numberOf(one));
    }
    lastBox = box;
    tell();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { layer, here, method } = bar.dataset;
    const terms = new URLSearchParams();
    if (event.submitter?.name !== "format") {
      for (const number of [...chosen].sort((a, b) => a - b)) terms.append("neurons", `${layer}/${number}`);
      location.assign(`/compare?${terms}`);
      return;
    }
    terms.set("neurons", asRanges(chosen));
    if (terms.get("neurons").length > 15000) {
      document.getElementById("chosen").textContent = "Too many for one address: filter, then take all that match.";
      return;
    }
    if (method) terms.set("method", method);
    terms.set("format", event.submitter.value);
    location.assign(`${here}/chosen?${terms}`);
  });
  const all = document.getElementById("choose-all");
  all.hidden = false;
  all.addEventListener("click", async () => {
    const reply = await fetch(bar.dataset.matching);
    if (!reply.ok) return;
    for (const number of fromRanges((await reply.json()).neurons)) chosen.add(number);
    mark(list);
    tell();
  });
  const none = document.getElementById("choose-none");
  none.hidden = false;
  none.addEventListener("click", () => {
    chosen.clear();
    mark(list);
    tell();
  });
  const opener = document.getElementById("tag-open");
  if (opener) {
    const box = document.getElementById("tag-box");
    opener.hidden = false;
    opener.addEventListener("click", () => {
      document.getElementById("tag-neurons").value = asRanges(chosen);
      document.getElementById("tag-count").textContent = chosen.size === 1 ? "1 neuron" : `${chosen.size} neurons`;
      box.showModal();
    });
    document.getElementById("tag-close").addEventListener("click", () => box.close());
  }
  addEventListener("pageshow", tell);
  tell();
}

// Blocks of rows: each stands in the page from the start, as high as its rows will be, and is filled when it is near.
const blocks = [];
let near = null;

function heightOf(count) {
  const first = list.firstElementChild;
  const columns = getComputedStyle(first).gridTemplateColumns.split(" ").length;
  const gap = parseFloat(getComputedStyle(first).rowGap) || 0;
  const row = (first.offsetHeight + gap) / Math.ceil(first.children.length / columns);
  return Math.max(0, Math.ceil(count / columns) * row - gap);
}

function fill(block) {
  block.loading ??= (async () => {
    try {
      const reply = await fetch(`${list.dataset.rows}&start=${block.start}`, { headers: { Accept: "text/html" } });
      if (!reply.ok) throw new Error(`status ${reply.status}`);
      const content = document.createElement("template");
      content.innerHTML = await reply.text();
      mark(content.content);
      block.box.replaceChildren(content.content);
      block.box.style.height = "";
      block.box.removeAttribute("aria-busy");
      block.filled = true;
    } catch {
      const again = document.createElement("button");
      again.type = "button";
      again.textContent = "These neurons could not be loaded: try again";
      again.addEventListener("click", () => ((block.loading = null), fill(block)));
      const line = document.createElement("p");
      line.append(again);
      block.box.replaceChildren(line);
    }
    empty();
  })();
  return block.loading;
}

// Lets go of the blocks that are farthest away, so that the page stays small however long the list is.
function empty() {
  const middle = scrollY + innerHeight / 2;
  const distance = (block) => Math.abs(block.box.offsetTop + block.box.offsetHeight / 2 - middle);
  const filled = blocks.filter((block) => block.filled).sort((a, b) => distance(b) - distance(a));
  for (const block of filled.slice(0, Math.max(0, filled.length - KEPT))) {
    if (block.near || block.box.contains(document.activeElement)) continue;
    block.box.style.height = `${block.box.offsetHeight}px`;
    block.box.replaceChildren();
    block.filled = false;
    block.loading = null;
  }
}

function lengthen() {
  const { start, total, block: size } = list.dataset;
  for (let first = Number(start); first < Number(total); first += Number(size)) {
    const box = document.createElement("div");
    box.className = "block";
    box.setAttribute("aria-busy", "true");
    blocks.push({ box, start: first, count: Math.min(Number(size), Number(total) - first), loading: null, filled: false, near: false });
  }
  if (!blocks.length) return;
  for (const block of blocks) block.box.style.height = `${heightOf(block.count)}px`;
  list.append(...blocks.map((block) => block.box));
  document.querySelector('#pages a[rel="next"]')?.remove(); // its neurons stand in the list
  addEventListener("resize", () => {
    for (const block of blocks) if (!block.filled) block.box.style.height = `${heightOf(block.count)}px`;
  });
  near = new IntersectionObserver(
    (seen) => {
      for (const entry of seen) {
        const block = blocks.find((one) => one.box === entry.target);
        block.near = entry.isIntersecting;
        if (block.near) fill(block);
      }
    },
    { rootMargin: "120% 0px" },
  );
}

// The neuron at the top of the window, by its place in the list, and how far from there it stands.
function topNeuron() {
  const parts = [[list.firstElementChild, Number(list.dataset.place)], ...blocks.map((one) => [one.box.firstElementChild, one.start])];
  for (const [rows, start] of parts) {
    if (!rows || rows.tagName !== "UL" || rows.getBoundingClientRect().bottom < 0) continue;
    const at = [...rows.children].findIndex((one) => one.getBoundingClientRect().bottom > 0);
    if (at >= 0) return { place: start + at, top: rows.children[at].getBoundingClientRect().top };
  }
  return null;
}

function remember() {
  const numbers = asRanges(chosen);
  history.replaceState({ ...history.state, list: { ...topNeuron(), chosen: numbers.length < 15000 ? numbers : "" } }, "");
}

async function goBack(saved) {
  for (const number of fromRanges(saved.chosen ?? "")) chosen.add(number);
  mark(list);
  if (saved.place === undefined) return;
  const block = blocks.find((one) => saved.place >= one.start && saved.place < one.start + one.count);
  if (block) await fill(block);
  const rows = block ? block.box.firstElementChild : list.firstElementChild;
  const neuron = rows.children[saved.place - (block ? block.start : Number(list.dataset.place))];
  if (neuron) scrollBy({ top: neuron.getBoundingClientRect().top - saved.top, behavior: "instant" });
}

async function start() {
  const saved = history.state?.list;
  if (saved && blocks.length) history.scrollRestoration = "manual";
  if (saved) await goBack(saved);
  if (near) for (const block of blocks) near.observe(block.box); // now, when the window is where it was
  tell();
  let waiting = 0;
  addEventListener("scroll", () => {
    clearTimeout(waiting);
    waiting = setTimeout(remember, 200);
  }, { passive: true });
  addEventListener("pagehide", remember);
  document.addEventListener("click", (event) => event.target.closest("a") && remember(), { capture: true });
}

// A range of bins, dragged over a histogram, becomes the two numbers below it.
function brushing(range) {
  const edges = range.dataset.edges.split(" ");
  const drawing = range.querySelector("svg");
  const brush = drawing.querySelector(".brush");
  const fields = range.querySelectorAll("input");
  let from = null;

  const binAt = (event) => {
    const box = drawing.getBoundingClientRect();
    const bins = edges.length - 1;
    return Math.min(bins - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * bins)));
  };
  const show = (a, b) => {
    const width = 100 / (edges.length - 1);
    brush.setAttribute("x", String(width * a));
    brush.setAttribute("width", String(width * (b - a)));
  };
  const place = (value, otherwise) => {
    const at = edges.findIndex((edge) => Number(edge) >= Number(value));
    return value === "" ? otherwise : at < 0 ? edges.length - 1 : at;
  };
  const rest = () => {
    const open = fields[0].value === "" && fields[1].value === "";
    show(open ? 0 : place(fields[0].value, 0), open ? 0 : place(fields[1].value, edges.length - 1));
  };
  drawing.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drawing.setPointerCapture(event.pointerId);
    from = binAt(event);
    show(from, from + 1);
  });
  drawing.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const at = binAt(event);
    show(Math.min(from, at), Math.max(from, at) + 1);
  });
  drawing.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const at = binAt(event);
    fields[0].value = edges[Math.min(from, at)];
    fields[1].value = edges[Math.max(from, at) + 1];
    from = null;
    fields[0].form.requestSubmit();
  });
  drawing.addEventListener("pointercancel", () => ((from = null), rest()));
  for (const field of fields) field.addEventListener("input", rest);
  rest();
}

const ranges = document.getElementById("ranges");
const isNarrow = matchMedia("(max-width: 46rem)").matches;
if (ranges && isNarrow && ![...ranges.querySelectorAll("input")].some((field) => field.value)) ranges.open = false;
for (const range of document.querySelectorAll(".range")) brushing(range);
if (list) {
  choosing();
  lengthen();
  start();
}
