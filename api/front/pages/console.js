// The console: which view is shown, whether the appliance is ready, and what is asked again every few seconds.
import { ask, Unreachable, waitsForKey } from "./api.js";
import { refreshModels, showModel } from "./models.js";
import { refreshOverview } from "./overview.js";
import { refreshTasks, showTask } from "./tasks.js";
import { offerModels, showTry } from "./try.js";
import "./code.js";
import "./upload.js";

const REFRESH_MS = 2500;
const VIEWS = {
  overview: { show: () => {}, refresh: refreshOverview },
  try: { show: showTry, refresh: offerModels },
  models: { show: showModel, refresh: refreshModels },
  tasks: { show: showTask, refresh: refreshTasks },
};
const health = document.getElementById("health");

/** The view and the rest of the path in the address: #/models/my-model. */
function place() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return Object.hasOwn(VIEWS, name) ? { name, rest: rest.map(decoded) } : { name: "overview", rest: [] };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function route() {
  const { name, rest } = place();
  for (const view of document.querySelectorAll("[data-view]")) view.hidden = view.dataset.view !== name;
  for (const link of document.querySelectorAll(".views a")) mark(link, link.hash === `#/${name}`);
  VIEWS[name].show(...rest);
  for (const link of document.querySelectorAll(".tabs a"))
    mark(link, link.hash === `#/${name}/${rest[0] ?? "generate"}`);
  refresh();
}

function mark(link, isCurrent) {
  if (isCurrent) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

function showHealth(kind, text, detail = "") {
  health.className = `health ${kind}`;
  if (health.textContent !== text) health.textContent = text;
  health.title = detail;
}

async function askHealth() {
  const answer = await ask("/health/ready");
  if (answer.status === 401) {
    showHealth("bad", "waits for a key");
    return null;
  }
  const body = await answer.json();
  const ready = body.status === "ready";
  showHealth(
    ready ? "good" : "bad",
    ready ? "ready" : "not ready",
    (body.reasons ?? [body.detail]).join("; "),
  );
  return { ready, reasons: body.reasons ?? [body.detail], warnings: body.warnings ?? [] };
}

async function refresh() {
  const { name } = place();
  try {
    const found = await askHealth();
    if (found) await VIEWS[name].refresh(found);
  } catch (error) {
    if (error instanceof Unreachable) showHealth("bad", "no answer");
    else if (error.status !== 401 && error.status !== 503) throw error;
  }
}

async function keepFresh() {
  try {
    if (!document.hidden && !waitsForKey()) await refresh();
  } finally {
    setTimeout(keepFresh, REFRESH_MS);
  }
}

addEventListener("hashchange", () => {
  route();
  document.getElementById("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
document.addEventListener("key", refresh);
document.addEventListener("changed", refresh);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form?.requestSubmit();
});
route();
setTimeout(keepFresh, REFRESH_MS);
