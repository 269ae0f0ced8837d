// Making elements. All text goes in as text: nothing that a model or a caller wrote is read as HTML.

/** An element. `attributes`: of HTML, `class` too; functions become listeners; true and false switch. */
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(attribute, value);
    else if (typeof value === "boolean") made.toggleAttribute(attribute, value);
    else if (value !== undefined && value !== null) made.setAttribute(attribute, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** A table; `heads` are texts, `rows` lists of texts or elements. A head that begins with # is of numbers. */
export function table(heads, rows, caption) {
  const numeric = heads.map((head) => head.startsWith("#"));
  const cell = (name, content, column, more) =>
    make(name, { class: numeric[column] ? "number" : undefined, ...more }, content ?? "");
  return make(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    make(
      "table",
      {},
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          heads.map((head, column) =>
            head ? cell("th", head.replace(/^#/, ""), column, { scope: "col" }) : make("td"),
          ),
        ),
      ),
      make(
        "tbody",
        {},
        rows.map((row) =>
          make(
            "tr",
            {},
            row.map((content, column) => cell("td", content, column)),
          ),
        ),
      ),
    ),
  );
}

const GOOD = ["ready", "done", "live"];
const BAD = ["failed", "dead", "unhealthy", "degraded", "not ready"];
const BUSY = ["loading", "converting", "running", "starting", "uploaded", "unloading", "queued", "draining"];

/** A state, as a word and a colour. */
export function badge(state) {
  const kind = GOOD.includes(state)
    ? "good"
    : BAD.includes(state)
      ? "bad"
      : BUSY.includes(state)
        ? "busy"
        : "";
  return make("span", { class: `badge ${kind}` }, state);
}

export const note = (...children) => make("p", { class: "note" }, ...children);
export const complaint = (text) => make("p", { class: "problem", role: "alert" }, text);
export const empty = (text) => make("p", { class: "empty" }, text);

const drawn = new WeakMap();

/** Draw `place` anew where `data` changed: what is open stays open, and the focus stays where it was. */
export function redraw(place, data, build) {
  const signature = JSON.stringify(data);
  if (drawn.get(place) === signature) return;
  drawn.set(place, signature);
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const typed = new Map(
    [...place.querySelectorAll("input[data-key]")].map((input) => [input.dataset.key, input]),
  );
  place.replaceChildren(...[build(data)].flat().filter((child) => child !== null));
  for (const input of place.querySelectorAll("input[data-key]")) {
    const before = typed.get(input.dataset.key);
    if (before && before.value !== before.defaultValue) input.value = before.value;
  }
  if (focused) place.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

/** Show a Problem in a form: each message under its field, and the rest in `place`. */
export function showProblem(form, error, place) {
  const rest = [];
  for (const { field, message } of error.fields ?? []) {
    const input = form.elements[field.split(".")[0]];
    if (input?.checkVisibility?.()) mark(input, message);
    else rest.push(`${field}: ${message}`);
  }
  if (rest.length || !error.fields?.length)
    place.replaceChildren(complaint(rest.join("; ") || error.message));
  form.querySelector("[aria-invalid]")?.focus();
}

export function clearProblem(form) {
  for (const input of form.querySelectorAll("[aria-invalid]")) {
    document.getElementById(input.getAttribute("aria-describedby"))?.remove();
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-describedby");
  }
}

function mark(input, message) {
  const id = `wrong-${input.form.id}-${input.name}`;
  document.getElementById(id)?.remove();
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", id);
  input.closest("label, .field").after(make("p", { class: "problem", id, role: "alert" }, message));
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(count) {
  let unit = 0;
  for (; count >= 1024 && unit < UNITS.length - 1; unit += 1) count /= 1024;
  return `${count >= 100 || unit === 0 ? count.toFixed(0) : count.toFixed(1)} ${UNITS[unit]}`;
}

export function seconds(value) {
  if (value < 1) return `${(value * 1000).toFixed(0)} ms`;
  return value < 100 ? `${Number(value.toPrecision(3))} s` : `${(value / 60).toFixed(0)} min`;
}

/** A moment of the API, as the reader's clock shows it. */
export function when(moment) {
  const date = new Date(moment);
  const today = date.toDateString() === new Date().toDateString();
  return make(
    "time",
    { datetime: moment, title: date.toLocaleString() },
    today ? date.toLocaleTimeString() : date.toLocaleDateString(),
  );
}

/** Ask before something is lost; true when the reader agrees. */
export function confirmed(question, action) {
  const dialog = make(
    "dialog",
    { "aria-label": question },
    make(
      "form",
      { method: "dialog" },
      make("p", {}, question),
      make(
        "div",
        { class: "send" },
        make("button", { value: "yes", class: "danger" }, action),
        make("button", { class: "quiet", value: "" }, "Cancel"),
      ),
    ),
  );
  return opened(dialog).then((answer) => answer === "yes");
}

/** Show a dialog until it closes; resolves with its `returnValue`. */
export function opened(dialog) {
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}
