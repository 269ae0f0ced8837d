"use strict";
// The API key is kept in the tab's own storage, which ends with the tab, and is sent to this server only.
const KEY = "lmaas-api-key";
const keyForm = document.getElementById("key");

async function ask(path, request = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...request.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { ...request, headers });
  if (answer.status === 401) {
    keyForm.hidden = false;
    keyForm.querySelector("output").textContent = key ? (await answer.clone().json()).detail : "";
  }
  return answer;
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, keyForm.querySelector("input").value.trim());
  keyForm.reset();
  keyForm.hidden = true;
  document.dispatchEvent(new Event("key"));
});

// A link sends no key: read what it leads to, and show that.
for (const link of document.querySelectorAll("a[data-keyed]")) {
  link.addEventListener("click", async (event) => {
    if (!sessionStorage.getItem(KEY)) return;
    event.preventDefault();
    const answer = await ask(link.href);
    location.assign(URL.createObjectURL(await answer.blob()));
  });
}
