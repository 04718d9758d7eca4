// A picture in full, over the page: the original where the service shows it, else the small picture, and why.
// Without this script, and with a middle click, a picture leads to the page of its image.
const box = document.getElementById("lightbox");
const shown = document.createElement("img");
shown.id = "lightbox-picture";
const told = document.getElementById("lightbox-told");
const named = document.getElementById("lightbox-name");
const leads = document.getElementById("lightbox-page");
const before = document.getElementById("lightbox-before");
const after = document.getElementById("lightbox-after");
let opener = null; // the link whose picture is shown

// The pictures among which the arrows go: those of the same part of the page that can be seen.
function around(link) {
  const links = (link.closest("section, main") ?? document).querySelectorAll(".tile a:has(img)");
  return [...links].filter((one) => one.checkVisibility());
}

async function reason(address) {
  try {
    const reply = await fetch(address, { headers: { Accept: "application/json" } });
    return reply.ok ? "" : ((await reply.json()).error?.message ?? "");
  } catch {
    return "The service does not answer.";
  }
}

function show(link) {
  const small = link.querySelector("img");
  const page = new URL(link.href).pathname.replace(/\/original$/, "");
  const original = `${page}/original`;
  opener = link;
  named.textContent = small.alt;
  leads.href = page;
  const caption = link.parentElement.querySelector("figcaption");
  told.textContent = caption ? `${caption.dataset.unit ?? ""} ${caption.textContent.trim()}`.trim() : "";
  const links = around(link);
  for (const [button, other] of [[before, links[links.indexOf(link) - 1]], [after, links[links.indexOf(link) + 1]]]) {
    button.hidden = links.length < 2;
    button.setAttribute("aria-disabled", String(!other)); // a button that is `disabled` would lose the focus
  }
  shown.alt = small.alt;
  shown.onerror = async () => {
    shown.onerror = null;
    shown.src = small.src;
    const why = await reason(original);
    if (opener === link && why) told.textContent = `${told.textContent} The small picture: ${why}.`.trim();
  };
  shown.src = original;
  if (!box.open) box.showModal();
}

function step(by) {
  const links = around(opener);
  const next = links[links.indexOf(opener) + by];
  if (next) show(next);
}

document.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest(".tile a:has(img), a.original") : null;
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  if (!box || box.contains(link)) return;
  event.preventDefault();
  show(link);
});

// The picture on an image's own page.
const whole = document.getElementById("picture");

function fallBack() {
  if (whole.src !== new URL(whole.dataset.small, location).href) whole.src = whole.dataset.small;
}

if (whole) {
  whole.addEventListener("error", fallBack);
  if (whole.complete && !whole.naturalWidth) fallBack();
}

if (box) {
  document.getElementById("lightbox-frame").append(shown);
  box.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault(); // and so no other neuron
    step(event.key === "ArrowLeft" ? -1 : 1);
  });
  box.addEventListener("click", (event) => {
    if (event.target === box) box.close(); // beside the picture
  });
  box.addEventListener("close", () => {
    shown.removeAttribute("src");
    opener?.focus();
  });
  before.addEventListener("click", () => step(-1));
  after.addEventListener("click", () => step(1));
}
