// The page works without this script: a query then loads a whole page, and a moment opens the video file at its time.
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
  // The user has sent another query in the meantime, whose answer will be shown instead.
  if (number !== asked) return;
  if (content === null) {
    const note = document.createElement("p");
    note.className = "error";
    note.textContent = "The server is not responding. Is it still running?";
    answer.replaceChildren(note);
  } else {
    answer.innerHTML = content; // from the server's own templates, which escape all data
    document.title = answer.querySelector("[data-title]")?.dataset.title ?? document.title;
  }
  answer.setAttribute("aria-busy", "false");
  // Screen readers hear the summary line and the notes, not the whole answer.
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
    // If the browser refuses to play, the frame at that moment is still shown.
    player.play().catch(() => {});
  };
  if (player.readyState > 0) seek();
  else {
    player.addEventListener("loadedmetadata", seek, { once: true });
    player.load();
  }
  player.focus();
});
