// Keys: / searches, arrows go to the page before and after, ? tells them. And the button for light and dark.
"use strict";

const help = document.getElementById("help");
const find = document.getElementById("find");

function isTyping(target) {
  const fields = 'input:not([type="checkbox"], [type="file"], [type="range"]), textarea, select, [contenteditable]';
  return target instanceof Element && target.closest(fields) !== null;
}

// What moves by the arrows when it has the focus: a slider, what scrolls sideways.
function scrolls(target) {
  return target instanceof Element && target.closest('[tabindex="0"], [type="range"]') !== null;
}

function follow(relation) {
  const link = document.querySelector(`main a[rel~="${relation}"]`);
  if (link) link.click();
  return link !== null;
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (help.open) return; // it closes itself on Escape
  let done = true;
  if (event.key === "/" && find) find.focus(), find.select();
  else if (event.key === "?") help.showModal();
  else if (scrolls(event.target)) done = false;
  else if (event.key === "ArrowLeft") done = follow("prev");
  else if (event.key === "ArrowRight") done = follow("next");
  else done = false;
  if (done) event.preventDefault();
});

const helpButton = document.getElementById("help-button");
helpButton.hidden = false;
helpButton.addEventListener("click", () => help.showModal());

const themeButton = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
}

function nameTheme() {
  themeButton.lastElementChild.textContent = isDark() ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", isDark() ? "Light colors" : "Dark colors");
}

themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  const chosen = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try {
    localStorage.setItem("theme", chosen);
  } catch {
    // not kept: the choice lasts as long as the page
  }
  nameTheme();
});
system.addEventListener("change", nameTheme);
nameTheme();
