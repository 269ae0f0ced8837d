// Upload: a dropped or chosen file or folder, how far it is sent, and its conversion as it goes on.
import { call, events, post } from "./api.js";
import { remember } from "./code.js";
import { bytes, clearProblem, complaint, make, note, showProblem } from "./dom.js";
import { isRead, packed } from "./tar.js";

const form = document.getElementById("upload");
const drop = document.getElementById("drop");
const chosen = form.querySelector(".chosen");
const progress = form.querySelector(".progress");
let archive = null; // {file, name}: what is sent, and the name of its file
let sending = null;

function choose(file, name) {
  archive = { file, name };
  form.elements.name.value = name
    .replace(/\.(zip|tar|tgz|tar\.(gz|zst))$/i, "")
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, "-");
  form.querySelector(".file").textContent = `${name}, ${bytes(file.size)}`;
  drop.hidden = true;
  chosen.hidden = false;
  clearProblem(form);
  progress.replaceChildren();
  form.elements.name.focus();
  form.elements.name.select();
}

function chooseFolder(name, files) {
  const read = files.filter(isRead);
  if (read.length) choose(packed(name, read), `${name}.tar`);
  else
    progress.replaceChildren(
      complaint(`${name} has no file of a checkpoint: config.json, model.safetensors, tokenizer.json`),
    );
}

function discard() {
  sending?.abort();
  archive = null;
  chosen.hidden = true;
  drop.hidden = false;
  clearProblem(form);
}

// Where it comes from.
form.querySelector("#choose-file").addEventListener("change", ({ target }) => {
  if (target.files.length) choose(target.files[0], target.files[0].name);
  target.value = "";
});
form.querySelector("#choose-folder").addEventListener("change", ({ target }) => {
  const files = [...target.files];
  const depth = (file) => file.webkitRelativePath.split("/").length;
  if (files.length)
    chooseFolder(
      files[0].webkitRelativePath.split("/")[0],
      files.filter((file) => depth(file) === 2),
    );
  target.value = "";
});
for (const name of ["dragenter", "dragover"]) {
  form.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
form.addEventListener("dragleave", () => drop.classList.remove("over"));
form.addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const entry = event.dataTransfer.items[0]?.webkitGetAsEntry?.();
  if (entry?.isDirectory) chooseFolder(entry.name, await filesOf(entry));
  else if (event.dataTransfer.files.length)
    choose(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
});

// What was done is no news on the next visit.
addEventListener("hashchange", () => progress.querySelector(".success")?.remove());

/** The files of the first level; a reader gives a hundred at a time. */
async function filesOf(folder) {
  const reader = folder.createReader();
  const files = [];
  for (
    let batch;
    (batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length;
  ) {
    for (const entry of batch)
      if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
  }
  return files;
}

// Sending it, and what becomes of it.
document.getElementById("discard").addEventListener("click", discard);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!archive) return;
  clearProblem(form);
  sending?.abort();
  sending = new AbortController();
  const { name, precision, deploy } = form.elements;
  const fields = {
    name: name.value,
    ...(deploy.checked && { deploy: "true" }),
    ...(precision.value && { precision: precision.value }),
  };
  const body = new FormData();
  for (const [field, value] of Object.entries(fields)) body.append(field, value);
  body.append("file", archive.file, archive.name);
  remember("POST", "/v1/models", fields, archive.name);
  const bar = make("progress", { max: 1, value: 0, "aria-label": "Progress" });
  const said = note("Uploading …");
  progress.replaceChildren(bar, said);
  try {
    const uploaded = await post(
      "/v1/models",
      body,
      (share) => {
        bar.value = share;
        said.textContent = share < 1 ? `Uploading, ${Math.round(share * 100)} %` : "Checking what was sent …";
      },
      sending.signal,
    );
    document.dispatchEvent(new Event("changed"));
    discard();
    said.textContent = "The conversion waits for its turn …";
    await follow(uploaded, bar, said);
  } catch (error) {
    progress.replaceChildren();
    if (error.name !== "AbortError") showProblem(form, error, progress);
  }
});

async function follow(uploaded, bar, said) {
  const { model, version, task } = uploaded;
  for await (const { name, data } of events(await call("GET", `/v1/tasks/${task.id}/events`))) {
    if (name === "progress") {
      bar.value = (data.done + 0.5) / (data.total + 0.5);
      said.textContent = `${model} version ${version}: ${data.stage} (${Math.min(data.done + 1, data.total)} of ${data.total})`;
    } else if (data.state) {
      progress.replaceChildren(data.state === "done" ? success(model, version, data.result) : failure(data));
      document.dispatchEvent(new Event("changed"));
    }
  }
}

function success(model, version, result) {
  const served = result?.deployment ? ` and serves in ${result.precision}` : "";
  const remark = result?.note ?? result?.notes;
  return make(
    "p",
    { class: "success" },
    make("a", { href: `#/models/${encodeURIComponent(model)}` }, `${model} version ${version}`),
    ` is ready${served}.${remark ? ` ${remark}` : ""}`,
  );
}

function failure(task) {
  return make(
    "div",
    {},
    complaint(task.error?.detail ?? `The conversion is ${task.state}.`),
    make("a", { href: `#/tasks/${task.id}` }, "The task"),
  );
}
