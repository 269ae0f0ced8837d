import { ask } from "./api.js";

// Sends a try-it form and shows the answer as it arrives, so that streams are seen streaming.
for (const form of document.querySelectorAll(".try form")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const output = form.querySelector("pre");
    const body = form.querySelector("textarea");
    output.hidden = false;
    output.textContent = "…";
    const request = { method: form.dataset.method };
    if (body) Object.assign(request, { body: body.value, headers: { "Content-Type": "application/json" } });
    try {
      const answer = await ask(form.querySelector("input").value, request);
      output.textContent = `${answer.status} ${answer.statusText}\n`;
      const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (let part; reader && !(part = await reader.read()).done;) {
        text += part.value;
        output.textContent = `${answer.status} ${answer.statusText}\n${text}`;
      }
      if ((answer.headers.get("Content-Type") || "").includes("json")) {
        output.textContent = `${answer.status} ${answer.statusText}\n${JSON.stringify(JSON.parse(text), null, 2)}`;
      }
    } catch (error) {
      output.textContent = `No answer: ${error.message}`;
    }
  });
}
