// Remembers the reader's name in this browser, and answers the question of /rate by keys. Pages work without it.

const NAME = "csp-index-reader";

for (const field of document.querySelectorAll("[data-remember]")) {
  try {
    if (!field.value) field.value = localStorage.getItem(NAME) ?? "";
    field.form.addEventListener("submit", () => localStorage.setItem(NAME, field.value));
  } catch {
    // a browser may keep no storage for this page: then nothing is remembered
  }
}

const verdicts = document.getElementById("verdicts");
if (verdicts) {
  const keys = { y: "yes", n: "no", u: "unsure" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const button = verdicts.querySelector(`button[value="${keys[event.key.toLowerCase()] ?? ""}"]`);
    if (button) {
      event.preventDefault();
      button.click();
    }
  });
}
