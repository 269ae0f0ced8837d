// Asking the models: generate with its stream, and classify, infer, nlu.
import { call, events, items } from "./api.js";
import { remember } from "./code.js";
import { clearProblem, make, note, redraw, showProblem } from "./dom.js";

const TASKS = ["generate", "classify", "infer", "nlu"];
const form = (name) => document.getElementById(name);
const given = (name) => Object.fromEntries(new FormData(form(name)));
const chosenModel = ({ model }) => (model ? { model } : {});

export function showTry(name = "generate") {
  for (const task of TASKS) form(task).hidden = task !== name;
}

export async function offerModels() {
  const models = (await items("/v1/models")) ?? [];
  for (const select of document.querySelectorAll("select[data-kind]")) {
    const kinds = select.dataset.kind.split(" ");
    const names = models
      .filter((model) => kinds.includes(model.kind) && model.serving.length)
      .map((model) => model.id);
    const before = select.value;
    redraw(select, names, () => [
      make("option", { value: "" }, "default"),
      ...names.map((name) => make("option", {}, name)),
    ]);
    select.value = names.includes(before) ? before : "";
  }
}

// Generate.
const generate = form("generate");
const story = generate.querySelector(".story");
const facts = generate.querySelector(".answer");
const stop = document.getElementById("stop");
let running = null;

generate.addEventListener("submit", async (event) => {
  event.preventDefault();
  running?.abort();
  const mine = (running = new AbortController());
  const fields = given("generate");
  const body = { ...chosenModel(fields), prompt: fields.prompt, stream: true };
  for (const name of ["max_tokens", "temperature", "top_p", "seed"])
    if (fields[name] !== "") body[name] = Number(fields[name]);
  clearProblem(generate);
  story.hidden = true;
  story.replaceChildren(make("span", {}, body.prompt));
  facts.replaceChildren();
  stop.disabled = false;
  remember("POST", "/v1/generate", body);
  try {
    facts.replaceChildren(await showStream(body, mine.signal));
  } catch (error) {
    if (error.name === "AbortError") facts.replaceChildren(note("Stopped."));
    else showProblem(generate, error, facts);
  }
  if (running === mine) stop.disabled = true;
});

/** Show the text as it comes; returns what is known of it at its end. */
async function showStream(body, signal) {
  const begin = performance.now();
  let first = 0;
  let last = null;
  for await (const { name, data } of events(await call("POST", "/v1/generate", body, signal))) {
    if (name === "error") throw Object.assign(new Error(data.detail), { fields: data.errors });
    first ||= performance.now();
    story.hidden = false;
    for (const choice of data.choices) story.append(choice.text);
    last = data.usage ? data : last;
  }
  if (!last) throw new Error("The stream broke off.");
  const time = (performance.now() - begin) / 1000;
  const { completion_tokens: tokens } = last.usage;
  return note(
    `${last.model} version ${last.version} in ${last.precision}: ${tokens} tokens in ${time.toFixed(2)} s, ` +
      `${(tokens / time).toFixed(0)} per second, the first after ${(first - begin).toFixed(0)} ms`,
  );
}

stop.addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});

// The other tasks: one call, one picture of the answer.
function answered(name, bodyOf, show) {
  const asked = form(name);
  const place = asked.querySelector(".answer");
  asked.addEventListener("submit", async (event) => {
    event.preventDefault();
    const fields = given(name);
    const body = { ...chosenModel(fields), ...bodyOf(fields) };
    clearProblem(asked);
    remember("POST", `/v1/${name}`, body);
    try {
      const answer = await (await call("POST", `/v1/${name}`, body)).json();
      place.replaceChildren(...show(answer.results[0], fields), origin(answer, answer.results[0]));
    } catch (error) {
      place.replaceChildren();
      showProblem(asked, error, place);
    }
  });
}

function bars(scores, most = 6) {
  return make(
    "div",
    {},
    scores
      .slice(0, most)
      .map(({ label, score }) =>
        make(
          "div",
          { class: "bar" },
          make("span", { title: label }, label),
          make("meter", { value: score, "aria-label": label }),
          make("span", {}, `${(score * 100).toFixed(1)} %`),
        ),
      ),
  );
}

function origin(answer, result) {
  const corrected = answer.calibration ? `, calibrated (temperature ${answer.calibration.temperature})` : "";
  const abstained = result.abstained ? ", abstained: the highest score is under the threshold" : "";
  return note(
    `${answer.model} version ${answer.version} in ${answer.precision}, ${result.method}${corrected}${abstained}`,
  );
}

/** The text with its slots marked; places are in code points, as the API counts them. */
function utterance(text, slots) {
  const letters = [...text];
  const parts = [];
  let position = 0;
  for (const slot of [...slots].sort((a, b) => a.start - b.start)) {
    parts.push(
      letters.slice(position, slot.start).join(""),
      make("mark", {}, slot.value, make("small", {}, slot.name)),
    );
    position = slot.end;
  }
  return make("p", { class: "utterance" }, ...parts, letters.slice(position).join(""));
}

answered(
  "classify",
  ({ input, labels }) => {
    const own = labels
      .split(",")
      .map((label) => label.trim())
      .filter(Boolean);
    return own.length ? { input, labels: own } : { input };
  },
  (result) => [bars(result.scores)],
);
answered(
  "infer",
  ({ premise, hypothesis }) => ({ premise, hypothesis }),
  (result) => [bars(result.scores)],
);
answered(
  "nlu",
  ({ input }) => ({ input }),
  (result, { input }) => [utterance(input, result.slots), bars(result.intents, 3)],
);
