// The stored models: versions, variants with their quality cards, deployments with their traffic.
import { call, get, items } from "./api.js";
import { remember } from "./code.js";
import { badge, bytes, complaint, confirmed, empty, make, note, redraw, table, when } from "./dom.js";
import { qualityCard } from "./quality.js";

const byId = (id) => document.getElementById(id);
const versions = new Map(); // `model/version` -> its view, once it does not change by itself any more
let shown = null; // the name of the model that is shown; null: the list
const path = (...parts) => ["/v1/models", ...parts.map(encodeURIComponent)].join("/");

export function showModel(name) {
  if (name !== shown) byId("model").replaceChildren();
  shown = name ?? null;
  byId("model-list").hidden = shown !== null;
  byId("model").hidden = shown === null;
}

export async function refreshModels() {
  if (shown === null) return showList();
  const name = shown;
  try {
    const model = await get(path(name));
    const details = await Promise.all(model.versions.map((version) => versionOf(name, version)));
    if (name === shown) redraw(byId("model"), { model, details: details.reverse() }, drawModel);
  } catch (error) {
    if (error.status !== 404) throw error;
    redraw(byId("model"), name, () => [back(), complaint(error.message)]);
  }
}

async function versionOf(name, version) {
  const key = `${name}/${version}`;
  if (versions.has(key)) return versions.get(key);
  const found = await get(path(name, "versions", version));
  if (found.state !== "ready") return found;
  const memory = await get(path(name, "versions", version, "memory")).catch(() => null); // 503 while no server is up
  if (memory) versions.set(key, { ...found, needed: memory.needed });
  return { ...found, needed: memory?.needed ?? {} };
}

async function showList() {
  const models = await items("/v1/models");
  redraw(byId("models"), models, (found) => {
    if (!found) return empty("This key may not see them.");
    if (!found.length) return empty("No model yet.");
    return table(
      ["Model", "Kind", "#Versions", "Served"],
      found.map((model) => [
        make("a", { href: `#/models/${encodeURIComponent(model.id)}` }, model.id),
        model.kind ?? "",
        String(model.versions.length),
        make(
          "span",
          { class: "states" },
          model.deployments.map((each) =>
            make("span", {}, `${each.version} ${each.precision} `, badge(each.state)),
          ),
        ),
      ]),
      "Stored models",
    );
  });
}

const back = () => make("a", { class: "back", href: "#/models" }, "← All models");

function drawModel({ model, details }) {
  return [
    back(),
    make(
      "div",
      { class: "heading" },
      make("h2", { class: "title" }, model.id),
      model.kind ? make("span", { class: "badge" }, model.kind) : null,
      make(
        "button",
        { class: "danger small", "data-key": "delete", click: () => removeModel(model) },
        "Delete model",
      ),
    ),
    model.description ? note(model.description) : null,
    make("section", { class: "panel" }, make("h3", {}, "Deployments"), drawDeployments(model, details)),
    ...details.map((version) => drawVersion(model, version)),
  ];
}

// Deployments.
function drawDeployments(model, details) {
  if (!model.deployments.length) return empty("Not deployed.");
  const total = model.deployments.reduce((sum, each) => sum + each.traffic_weight, 0);
  const needed = (each) =>
    details.find((version) => version.version === each.version)?.needed?.[each.precision];
  const rows = model.deployments.map((each) => [
    `${each.version} ${each.precision}`,
    badge(each.state),
    total ? `${Math.round((100 * each.traffic_weight) / total)} %` : "0 %",
    weightForm(model, each),
    needed(each) ? bytes(needed(each)) : "",
    make(
      "button",
      { class: "danger small", "data-key": `undeploy-${each.id}`, click: () => undeploy(model, each) },
      "Undeploy",
    ),
  ]);
  return [
    table(["Version", "State", "#Traffic", "Weight", "#Memory, at most", ""], rows, "Deployments"),
    ...model.deployments.flatMap(remarks),
  ];
}

function remarks(each) {
  const name = `Version ${each.version} ${each.precision}`;
  const rollback = each.events.filter((event) => event.kind === "rolled-back").at(-1);
  return [
    each.error ? complaint(`${name}: ${each.error}`) : null,
    each.note ? note(`${name}: ${each.note}`) : null,
    each.rollout
      ? note(`${name}: version ${each.rollout.version} ${each.rollout.precision} is ${each.rollout.phase}`)
      : null,
    each.canary
      ? note(
          `${name} is a canary: ${each.canary.requests} requests, error rate ${each.canary.error_rate.toFixed(3)}`,
        )
      : null,
    rollback ? note(`${name} lost its traffic: ${rollback.reason}`) : null,
  ].filter(Boolean);
}

