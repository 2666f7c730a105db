/* The live parts of the console. Without this file, each page shows what was there when it was opened. */
"use strict";

const MOST_ROWS = 200;
let skipped = 0;

/* State of the stream, and pausing */

const paused = () => document.querySelector("[data-pause][aria-pressed='true']") !== null;

function say(text) {
  const status = document.querySelector("[data-stream-state]");
  if (status && status.textContent !== text) status.textContent = text;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-pause]");
  if (!button) return;
  const pause = button.getAttribute("aria-pressed") !== "true";
  if (!pause && skipped) { location.reload(); return; }
  button.setAttribute("aria-pressed", String(pause));
  button.textContent = pause ? "Resume" : "Pause";
  say(pause ? "Paused" : "Live");
});

document.addEventListener("htmx:sseOpen", () => { if (!paused()) say("Live"); });

document.addEventListener("htmx:sseBeforeMessage", (event) => {
  if (!paused()) return;
  event.preventDefault();
  skipped += 1;
});

document.addEventListener("htmx:sseMessage", (event) => {
  const rows = event.target.closest("tbody");
  if (!rows) return;
  while (rows.children.length > MOST_ROWS) rows.lastElementChild.remove();
  document.querySelectorAll("[data-empty]").forEach((empty) => empty.remove());
});

/* The server says that the session has ended, or a new stream would lead to the sign-in page. */
document.addEventListener("htmx:sseClose", (event) => {
  if (event.detail.type === "message") location.reload();
});

document.addEventListener("htmx:sseError", async () => {
  say("Connection lost; trying again");
  const answer = await fetch(location.href, { method: "HEAD", redirect: "manual" }).catch(() => null);
  if (answer && answer.type === "opaqueredirect") location.reload();
});

/* Charts: <div class="plot" data-from="SECONDS" data-step="SECONDS" data-values="[…]" data-tone="bad"> */

const tone = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function draw(plot) {
  const values = JSON.parse(plot.dataset.values);
  const from = Number(plot.dataset.from), step = Number(plot.dataset.step);
  const times = values.map((_, index) => from + index * step);
  const color = tone(plot.dataset.tone || "accent");
  plot.replaceChildren();
  new uPlot({
    width: plot.clientWidth, height: plot.clientHeight, padding: [4, 0, 2, 0],
    cursor: { show: false }, legend: { show: false }, axes: [{ show: false }, { show: false }],
    scales: { y: { range: (_, low, high) => [0, Math.max(high, 1)] } },
    series: [{}, { stroke: color, fill: `${color}26`, width: 1.5, points: { show: false } }],
  }, [times, values], plot);
}

function drawAll() { document.querySelectorAll(".plot[data-values]").forEach(draw); }

document.addEventListener("htmx:sseMessage", drawAll);
addEventListener("resize", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
drawAll();
