// Remembers whether pictures are veiled where a neuron does not fire; the switch itself works without scripts.
"use strict";

const veils = document.getElementById("veils");
if (veils) {
  const key = `veils of ${veils.dataset.of}`;
  const chosen = localStorage.getItem(key);
  if (chosen) veils.checked = chosen === "on";
  veils.addEventListener("change", () => localStorage.setItem(key, veils.checked ? "on" : "off"));
}
