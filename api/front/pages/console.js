const REFRESH_MS = 3000;
const byId = (id) => document.getElementById(id);

function element(name, text, attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  if (text !== undefined) made.textContent = text;
  return made;
}

async function call(path, body, signal) {
  const request = body && { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const answer = await ask(path, { ...request, signal });
  if (!answer.ok) throw new Error((await answer.json()).detail || `${answer.status} ${answer.statusText}`);
  return answer;
}

// Generate: read the events as they come.
const generate = byId("generate");
const story = generate.querySelector(".story");
const facts = generate.querySelector(".facts");
let running = null;

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part; !(part = await reader.read()).done; ) {
    const blocks = (rest + part.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("");
      if (data) yield { failed: block.startsWith("event: error"), data: JSON.parse(data) };
    }
  }
}

generate.addEventListener("submit", async (event) => {
  event.preventDefault();
  running?.abort();
  const mine = (running = new AbortController());
  const form = new FormData(generate);
  const body = { prompt: form.get("prompt"), stream: true };
  if (form.get("model")) body.model = form.get("model");
  for (const name of ["max_tokens", "temperature", "top_p", "seed"]) if (form.get(name) !== "") body[name] = Number(form.get(name));
  story.hidden = false;
  story.classList.remove("problem");
  story.replaceChildren(element("span", body.prompt));
  facts.textContent = "";
  byId("stop").disabled = false;
  const begin = performance.now();
  let first = 0;
  try {
    for await (const { failed, data } of events(await call("/v1/generate", body, mine.signal))) {
      if (failed) throw new Error(data.detail);
      first ||= performance.now();
      for (const choice of data.choices) story.append(choice.text);
      if (data.usage) {
        const seconds = (performance.now() - begin) / 1000;
        facts.textContent =
          `${data.model} version ${data.version} in ${data.precision}: ${data.usage.completion_tokens} tokens in ` +
          `${seconds.toFixed(2)} s, ${(data.usage.completion_tokens / seconds).toFixed(0)} per second, ` +
          `first after ${(first - begin).toFixed(0)} ms`;
      }
    }
  } catch (error) {
    facts.textContent = error.name === "AbortError" ? "Stopped." : error.message;
  }
  if (running === mine) byId("stop").disabled = true;
});
byId("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form?.requestSubmit();
});

// The other tasks: one call, one picture of the answer.
function bars(scores, most = 6) {
  const list = element("div");
  for (const { label, score } of scores.slice(0, most)) {
    const bar = element("div", undefined, { className: "bar" });
    bar.append(element("span", label, { title: label }), element("meter", undefined, { value: score }), element("span", `${(score * 100).toFixed(1)} %`));
    list.append(bar);
  }
  return list;
}

function origin(answer, result) {
  const corrected = answer.calibration ? `, calibrated (temperature ${answer.calibration.temperature})` : "";
  const abstained = result.abstained ? ", abstained: the highest score is under the threshold" : "";
  const text = `${answer.model} version ${answer.version} in ${answer.precision}, ${result.method}${corrected}${abstained}`;
  return element("p", text, { className: "note" });
}

function utterance(text, slots) {
  const line = element("p", undefined, { className: "utterance" });
  let position = 0;
  for (const slot of [...slots].sort((a, b) => a.start - b.start)) {
    const mark = element("mark", slot.value);
    mark.append(element("small", slot.name));
    line.append(text.slice(position, slot.start), mark);
    position = slot.end;
  }
  line.append(text.slice(position));
  return line;
}

function task(id, bodyOf, show) {
  const form = byId(id);
  const place = form.querySelector(".answer");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const fields = Object.fromEntries(new FormData(form));
    try {
      const answer = await (await call(`/v1/${id}`, bodyOf(fields))).json();
      place.replaceChildren(...show(answer.results[0], fields), origin(answer, answer.results[0]));
    } catch (error) {
      place.replaceChildren(element("p", error.message, { className: "problem" }));
    }
  });
}

task("classify", ({ input, labels }) => {
  const own = labels.split(",").map((label) => label.trim()).filter(Boolean);
  return own.length ? { input, labels: own } : { input };
}, (result) => [bars(result.scores)]);
task("infer", ({ premise, hypothesis }) => ({ premise, hypothesis }), (result) => [bars(result.scores)]);
task("nlu", ({ input }) => ({ input }), (result, { input }) => [utterance(input, result.slots), bars(result.intents, 3)]);

// What is served, by whom, in which health.
function table(place, heads, rows, empty) {
  if (!rows.length) return place.replaceChildren(element("p", empty, { className: "empty" }));
  const made = element("table");
  for (const [cells, name] of [[heads, "th"], ...rows.map((row) => [row, "td"])]) {
    const line = made.insertRow();
    for (const cell of cells) line.append(element(name, String(cell)));
  }
  place.replaceChildren(made);
}

function offerModels(models) {
  for (const choice of document.querySelectorAll("select[data-kind]")) {
    const names = models.filter((model) => model.kind === choice.dataset.kind && model.serving.length).map((model) => model.id);
    if (names.join() === choice.dataset.names) continue;
    choice.dataset.names = names.join();
    choice.replaceChildren(element("option", "default", { value: "" }), ...names.map((name) => element("option", name)));
  }
}

// The items of a listing; none where the key lacks the scope.
async function items(path) {
  const answer = await ask(path);
  if (answer.status === 403) return [];
  return answer.ok ? (await answer.json()).data : Promise.reject(new Error((await answer.json()).detail));
}

async function refresh() {
  const health = byId("health");
  try {
    const answer = await ask("/health/ready");
    const ready = await answer.json();
    if (answer.status === 401) {
      health.className = "health bad";
      health.textContent = "waiting for a key";
      return;
    }
    health.className = `health ${ready.status === "ready" ? "good" : "bad"}`;
    health.textContent = ready.status === "ready" ? "ready" : (ready.reasons ?? [ready.detail]).join("; ");
    const [models, servers, tasks] = await Promise.all(["/v1/models", "/v1/servers", "/v1/tasks?limit=8"].map(items));
    offerModels(models);
    table(byId("deployments"), ["model", "kind", "version", "state"],
      models.flatMap((model) => model.deployments.map((item) => [item.model, model.kind, `${item.version} ${item.precision}`, item.state])),
      "Nothing is deployed yet.");
    table(byId("servers"), ["server", "state", "in flight", "restarts"],
      servers.map((item) => [item.name, item.state, item.outstanding, item.restarts]), "None, or none that this key may see.");
    table(byId("tasks"), ["type", "state", "model", "began"],
      tasks.map((item) => [item.type, item.state, item.model ?? "default", new Date(item.created).toLocaleTimeString()]), "No tasks yet.");
  } catch (error) {
    health.className = "health bad";
    health.textContent ||= "no answer";
    if (error instanceof TypeError) health.textContent = "no answer";
  }
}

async function keepFresh() {
  if (!document.hidden && keyForm.hidden) await refresh();
  setTimeout(keepFresh, REFRESH_MS);
}
document.addEventListener("key", refresh);
keepFresh();
