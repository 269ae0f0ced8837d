// Curves of the load, what is served and by which servers, and the last errors.
import { ask, items } from "./api.js";
import { Chart } from "./chart.js";
import { badge, empty, make, redraw, seconds, table, when } from "./dom.js";
import { History } from "./metrics.js";

const byId = (id) => document.getElementById(id);
const number = (value) => (value < 10 && value % 1 ? value.toFixed(1) : value.toFixed(0));
const history = new History();
const CHARTS = [
  [
    "Requests per second",
    [
      { field: "requests", label: "answered" },
      { field: "failures", label: "failed" },
    ],
    number,
    1,
  ],
  ["Tokens per second", [{ field: "tokens", label: "generated" }], number, 10],
  [
    "First token",
    [
      { field: "median", label: "median" },
      { field: "late", label: "p95" },
    ],
    seconds,
    0.01,
  ],
  [
    "Queue",
    [
      { field: "waiting", label: "waiting" },
      { field: "running", label: "running" },
    ],
    number,
    1,
  ],
].map(
  ([title, ...rest]) =>
    new Chart(byId("charts").appendChild(make("div", { class: "panel chart" })), title, ...rest),
);

export async function refreshOverview(health) {
  await Promise.all([readMetrics(), showServed(), showServers(), showErrors()]);
  const said = [
    ...health.reasons.map((text) => ["problem", text]),
    ...health.warnings.map((text) => ["warning", text]),
  ];
  redraw(byId("warnings"), said, (lines) =>
    lines.map(([kind, text]) => make("p", { class: `panel ${kind}` }, text)),
  );
}

async function readMetrics() {
  const answer = await ask("/metrics");
  byId("charts").hidden = !answer.ok;
  if (!answer.ok) return;
  history.add(await answer.text(), performance.now());
  for (const chart of CHARTS) chart.show(history.points);
}

async function showServed() {
  const deployments = await items("/v1/deployments");
  redraw(byId("served"), deployments, (found) => {
    if (!found) return empty("This key may not see them.");
    if (!found.length)
      return [
        empty("Nothing is deployed."),
        make("a", { href: "#/models" }, "Upload a model, or deploy one"),
      ];
    return table(
      ["Model", "Version", "State", "#Weight"],
      found.map((each) => [
        make("a", { href: `#/models/${encodeURIComponent(each.model)}` }, each.model),
        `${each.version} ${each.precision}`,
        badge(each.state),
        String(each.traffic_weight),
      ]),
      "Served models",
    );
  });
}

async function showServers() {
  const servers = await items("/v1/servers");
  redraw(byId("servers"), servers && servers.map(({ last_probe, ...rest }) => rest), (found) => {
    if (!found) return empty("This key may not see them.");
    if (!found.length) return empty("There is no model server.");
    return table(
      ["Server", "State", "int8 by", "#In flight", "#Restarts"],
      found.map((each) => [
        each.name,
        badge(each.state),
        each.kernels ?? "",
        String(each.outstanding),
        String(each.restarts),
      ]),
      "Model servers",
    );
  });
}

async function showErrors() {
  const [tasks, servers, deployments] = await Promise.all([
    items("/v1/tasks?state=failed&limit=8"),
    items("/v1/servers"),
    items("/v1/deployments"),
  ]);
  const found = [
    ...(servers ?? [])
      .filter((each) => each.error)
      .map((each) => ["now", `server ${each.name}`, each.error, "#/overview"]),
    ...(deployments ?? [])
      .filter((each) => each.error)
      .map((each) => [
        "now",
        `${each.model} version ${each.version}`,
        each.error,
        `#/models/${encodeURIComponent(each.model)}`,
      ]),
    ...(tasks ?? []).map((each) => [
      each.finished ?? each.created,
      `task ${each.type}`,
      each.error?.detail ?? "",
      `#/tasks/${each.id}`,
    ]),
  ];
  redraw(byId("errors"), found, () => {
    if (!found.length) return empty("None.");
    return table(
      ["When", "What", "Error"],
      found.map(([moment, what, text, link]) => [
        moment === "now" ? "now" : when(moment),
        make("a", { href: link }, what),
        text,
      ]),
      "Last errors",
    );
  });
}
