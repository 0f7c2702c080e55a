// The page works without this: queries are then answered by a whole page, and a moment opens the file at its time.
"use strict";

const form = document.querySelector("form");
const field = document.getElementById("query");
const answer = document.getElementById("answer");
const announced = document.getElementById("announced");
let asked = 0;

async function show(address) {
  const number = ++asked;
  answer.setAttribute("aria-busy", "true");
  let content;
  try {
    const response = await fetch("/results" + address);
    content = await response.text();
  } catch {
    content = null;
  }
  // A later query was asked meanwhile: its answer counts.
  if (number !== asked) return;
  if (content === null) {
    const note = document.createElement("p");
    note.className = "error";
    note.textContent = "The server does not answer: is it still running?";
    answer.replaceChildren(note);
  } else {
    answer.innerHTML = content; // markup of the server's own templates, in which all data is escaped
    document.title = answer.querySelector("[data-title]")?.dataset.title ?? document.title;
  }
  answer.setAttribute("aria-busy", "false");
  // For those who listen: the line that sums up the answer and what is noted beside it, and not all of it.
  announced.textContent = [...answer.querySelectorAll("#status, .error, .note")].map((line) => line.textContent).join(" ");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const address = "?" + new URLSearchParams({ q: field.value });
  history.pushState(null, "", "/" + address);
  show(address);
});

window.addEventListener("popstate", () => {
  field.value = new URLSearchParams(location.search).get("q") ?? "";
  show(location.search);
});

answer.addEventListener("click", (event) => {
  const link = event.target.closest("a.seek");
  const player = link?.closest(".result").querySelector("video");
  if (!player || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const seek = () => {
    player.currentTime = Number(link.dataset.seconds);
    // A browser may refuse to play: the moment is shown all the same.
    player.play().catch(() => {});
  };
  if (player.readyState > 0) seek();
  else {
    player.addEventListener("loadedmetadata", seek, { once: true });
    player.load();
  }
  player.focus();
});
