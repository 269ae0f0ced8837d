// Tasks: the latest ones, and one of them as it goes on.
import { call, events, get, items } from "./api.js";
import { remember } from "./code.js";
import { badge, complaint, empty, make, note, redraw, seconds, table, when } from "./dom.js";

const byId = (id) => document.getElementById(id);
const OPEN = ["queued", "running"];
const STAYS = 40; // lines of events that stay on the page
let shown = null; // the id of the task that is shown; null: the list
let following = null;

export function showTask(id) {
  following?.abort();
  shown = id ?? null;
  byId("task-list").hidden = shown !== null;
  byId("task").hidden = shown === null;
  if (shown !== null) follow(shown, (following = new AbortController()).signal);
}

for (const id of ["task-state", "task-type"])
  byId(id).addEventListener("change", () => document.dispatchEvent(new Event("changed")));

export async function refreshTasks() {
  if (shown !== null) return;
  const wanted = new URLSearchParams({ limit: 30 });
  if (byId("task-state").value) wanted.set("state", byId("task-state").value);
  if (byId("task-type").value) wanted.set("type", byId("task-type").value);
  const tasks = await items(`/v1/tasks?${wanted}`);
  redraw(byId("tasks"), tasks, (found) => {
    if (!found) return empty("This key may not see them.");
    if (!found.length) return empty("No such task.");
    return table(
      ["Task", "State", "Model", "Began", "#Took", "Caller"],
      found.map((task) => [
        make("a", { href: `#/tasks/${task.id}`, "data-key": task.id }, task.type),
        badge(task.state),
        modelOf(task),
        when(task.created),
        took(task),
        task.key ?? task.caller,
      ]),
      "Tasks",
    );
  });
}

const modelOf = (task) => task.model ?? task.parameters.model ?? "default";
const took = (task) =>
  task.finished ? seconds((new Date(task.finished) - new Date(task.started ?? task.created)) / 1000) : "";

async function follow(id, signal) {
  const place = byId("task");
  const lines = make("ol", { class: "events" });
  const bar = make("progress", { max: 1, "aria-label": "Progress", hidden: true });
  const story = make("output", { class: "story", hidden: true });
  try {
    draw(place, await get(`/v1/tasks/${encodeURIComponent(id)}`), bar, lines, story);
    for await (const { name, data } of events(
      await call("GET", `/v1/tasks/${encodeURIComponent(id)}/events`, undefined, signal),
    )) {
      if (data.object === "task") draw(place, data, bar, lines, story);
      else show(name, data, bar, lines, story);
    }
  } catch (error) {
    if (error.name !== "AbortError") place.replaceChildren(back(), complaint(error.message));
  }
}

function show(name, data, bar, lines, story) {
  if (data.choices) {
    story.hidden = false;
    story.append(...data.choices.map((choice) => choice.text));
    return;
  }
  if (name === "progress" && data.total) {
    bar.hidden = false;
    bar.value = data.done / data.total;
  }
  lines.append(make("li", {}, data.stage ?? JSON.stringify(data)));
  while (lines.children.length > STAYS) lines.firstChild.remove();
}

const back = () => make("a", { class: "back", href: "#/tasks" }, "← All tasks");

function draw(place, task, bar, lines, story) {
  const open = OPEN.includes(task.state);
  if (!open) bar.hidden = true;
  place.replaceChildren(
    back(),
    make(
      "div",
      { class: "heading" },
      make("h2", { class: "title" }, `Task ${task.type}`),
      badge(task.state),
      open ? make("button", { class: "danger small", click: () => cancel(task) }, "Cancel task") : null,
    ),
    make(
      "section",
      { class: "panel" },
      note(
        `${task.id} · model ${modelOf(task)} · from ${task.key ?? task.caller} · ${task.attempts === 1 ? "1 attempt" : `${task.attempts} attempts`} · began `,
        when(task.created),
        took(task) ? ` · took ${took(task)}` : "",
      ),
      ...(task.error ? [fault(task.error)] : []),
      bar,
      lines,
      story,
      make("h3", {}, "Parameters"),
      json(task.parameters),
      ...(task.result ? [make("h3", {}, "Result"), json(task.result)] : []),
    ),
  );
}

function fault(error) {
  return make(
    "div",
    {},
    complaint(error.detail),
    ...(error.errors ?? []).map(({ field, message }) => note(make("code", {}, field), ` ${message}`)),
  );
}

const json = (value) => make("pre", { tabindex: 0 }, JSON.stringify(value, null, 2));

async function cancel(task) {
  remember("DELETE", `/v1/tasks/${task.id}`);
  try {
    await call("DELETE", `/v1/tasks/${task.id}`);
  } catch (error) {
    byId("task").append(complaint(error.message));
  }
}
