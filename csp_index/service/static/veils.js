// Remembers whether pictures are veiled where a neuron does not fire; the switch itself works without scripts.
"use strict";

const veils = document.getElementById("veils");
if (veils) {
  veils.checked = localStorage.getItem("veils") !== "off";
  veils.addEventListener("change", () => localStorage.setItem("veils", veils.checked ? "on" : "off"));
}
