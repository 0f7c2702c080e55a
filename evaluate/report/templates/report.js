"use strict";

// The weights behind the bars: for every strip, one row per button of its card, as integers where 10,000 is a weight of 1.
const rowsOf = new WeakMap();

function weights(strip, row) {
  if (!rowsOf.has(strip)) {
    rowsOf.set(strip, strip.dataset.weights.split(";").map((line) => line.split(",").map(Number)));
  }
  return rowsOf.get(strip)[row];
}

function show(card, button) {
  const peak = Number(card.dataset.peak);
  for (const other of card.querySelectorAll("button[data-row]")) {
    other.classList.toggle("shown", other === button);
  }
  for (const strip of card.querySelectorAll(".strip")) {
    const row = weights(strip, Number(button.dataset.row));
    const times = [...strip.querySelectorAll(".times > *")].map((time) => time.textContent);
    const bars = strip.querySelector(".bars");
    [...bars.children].forEach((bar, i) => { bar.style.height = `${(100 * row[i]) / peak}%`; });
    bars.setAttribute("aria-label", row.map((weight, i) => `${times[i]}: ${Math.round(weight / 100)}%`).join(", "));
  }
  const said = card.querySelector(".said b");
  if (said.textContent !== button.textContent) said.textContent = button.textContent;
}

// On a narrow page, the frame with the largest weight may be out of view.
function scrollToHeaviest(card) {
  for (const bars of card.querySelectorAll(".bars")) {
    const tallest = [...bars.children].reduce((a, b) => (parseFloat(b.style.height) > parseFloat(a.style.height) ? b : a));
    const box = bars.closest(".scroll");
    box.scrollLeft = tallest.offsetLeft + tallest.offsetWidth / 2 - box.clientWidth / 2;
  }
}

function pressed(card) {
  return card.querySelector('button[aria-pressed="true"]');
}

for (const card of document.querySelectorAll(".card")) {
  if (!pressed(card)) continue;
  const buttonAt = (event) => event.target.closest("button[data-row]");
  for (const kind of ["pointerover", "focusin"]) {
    card.addEventListener(kind, (event) => { if (buttonAt(event)) show(card, buttonAt(event)); });
  }
  for (const kind of ["pointerout", "focusout"]) {
    card.addEventListener(kind, (event) => { if (buttonAt(event)) show(card, pressed(card)); });
  }
  card.addEventListener("click", (event) => {
    const button = buttonAt(event);
    if (!button) return;
    pressed(card).setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", "true");
    show(card, button);
    scrollToHeaviest(card);
  });
}

// The moments of a video are one stop of the Tab key: the arrow keys move between them.
for (const times of document.querySelectorAll(".times[role=group]")) {
  const moments = [...times.children];
  const stop = (moment) => { for (const other of moments) other.tabIndex = other === moment ? 0 : -1; };
  stop(moments[0]);
  times.addEventListener("focusin", (event) => stop(event.target));
  times.addEventListener("keydown", (event) => {
    const at = moments.indexOf(event.target);
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: moments.length - 1 }[event.key];
    if (!moments[next]) return;
    event.preventDefault();
    moments[next].focus();
  });
}

// A link to a card opens it.
function openTarget(hash) {
  const card = document.getElementById(hash.slice(1));
  if (card && card.matches("details.card")) card.open = true;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#card-"]');
  if (link) openTarget(link.hash);
});
addEventListener("hashchange", () => openTarget(location.hash));
openTarget(location.hash);

const filters = document.getElementById("filters");
const rows = [...document.querySelectorAll("#query-table > tbody > tr")];
const plain = (text) => text.normalize("NFKC").toLowerCase();
const words = new Map(rows.map((row) => [row, plain(row.textContent)]));
// Without kinds, there is no choice of them.
const choice = (id) => document.getElementById(id)?.value ?? "";

function filterRows() {
  const typed = plain(choice("filter-text")).split(/\s+/).filter(Boolean);
  // A choice is "=" and the wanted value, which is empty for "no kind"; that of all rows is empty.
  const wanted = { outcome: choice("filter-outcome"), kind: choice("filter-kind") };
  let shown = 0;
  for (const row of rows) {
    const fits = Object.entries(wanted).every(([name, value]) => !value || value === `=${row.dataset[name]}`);
    row.hidden = !(fits && typed.every((word) => words.get(row).includes(word)));
    if (!row.hidden) shown += 1;
  }
  document.getElementById("filtered").textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown`;
}

function sortRows() {
  const [name, sign] = choice("sort").split(" ");
  // Rows that are equal stay in the order of the split.
  const sorted = name ? rows.toSorted((a, b) => sign * (a.dataset[name] - b.dataset[name])) : rows;
  document.querySelector("#query-table > tbody").append(...sorted);
}

filters.hidden = false;
filters.addEventListener("input", filterRows);
document.getElementById("sort").addEventListener("change", sortRows);
// A browser may keep what was chosen before a reload.
filterRows();
sortRows();

const theme = document.getElementById("theme");
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.hidden = false;
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  name();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
name();
