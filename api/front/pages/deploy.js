// The dialog that deploys a variant: what memory it takes, and which share of the traffic it gets.
import { call, get } from "./api.js";
import { remember } from "./code.js";
import { bytes, clearProblem, complaint, make, note, opened, showProblem } from "./dom.js";

const BESIDE = "";

export async function deploy(model, version, precision) {
  const others = model.deployments.reduce((sum, each) => sum + each.traffic_weight, 0);
  const weight = make("input", { name: "traffic_weight", type: "number", value: 100 });
  const instead = make(
    "select",
    { name: "instead" },
    make("option", { value: BESIDE }, "nothing"),
    model.deployments.map((each) =>
      make("option", { value: each.id }, `version ${each.version} ${each.precision}`),
    ),
  );
  const ofNew = make(
    "div",
    { class: "settings" },
    make("div", {}, make("label", {}, "Traffic weight", weight)),
    make(
      "div",
      {},
      make("label", {}, "Replicas", make("input", { name: "replicas", type: "number", value: 1 })),
    ),
  );
  const part = note();
  const place = make("div", { class: "answer", "aria-live": "polite" });
  const submit = make("button", {}, "Deploy");
  const form = make(
    "form",
    { id: "deploy", novalidate: true },
    make("h3", {}, `Deploy ${model.id} version ${version.version} in ${precision}`),
    make("p", {}, await memory(version, precision)),
    model.deployments.length ? make("label", {}, "In place of", instead) : null,
    ofNew,
    part,
    place,
    make(
      "div",
      { class: "send" },
      submit,
      make("button", { type: "button", class: "quiet", click: () => dialog.close() }, "Cancel"),
    ),
  );
  const dialog = make("dialog", { "aria-label": "Deploy" }, form);

  const explain = () => {
    ofNew.hidden = instead.value !== BESIDE;
    if (ofNew.hidden)
      part.textContent =
        "It gets all new requests once it answers its golden prompts. Until then, and where it does not load, the present one serves.";
    else part.textContent = `It gets ${percent(Number(weight.value), others)} of the model's traffic.`;
  };
  const send = async (force) => {
    const chosen = { version: String(version.version), precision, ...(force && { force }) };
    const added = {
      model: model.id,
      ...chosen,
      replicas: Number(form.elements.replicas.value),
      traffic_weight: Number(weight.value),
    };
    const request = ofNew.hidden
      ? ["PATCH", `/v1/deployments/${instead.value}`, chosen]
      : ["POST", "/v1/deployments", added];
    clearProblem(form);
    place.replaceChildren(note("It is loaded, and answers its golden prompts …"));
    submit.disabled = true;
    remember(...request);
    try {
      await call(...request);
      dialog.close();
    } catch (error) {
      place.replaceChildren();
      if (error.status === 409 && error.message.includes("force"))
        place.append(complaint(error.message), forced);
      else showProblem(form, error, place);
    }
    submit.disabled = false;
    document.dispatchEvent(new Event("changed"));
  };
  const forced = make(
    "button",
    { type: "button", class: "danger", click: () => send(true) },
    "Deploy it all the same",
  );

  form.addEventListener("input", explain);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(false);
  });
  explain();
  await opened(dialog);
}

const percent = (weight, others) =>
  weight + others ? `${Math.round((100 * weight) / (weight + others))} %` : "0 %";

/** What it takes, and what the servers have. */
async function memory({ model, version }, precision) {
  const found = await get(`/v1/models/${encodeURIComponent(model)}/versions/${version}/memory`).catch(
    (error) => error,
  );
  if (found instanceof Error) return `What memory it takes is not known now: ${found.message}`;
  return `A replica takes up to ${bytes(found.needed[precision])} of memory.${found.free === null ? "" : ` ${bytes(found.free)} are free.`}`;
}
