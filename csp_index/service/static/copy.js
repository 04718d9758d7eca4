// The commands of a neuron's page: for the address of this service, and copied by a button.

const curl = document.getElementById("query-curl");
curl.textContent = curl.textContent.replace(/http:\/\/127\.0\.0\.1:8000/, location.origin);

// The query as text: to the clipboard, or marked so that the keys of the system copy it.
async function copy(button) {
  const told = document.getElementById("copied");
  const text = document.getElementById(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(text.textContent);
    told.textContent = `${button.textContent.replace("Copy as ", "")}: copied.`;
  } catch {
    text.closest("details").open = true;
    getSelection().selectAllChildren(text);
    told.textContent = "The browser does not allow copying: the text is selected, press Ctrl+C.";
  }
}

document.getElementById("copies").hidden = false;
for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", () => copy(button));
