// Where a neuron looks, of a layer whose neurons have no places in the image: asked of its network, a few pictures at a
// time, when a reader wants to know. Answers are laid over the pictures; texts reach the page as text only.
"use strict";

const AT_ONCE = 4; // pictures of a question: each fits the time limit, and veils appear one after the other
const AGAIN = 2000; // milliseconds until a service that is busy or loads is asked again
const TRIES = 30;
const opener = document.getElementById("where");
const told = document.getElementById("where-told");
const shown = document.getElementById("where-shown"); // the switch of the veils
const how = document.getElementById("where-how");

function tell(text, wrong = false) {
  told.textContent = text;
  told.classList.toggle("error", wrong);
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// The answer for some images; a busy service is asked again, as while it loads the network.
async function ask(images) {
  for (let tries = 1; ; tries += 1) {
    const reply = await fetch(opener.dataset.maps, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ images }),
    });
    const body = await reply.json();
    if (reply.ok) return body;
    const late = reply.status === 503 || reply.status === 504;
    if (!late || tries === TRIES) throw new Error([body.error.message, body.error.hint].filter(Boolean).join(" · "));
    tell("loading the network …");
    await pause(AGAIN);
  }
}

// Lays a veil over the picture of each map, right behind its img as the page itself does; returns how many it laid.
function lay(maps, links) {
  const drawn = maps.filter((map) => map.veil !== null && links.has(map.image_id));
  for (const map of drawn) {
    const veil = document.createElement("img");
    Object.assign(veil, { className: "veil", src: map.veil, width: 96, height: 96, alt: "" });
    const link = links.get(map.image_id);
    link.classList.add("veiled");
    link.append(veil);
  }
  return drawn.length;
}

async function look() {
  if (opener.getAttribute("aria-disabled")) return; // on its way; a button that is `disabled` would lose the focus
  opener.setAttribute("aria-disabled", "true");
  const first = document.querySelectorAll("#pairs > .pair > .tile:first-child > a");
  const links = new Map([...first].map((link) => [Number(link.getAttribute("href").split("/").pop()), link]));
  const images = [...links.keys()];
  let count = 0;
  let made = "";
  try {
    for (let at = 0; at < images.length; at += AT_ONCE) {
      tell(`looking … ${at} of ${images.length}`);
      const answer = await ask(images.slice(at, at + AT_ONCE));
      count += lay(answer.images, links);
      made = answer.made;
    }
  } catch (error) {
    tell(error instanceof TypeError ? "The service does not answer; try again." : error.message, true);
    opener.removeAttribute("aria-disabled");
    return;
  }
  tell(count < images.length ? `It cannot be told of ${images.length - count} of ${images.length} pictures.` : "");
  const held = document.activeElement === opener;
  const veils = document.getElementById("veils");
  opener.hidden = true;
  shown.hidden = count === 0;
  veils.checked = true;
  if (held) veils.focus({ preventScroll: true }); // what takes the place of the button
  how.hidden = count === 0;
  how.querySelector(`[data-made="${made}"]`).hidden = false;
}

if (opener) {
  opener.hidden = false;
  opener.addEventListener("click", look);
}
