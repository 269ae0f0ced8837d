// Calls of this server's API. The API key is kept in the tab's own storage, which ends with the tab.
const KEY = "lmaas-api-key";
const keyForm = document.getElementById("key");

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const waitsForKey = () => !keyForm.hidden;

/** An answer that is an error: a problem document (RFC 9457). `fields` is a list of {field, message}. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || `the server answered ${status}`);
    this.status = status;
    this.fields = body.errors ?? [];
  }
}

/** The server could not be reached, or the connection broke. */
export class Unreachable extends Error {}

/** `fetch` with the key. An answer of 401 shows the form that asks for one. */
export async function ask(path, request = {}) {
  const headers = { ...request.headers, ...authorization() };
  const answer = await fetch(path, { ...request, headers }).catch((error) => {
    throw error.name === "AbortError" ? error : new Unreachable("The server does not answer.");
  });
  if (answer.status === 401) {
    keyForm.hidden = false;
    keyForm.querySelector("output").textContent = hasKey() ? (await answer.clone().json()).detail : "";
  }
  return answer;
}

/** Likewise; an error status is thrown as a Problem. `body` becomes JSON. */
export async function call(method, path, body, signal) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await ask(path, {
    method,
    headers,
    signal,
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!answer.ok) throw await problem(answer);
  return answer;
}

/** The JSON of a route. */
export async function get(path) {
  return (await call("GET", path)).json();
}

/** The items of a listing; null where the key lacks the scope. */
export async function items(path) {
  try {
    return (await get(path)).data;
  } catch (error) {
    if (error.status === 403) return null;
    throw error;
  }
}

/** The server-sent events of an answer, as {name, data}. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part; !(part = await reader.read()).done;) {
    const blocks = (rest + part.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const field = (name) =>
        lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim());
      const data = field("data").join("\n");
      if (data) yield { name: field("event")[0] ?? "message", data: JSON.parse(data) };
    }
  }
}

/** POST a form; `onShare` gets the share of it that was sent, 0 to 1. `fetch` does not report that. */
export function post(path, form, onShare, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => onShare(event.loaded / event.total));
    request.addEventListener("load", () => {
      if (request.status < 400) resolve(request.response);
      else reject(new Problem(request.status, request.response ?? {}));
    });
    request.addEventListener("error", () => reject(new Unreachable("The connection broke.")));
    request.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

function authorization() {
  return hasKey() ? { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : {};
}

async function problem(answer) {
  return new Problem(answer.status, await answer.json().catch(() => ({})));
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, keyForm.querySelector("input").value.trim());
  keyForm.reset();
  keyForm.hidden = true;
  document.dispatchEvent(new Event("key"));
});

// A link sends no key: read what it leads to, and show or save that.
document.addEventListener("click", async (event) => {
  const link = event.target.closest?.("a[data-keyed]");
  if (!link || !hasKey()) return;
  event.preventDefault();
  const answer = await ask(link.href);
  if (!answer.ok) return;
  const url = URL.createObjectURL(await answer.blob());
  if (link.hasAttribute("download"))
    Object.assign(document.createElement("a"), { href: url, download: link.download }).click();
  else location.assign(url);
});
