// The last thing that was done here, as lines of curl, Python and JavaScript.
import { hasKey } from "./api.js";

const place = document.getElementById("code");
const text = place.querySelector("pre");
const copy = document.getElementById("copy");
let last = null; // {method, path, body, file}
let language = "curl";

/** Keep what was just sent. With `file`, the name of an archive, `body` holds the fields of a form. */
export function remember(method, path, body, file) {
  last = { method, path, body, file };
  place.hidden = false;
  place.querySelector("summary code").textContent = `${method} ${path}`;
  show();
}

function show() {
  text.textContent = { curl, python, javascript }[language](last);
  copy.textContent = "Copy";
  for (const button of place.querySelectorAll("[data-language]"))
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
}

place.addEventListener("click", ({ target }) => {
  if (!target.dataset?.language) return;
  language = target.dataset.language;
  show();
});
copy.addEventListener("click", async () => {
  // The clipboard is for pages of localhost and of https alone: elsewhere the text is selected.
  getSelection().selectAllChildren(text);
  if (!navigator.clipboard) return;
  await navigator.clipboard.writeText(text.textContent);
  copy.textContent = "Copied";
});

const quoted = (value) => `'${value.replaceAll("'", "'\\''")}'`;
const url = (path) => location.origin + path;

function curl({ method, path, body, file }) {
  const parts = [
    `curl -s${body?.stream ? "N" : ""}${method === "GET" || (method === "POST" && body) ? "" : ` -X ${method}`} ${quoted(url(path))}`,
  ];
  if (hasKey()) parts.push('-H "Authorization: Bearer $LMAAS_API_KEY"');
  if (file)
    parts.push(
      ...Object.entries(body).map(([name, value]) => `-F ${quoted(`${name}=${value}`)}`),
      `-F ${quoted(`file=@${file}`)}`,
    );
  else if (body) parts.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body))}`);
  return parts.join(" \\\n  ");
}

// The client that comes with LMaaS takes the key from LMAAS_API_KEY.
function python(request) {
  const { body, path, file } = request;
  const head = `${file ? "from pathlib import Path\n\n" : ""}from client import Client\n\nwith Client(${literal(location.origin)}) as lmaas:\n`;
  if (body?.stream) {
    const { stream, ...rest } = body;
    return `${head}    for piece in lmaas.stream(${named(rest, "prompt")}):\n        print("".join(choice["text"] for choice in piece["choices"]), end="")\n`;
  }
  if (file) {
    const { name, ...rest } = body;
    const given = Object.entries(rest)
      .map(([field, value]) => `, ${field}=${field === "deploy" ? "True" : literal(value)}`)
      .join("");
    return `${head}    task = lmaas.push(${literal(name)}, Path(${literal(file)})${given})\n    print(lmaas.wait(task["id"])["state"])\n`;
  }
  return `${head}    print(${pythonCall(request, path)})\n`;
}

function pythonCall({ method, body }, path) {
  if (path === "/v1/classify" || path === "/v1/nlu") return `lmaas.${path.slice(4)}(${named(body, "input")})`;
  if (path === "/v1/infer") return `lmaas.infer(${named(body, "premise", "hypothesis")})`;
  if (path === "/v1/deployments") return `lmaas.deploy(${named(body, "model")})`;
  return `lmaas.call(${literal(method)}, ${literal(path)}${body ? `, json=${literal(body)}` : ""})`;
}

/** Arguments: those of `first` by their place, the others by name. */
function named(body, ...first) {
  const rest = Object.entries(body).filter(([name]) => !first.includes(name));
  return [
    ...first.map((name) => literal(body[name])),
    ...rest.map(([name, value]) => `${name}=${literal(value)}`),
  ].join(", ");
}

function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value)
      .map(([name, item]) => `${literal(name)}: ${literal(item)}`)
      .join(", ")}}`;
  return JSON.stringify(value); // of texts and numbers, JSON is Python too
}

function javascript({ method, path, body, file }) {
  const headers = {
    ...(hasKey() && { Authorization: "Bearer …" }),
    ...(body && !file && { "Content-Type": "application/json" }),
  };
  const options = [`method: ${JSON.stringify(method)}`];
  if (Object.keys(headers).length) options.push(`headers: ${JSON.stringify(headers)}`);
  if (file) options.push("body: form");
  else if (body) options.push(`body: JSON.stringify(${JSON.stringify(body)})`);
  const form = file
    ? `const form = new FormData();\n${Object.entries(body)
        .map(([name, value]) => `form.append(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`)
        .join("")}form.append("file", file, ${JSON.stringify(file)}); // a File or a Blob\n`
    : "";
  const read = body?.stream
    ? "for await (const part of answer.body.pipeThrough(new TextDecoderStream())) console.log(part);\n"
    : method === "DELETE"
      ? "console.log(answer.status);\n"
      : "console.log(await answer.json());\n";
  return `${form}const answer = await fetch(${JSON.stringify(url(path))}, {\n  ${options.join(",\n  ")},\n});\n${read}`;
}
