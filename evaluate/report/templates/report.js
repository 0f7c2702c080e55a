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
    const times = [...strip.querySelectorAll(".times span")].map((time) => time.textContent);
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
