// A version's quality card: for each variant its size, and how far its answers are from those of fp32.
import { badge, bytes, make, seconds, table } from "./dom.js";
import { deploy } from "./deploy.js";

const share = (value) => `${(Math.floor(value * 10_000) / 100).toString()} %`; // 100 % is all of them
const short = (value) => value.toPrecision(2);
const change = (value) => `${value < 0 ? "" : "+"}${(100 * value).toFixed(2)} %`;

// Of a card (export/evaluation/card.py), in this order.
const FIGURES = [
  ["Perplexity", "perplexity_change", change],
  ["Same most likely token", "top1_agreement", share],
  ["KL divergence, mean", "mean_kl", short],
  [
    "Same greedy answer",
    "greedy_agreement",
    (value, card) => `${Number(value.toPrecision(3))} of ${card.greedy_tokens} tokens`,
  ],
  ["Difference of a logit, at most", "max_logit_difference", short],
  ["Same label", "label_agreement", share],
  ["F1 of the labels", "label_f1", (value) => value.toFixed(3)],
  ["Shift of a probability, at most", "max_probability_shift", short],
  ["Shift of a probability, mean", "mean_probability_shift", short],
  ["Same slot", "slot_agreement", share],
  ["F1 of the slots", "slot_f1", (value) => value.toFixed(3)],
  ["Shift of a slot's probability, at most", "max_slot_probability_shift", short],
  ["Compared on", "tokens", (value) => `${value} tokens`],
  ["Compared on", "texts", (value) => `${value} texts`],
];

/** `version.needed`: bytes that a replica of each variant takes; without those that are not known. */
export function qualityCard(model, version) {
  const variants = Object.entries(version.variants);
  const row = (name, value) => [name, ...variants.map(([precision, variant]) => value(variant, precision))];
  const measured = variants.map(([, variant]) => variant.quality).find((card) => card);
  const cell =
    (key, format) =>
    ({ quality }) => {
      if (quality) return key in quality ? format(quality[key], quality) : "";
      return key === "perplexity_change" && measured.perplexity
        ? measured.perplexity.toPrecision(4)
        : make("span", { class: "reference" }, "reference");
    };
  const rows = [
    row("Size", (variant) => bytes(variant.size)),
    row("Memory of a replica, at most", (_, precision) =>
      precision in version.needed ? bytes(version.needed[precision]) : "",
    ),
    row("Time to load", (variant) => seconds(variant.load_seconds)),
    ...FIGURES.filter(([, key]) => measured && key in measured).map(([name, key, format]) =>
      row(name, cell(key, format)),
    ),
    row("", (_, precision) => deployButton(model, version, precision)),
  ];
  const heads = ["Quality card", ...variants.map(([precision]) => `#${precision}`)];
  return make("div", { class: "card" }, table(heads, rows, `Quality card of version ${version.version}`));
}

function deployButton(model, version, precision) {
  const serving = model.deployments.find(
    (each) => each.version === version.version && each.precision === precision,
  );
  if (serving) return badge(serving.state);
  return make(
    "button",
    {
      class: "quiet small",
      "data-key": `deploy-${version.version}-${precision}`,
      "aria-label": `Deploy version ${version.version} in ${precision}`,
      click: () => deploy(model, version, precision),
    },
    "Deploy …",
  );
}
