"use strict";
// Copy a command.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".command button");
  if (!button) return;
  const done = (word) => { button.textContent = word; setTimeout(() => { button.textContent = "copy"; }, 1600); };
  const code = button.previousElementSibling;
  const select = () => { getSelection().selectAllChildren(code); done("selected"); };
  navigator.clipboard ? navigator.clipboard.writeText(code.textContent).then(() => done("copied"), select) : select();
});
// Open or close all lines; paper shows them open.
const lines = [...document.querySelectorAll(".lines details")];
const all = document.getElementById("all");
all?.addEventListener("click", () => {
  const open = lines.some((line) => !line.open);
  for (const line of lines) line.open = open;
  all.textContent = open ? "close all" : "open all";
});
let before = [];
addEventListener("beforeprint", () => {
  const every = [...document.querySelectorAll("details")];
  before = every.map((one) => [one, one.open]);
  for (const one of every) one.open = true;
});
addEventListener("afterprint", () => { for (const [one, open] of before) one.open = open; });
// The splats: unpacked only when somebody wants to see them.
document.getElementById("turn")?.addEventListener("click", async (event) => {
  const button = event.currentTarget;
  button.disabled = true;
  button.textContent = "unpacking…";
  try {
    const packed = Uint8Array.from(atob(document.getElementById("viewer").textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    // What the viewer expects of the place that it is opened from: a storage, which a frame of a
    // file has not, and an address that names can be relative to. Nothing is fetched from there.
    const shim = `<script>
      try { localStorage } catch {
        const none = { getItem: () => null, setItem: () => {}, removeItem: () => {} };
        Object.defineProperty(window, "localStorage", { value: none });
      }
      const base = (from) => /^blob:/.test(String(from)) ? "https://splats.invalid/" : from;
      // Its own turning stays off: it leaves at once for sides that no photograph shows.
      const still = (url) => String(url) === location.href ? url + "?noanim" : url;
      window.URL = class extends URL { constructor(url, from) { super(still(url), base(from)); } };
    <\/script>`;
    const page = (await new Response(stream).text()).replace("<head>", "<head>" + shim);
    const frame = document.createElement("iframe");
    frame.title = "the splats, turning under the mouse";
    frame.src = URL.createObjectURL(new Blob([page], { type: "text/html" }));
    button.parentElement.replaceChildren(frame);
    frame.focus();
  } catch (error) {
    button.textContent = "this browser cannot show them: " + error.message;
  }
});
