// Sends the forms of the page to this API and shows what comes back.
"use strict";

function request(form) {
  let path = form.dataset.path;
  const query = new URLSearchParams();
  const headers = { Authorization: "Bearer " + document.getElementById("token").value.trim() };
  for (const input of form.querySelectorAll("input")) {
    if (!input.value) continue;
    if (input.dataset.in === "path") path = path.replace(`{${input.name}}`, encodeURIComponent(input.value));
    else if (input.dataset.in === "query") query.append(input.name, input.value);
    else headers[input.name] = input.value;
  }
  const body = form.elements.body ? form.elements.body.value : undefined;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const prefix = location.pathname.replace(/\/docs$/, "");
  const url = prefix + path + (query.size ? "?" + query : "");
  return fetch(url, { method: form.dataset.method, headers, body, credentials: "omit" });
}

async function show(answer, output) {
  output.textContent = `${answer.status} ${answer.statusText}\n\n`;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    output.textContent += value;
  }
}

for (const form of document.forms) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const output = form.nextElementSibling;
    output.hidden = false;
    output.textContent = "…";
    try {
      await show(await request(form), output);
    } catch (error) {
      output.textContent = String(error);
    }
  });
}
