// What every part of a page shares: colours of classes, choices, and which class is set off.
"use strict";

const classes = JSON.parse(document.getElementById("class-data").textContent);
const NO_CLASS = 255;
const RIGHT = [47, 128, 214];
const WRONG = [255, 122, 26];

const colours = { name: "standard", palette: classes.standard, only: null };
const repaints = [];
// Several changes at once, as when a page opens, are painted once.
const content = document.getElementById("content");
const due = new Set();
const repaint = (painters = repaints) => {
  const isAwaited = due.size > 0;
  painters.forEach((paint) => due.add(paint));
  if (isAwaited || due.size === 0) return;
  content.setAttribute("aria-busy", "true");
  requestAnimationFrame(async () => {
    const now = [...due];
    due.clear();
    await Promise.all(now.map((paint) => paint()));
    if (due.size === 0) content.removeAttribute("aria-busy");
  });
};

const choose = (group) => document.querySelector(`input[name="${group}"]:checked`)?.value;
const whenChosen = (group, act) => {
  for (const input of document.querySelectorAll(`input[name="${group}"]`)) {
    input.addEventListener("change", act);
  }
};

// The other palette, remembered where the browser lets a file remember.
const remember = (value) => {
  try {
    if (value !== undefined) localStorage.setItem("cag-uda-palette", value);
    return localStorage.getItem("cag-uda-palette");
  } catch {
    return null;
  }
};
const safeColours = document.getElementById("safe-colours");
const applyPalette = () => {
  colours.name = safeColours.checked ? "safe" : "standard";
  colours.palette = classes[colours.name];
  document.documentElement.dataset.palette = colours.name;
  repaint();
};
if (safeColours) {
  safeColours.checked = remember() === "safe";
  safeColours.addEventListener("change", () => {
    remember(safeColours.checked ? "safe" : "standard");
    applyPalette();
  });
  applyPalette();
}

// A class chosen in any legend is set off in every picture and map.
const legendButtons = [...document.querySelectorAll("button[data-class]")];
for (const button of legendButtons) {
  button.addEventListener("click", () => {
    const chosen = Number(button.dataset.class);
    colours.only = colours.only === chosen ? null : chosen;
    for (const other of legendButtons) {
      other.setAttribute("aria-pressed", String(Number(other.dataset.class) === colours.only));
    }
    repaint();
  });
}

// One pane of several at a time.
for (const head of document.querySelectorAll("[data-panes]")) {
  const panes = head.closest(".panes").querySelectorAll(".pane");
  const group = head.querySelector("input").name;
  const show = () => panes.forEach((pane, i) => { pane.hidden = String(i) !== choose(group); });
  head.closest(".panes").classList.add("one-at-a-time");
  head.hidden = false;
  whenChosen(group, show);
  show();
}

window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint());
