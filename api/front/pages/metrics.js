// Figures over time, from what /metrics counts: rates and percentiles between two samples.
const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:\\.|[^"\\])*)"/g;
const KEEP_MS = 10 * 60 * 1000;
const WANTED = [
  "lmaas_task_outcomes_total",
  "lmaas_engine_generated_tokens_total",
  "lmaas_task_time_to_first_token_seconds_bucket",
  "lmaas_engine_waiting",
  "lmaas_engine_running",
  "lmaas_task_queued",
  "process_start_time_seconds",
];

/** Prometheus' text format, the wanted names alone: name -> [{labels, value}]. */
export function parse(text) {
  const found = Object.fromEntries(WANTED.map((name) => [name, []]));
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = LINE.exec(line) ?? [];
    found[name]?.push({
      labels: Object.fromEntries([...labels.matchAll(LABEL)].map((label) => [label[1], label[2]])),
      value: Number(value),
    });
  }
  return found;
}

const sum = (lines, chosen = () => true) =>
  lines.filter((line) => chosen(line.labels)).reduce((total, line) => total + line.value, 0);

/** What a text of /metrics says, in few numbers. `buckets`: [upper bound, count], cumulative. */
function condense(text) {
  const found = parse(text);
  const bounds = new Map();
  for (const { labels, value } of found.lmaas_task_time_to_first_token_seconds_bucket) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    bounds.set(bound, (bounds.get(bound) ?? 0) + value);
  }
  return {
    process: sum(found.process_start_time_seconds),
    tasks: sum(found.lmaas_task_outcomes_total),
    failed: sum(found.lmaas_task_outcomes_total, ({ outcome }) => outcome === "failed"),
    tokens: sum(found.lmaas_engine_generated_tokens_total),
    buckets: [...bounds].sort((a, b) => a[0] - b[0]),
    running: sum(found.lmaas_engine_running),
    waiting: sum(found.lmaas_engine_waiting) + sum(found.lmaas_task_queued),
  };
}

/** The value below which `share` of what was counted between two samples lies; null where nothing was. */
export function quantile(buckets, before, share) {
  const counts = buckets.map(([bound, count], place) => [bound, count - (before[place]?.[1] ?? 0)]);
  const wanted = (counts.at(-1)?.[1] ?? 0) * share;
  if (wanted <= 0) return null;
  let [lower, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= wanted)
      return bound === Infinity ? lower : lower + ((bound - lower) * (wanted - below)) / (count - below);
    [lower, below] = [bound, count];
  }
  return null;
}

/** The samples of the last ten minutes. */
export class History {
  constructor() {
    this.points = [];
    this.last = null;
  }

  add(text, moment) {
    const now = { ...condense(text), moment };
    const before = this.last;
    this.last = now;
    // A façade counts by itself: what another one counted is no difference to what this one did.
    if (!before || before.process !== now.process) return;
    const seconds = (moment - before.moment) / 1000;
    const rate = (name) => Math.max(0, now[name] - before[name]) / seconds;
    this.points.push({
      moment,
      requests: rate("tasks"),
      failures: rate("failed"),
      tokens: rate("tokens"),
      median: quantile(now.buckets, before.buckets, 0.5),
      late: quantile(now.buckets, before.buckets, 0.95),
      running: now.running,
      waiting: now.waiting,
    });
    while (this.points[0].moment < moment - KEEP_MS) this.points.shift();
  }
}
