// The SQL page: names and examples go into the editor with a click, Ctrl+Enter runs it. The form does the rest.

const statement = document.getElementById("statement");

if (statement) {
  const form = document.getElementById("sql-form");
  const run = form.querySelector("button");

  // Puts a name where the cursor is, apart from the word before it.
  function insert(name) {
    const before = statement.value.slice(0, statement.selectionStart);
    const text = /[\w,]$/.test(before) ? ` ${name}` : name;
    statement.setRangeText(text, statement.selectionStart, statement.selectionEnd, "end");
    statement.focus();
  }

  statement.setSelectionRange(statement.value.length, statement.value.length);
  statement.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit(run);
  });

  form.addEventListener("submit", (event) => {
    if (event.submitter?.value) return; // a file: the page stays
    run.textContent = "Running …";
  });
  addEventListener("pageshow", () => (run.textContent = "Run"));

  for (const name of document.querySelectorAll("#schema [data-name]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Insert into the statement";
    button.textContent = name.textContent;
    button.addEventListener("click", () => insert(name.dataset.name));
    name.replaceWith(button);
  }

  for (const button of document.querySelectorAll("[data-sql]")) {
    button.addEventListener("click", (event) => {
      event.preventDefault();
      statement.value = button.dataset.sql;
      form.requestSubmit(run);
    });
  }

  document.getElementById("keys-told").hidden = false;
}