function weightForm(model, each) {
  const input = make("input", {
    type: "number",
    value: each.traffic_weight,
    "data-key": `weight-${each.id}`,
    "aria-label": `Traffic weight of version ${each.version} ${each.precision}`,
  });
  const wrong = make("span", { class: "problem", role: "alert" });
  return make(
    "form",
    {
      class: "weight",
      submit: async (event) => {
        event.preventDefault();
        const body = { traffic_weight: Number(input.value) };
        await act(wrong, "PATCH", `/v1/deployments/${each.id}`, body);
        input.defaultValue = input.value;
      },
    },
    input,
    make("button", { class: "quiet small", "data-key": `set-${each.id}` }, "Set"),
    wrong,
  );
}

async function undeploy(model, each) {
  const others =
    model.deployments.length > 1
      ? "The model's other deployments get its traffic."
      : "Requests to the model are refused from then on.";
  if (
    await confirmed(`Undeploy ${model.id} version ${each.version} ${each.precision}? ${others}`, "Undeploy")
  ) {
    await act(byId("model"), "DELETE", `/v1/deployments/${each.id}`);
  }
}

// Versions.
function drawVersion(model, version) {
  const address = path(model.id, "versions", version.version);
  const aliases = Object.entries(model.aliases)
    .filter(([, number]) => number === version.version)
    .map(([alias]) => alias);
  return make(
    "section",
    { class: "panel", "aria-label": `Version ${version.version}` },
    make(
      "div",
      { class: "heading" },
      make("h3", {}, `Version ${version.version}`),
      badge(version.state),
      ...aliases.map((alias) => make("span", { class: "badge" }, alias)),
      make("span", { class: "note" }, when(version.created)),
      version.state === "ready"
        ? make(
            "a",
            {
              href: `${address}/archive`,
              download: `${model.id}-${version.version}.tar`,
              "data-keyed": true,
            },
            "Download",
          )
        : null,
      make(
        "button",
        {
          class: "danger small",
          "data-key": `delete-${version.version}`,
          click: () => removeVersion(model, version, address),
        },
        "Delete",
      ),
    ),
    version.error ? complaint(version.error) : null,
    Object.keys(version.variants).length ? qualityCard(model, version) : null,
    facts(version),
  );
}

function facts(version) {
  const known = [
    version.context_length ? `context of ${version.context_length} tokens` : null,
    version.labels.length ? `labels: ${version.labels.join(", ")}` : null,
    version.provenance.source ? `from ${version.provenance.source}` : null,
    version.provenance.notes || null,
  ].filter(Boolean);
  return known.length ? note(known.join(" · ")) : null;
}

async function removeVersion(model, version, address) {
  const used = model.deployments.some((each) => each.version === version.version);
  if (
    !(await confirmed(
      `Delete ${model.id} version ${version.version}${used ? ", which is deployed" : ""}? Its files are gone then.`,
      "Delete",
    ))
  )
    return;
  versions.delete(`${model.id}/${version.version}`);
  await act(byId("model"), "DELETE", `${address}${used ? "?force=true" : ""}`);
}

async function removeModel(model) {
  const used = model.deployments.length > 0;
  const what = `all its versions${used ? `, and ${model.deployments.length === 1 ? "its deployment" : `its ${model.deployments.length} deployments`}` : ""}`;
  if (!(await confirmed(`Delete the model ${model.id} with ${what}? Its files are gone then.`, "Delete")))
    return;
  for (const version of model.versions) versions.delete(`${model.id}/${version}`);
  if (await act(byId("model"), "DELETE", `${path(model.id)}${used ? "?force=true" : ""}`))
    location.hash = "#/models";
}

/** Send what the reader asked for; an error is shown at the end of `place`. Returns whether it was done. */
async function act(place, method, address, body) {
  remember(method, address, body);
  place.querySelector(":scope > .problem")?.remove();
  try {
    await call(method, address, body);
    return true;
  } catch (error) {
    if (place.matches(".problem")) place.textContent = error.message;
    else place.append(complaint(error.message));
    return false;
  } finally {
    document.dispatchEvent(new Event("changed"));
  }
}
