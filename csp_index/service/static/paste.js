// A picture that is pasted on the page of the search is searched by.
"use strict";

const upload = document.getElementById("upload");

document.addEventListener("paste", (event) => {
  const picture = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
  if (!upload || !picture) return;
  event.preventDefault();
  const files = new DataTransfer();
  files.items.add(picture);
  upload.elements.file.files = files.files;
  upload.requestSubmit();
});
