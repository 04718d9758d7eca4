// What stands below the first screen of a page is laid out after the first pictures are painted; styles say what that is.
// An address that names a part of the page shows it at once.
"use strict";

if (!location.hash) {
  const page = document.documentElement;
  page.classList.add("unpainted");
  const painted = () => requestAnimationFrame(() => setTimeout(() => page.classList.remove("unpainted")));
  document.addEventListener("readystatechange", painted, { once: true }); // all of the page is read
}
