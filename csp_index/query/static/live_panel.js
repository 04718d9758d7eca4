// The live panel of a notebook: controls ask, the kernel answers. Texts of the index stay text, never HTML.

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function digits(value) {
  return value === null || value === undefined ? "–" : Number(value).toPrecision(3);
}

function picture(data, title) {
  if (!data) return make("span", { class: "csp-none", title });
  const kind = data.startsWith("iVBOR") ? "png" : "jpeg";
  return make("img", { src: `data:image/${kind};base64,${data}`, alt: title, title });
}

function column(pair) {
  const made = make("li", {}, picture(pair.picture, `image ${pair.image_id}`), `fires ${digits(pair.activation)}`);
  if (pair.contrast_id !== null) {
    made.append(picture(pair.partner, `image ${pair.contrast_id}`), `silent ${digits(pair.contrast_activation)}`);
  }
  return made;
}

function select(name, values, chosen) {
  const options = values.map((value) => make("option", value === chosen ? { selected: "" } : {}, value));
  return make("select", { name }, ...options);
}

function field(title, control) {
  return make("label", {}, make("span", {}, title), control);
}

function render({ model, el }) {
  const asked = model.get("question");
  const choices = model.get("choices");
  const knobs = make(
    "form",
    {},
    field("method", select("method", choices.method, asked.method)),
    field("gamma", make("input", { name: "gamma", type: "range", min: 0, max: 1, step: 0.01, value: asked.gamma })),
    field("examples", make("input", { name: "examples", type: "number", min: 1, max: 1000, value: asked.examples })),
    field("contrast", select("contrast", choices.contrast, asked.contrast)),
    field("low activation: below", make("input", { name: "threshold", value: asked.threshold })),
    ...(choices.crop.length ? [field("activating images", select("crop", ["whole", "where it looks"], asked.crop ? "where it looks" : "whole"))] : []),
    field("candidates of your own, one per line", make("textarea", { name: "candidates", rows: 2 })),
  );
  const status = make("p", { role: "status" });
  const labels = make("ol", { "aria-label": "Labels" });
  const pairs = make("ul", { "aria-label": "Activating images above their contrast" });
  el.classList.add("csp-panel");
  el.append(make("strong", {}, model.get("neuron")), knobs, status, labels, pairs);

  let number = model.get("answer").number ?? 0;
  let waiting = false; // for an answer
  let newer = false; // a control moved meanwhile

  // Crops stand in for activating images in some methods alone.
  function tidy() {
    const knob = knobs.elements;
    if (!knob.crop) return;
    knob.crop.disabled = !choices.crop.includes(knob.method.value);
    knob.crop.title = knob.crop.disabled ? `Only these methods take crops: ${choices.crop.join(", ")}` : "";
  }

  function ask() {
    tidy();
    if (waiting) {
      newer = true;
      return;
    }
    waiting = true;
    newer = false;
    number += 1;
    const knob = knobs.elements;
    const candidates = knob.candidates.value.split("\n").map((line) => line.trim());
    model.set("question", {
      number,
      method: knob.method.value,
      gamma: Number(knob.gamma.value),
      examples: Math.round(Number(knob.examples.value)),
      contrast: knob.contrast.value,
      threshold: knob.threshold.value.trim(),
      crop: Boolean(knob.crop) && !knob.crop.disabled && knob.crop.value !== "whole",
      candidates: candidates.filter((line) => line),
    });
    status.textContent = "labeling …";
    model.save_changes();
  }

  function show() {
    const answer = model.get("answer");
    if (answer.error) {
      status.textContent = answer.error;
    } else {
      const said = [`${answer.milliseconds} ms`, answer.note, answer.doubt].filter(Boolean);
      status.textContent = (answer.labels.length ? "" : `no label, ${answer.state} · `) + said.join(" · ");
      labels.replaceChildren(...answer.labels.map((one) => make("li", {}, `${one.text} `, make("small", {}, digits(one.score)))));
      pairs.replaceChildren(...answer.pairs.map(column));
    }
    waiting = false;
    if (newer) ask();
  }

  knobs.addEventListener("input", ask);
  knobs.addEventListener("submit", (event) => event.preventDefault());
  model.on("change:answer", show);
  tidy();
  show();
  return () => model.off("change:answer", show);
}

export default { render };
