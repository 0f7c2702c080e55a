// The page works without this script: a query then loads a whole page, and a moment opens the video file at its time.
import { listenToKeys } from "/keys.js";
import { listenForPictures, shownPicture, showPicture } from "/picture.js";
import { enliven } from "/results.js";

const form = document.getElementById("search");
const answer = document.getElementById("answer");
const announced = document.getElementById("announced");
const REPEATED = ["path", "where"];
const MOST_KEPT = 20;
// Answers of this visit by address, so that going back is instant, and its pictures, which no address can hold.
const kept = new Map();
const pictures = new Map();
let loading = new AbortController();

function say(text) {
  const line = document.createElement("p");
  line.className = "error";
  line.textContent = text;
  answer.replaceChildren(line);
}

async function fetched(address, picture) {
  const request = { signal: loading.signal };
  if (picture) {
    request.method = "POST";
    request.body = new FormData();
    for (const [name, value] of new URLSearchParams(address)) request.body.append(name, value);
    request.body.append("image", picture, picture.name);
  }
  const response = await fetch("/results" + (picture ? "" : address), request);
  if (response.status === 401) location.reload(); // the login has ended: the page asks for it, and returns here
  const content = await response.text();
  return { content, ok: response.ok, isPage: Boolean(response.headers.get("Content-Type")?.startsWith("text/html")) };
}

// Shows the answer to the query of an address: all that the page holds is drawn anew from it. `again`: whether one that is kept will do.
async function show(address, picture, again = false) {
  loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  const key = address + "#" + (history.state?.picture ?? "");
  answer.setAttribute("aria-busy", "true");
  let found = again ? kept.get(key) : null;
  if (!found) {
    try {
      found = await fetched(address, picture);
    } catch {
      found = { content: "The server does not respond. Is it still running?", ok: false, isPage: false };
    }
  }
  // The user has asked for something else in the meantime.
  if (signal.aborted) return;
  if (found.isPage) answer.innerHTML = found.content; // from the server's own templates, which escape all data
  else say(found.content);
  if (found.ok) kept.set(key, found);
  if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
  document.title = answer.querySelector("[data-title]")?.dataset.title ?? document.title;
  answer.setAttribute("aria-busy", "false");
  enliven(answer);
  announce();
}

// Screen readers hear the summary line and the notes, not the whole answer.
function announce() {
  announced.textContent = [...answer.querySelectorAll("#status, .error, .note")].map((line) => line.textContent.trim()).join(" ");
}

// Goes to the query of an address, with a picture if it has one.
function go(address, picture) {
  history.replaceState({ ...history.state, top: scrollY }, "");
  const number = picture ? pictures.size : undefined;
  if (picture) pictures.set(number, picture);
  history.pushState({ picture: number, name: picture?.name }, "", "/" + address);
  fill(address, picture);
  return show(address, picture);
}

// Puts the query of an address into the form. The answer has what repeats, and the moment.
function fill(address, picture) {
  const given = new URLSearchParams(address);
  for (const control of form.querySelectorAll("input[name]:not([type=file])")) {
    if (control.type === "checkbox") control.checked = given.has(control.name);
    else control.value = REPEATED.includes(control.name) ? "" : given.get(control.name) ?? "";
  }
  showPicture(picture);
}

function asked() {
  const fields = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (name !== "image" && value.trim()) fields.append(name, value);
  }
  return "?" + fields;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  go(asked(), shownPicture());
});

// A browser does not send a form with a wrong value, and cannot point at what is folded away.
form.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);

// The weight of a picture lies in the answer, which is replaced.
answer.addEventListener("change", async (event) => {
  if (event.target.name !== "weight") return;
  await go(asked(), shownPicture());
  answer.querySelector("[name=weight]")?.focus();
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (link.origin !== location.origin || link.pathname !== "/") return;
  event.preventDefault();
  // Another page of results, or other filters, belong to the same picture; another moment, words or captions do not.
  const stays = link.closest(".pages, .asked, .hints") && link.search;
  go(link.search, stays ? shownPicture() : null).then(() => {
    scrollTo(0, 0);
    (answer.querySelector(".result") ?? document.getElementById("query")).focus({ preventScroll: true });
  });
});

function restored() {
  const picture = pictures.get(history.state?.picture);
  fill(location.search, picture);
  return picture;
}

addEventListener("popstate", async () => {
  const top = history.state?.top ?? 0;
  await show(location.search, restored(), true);
  if (history.state?.name && !shownPicture()) tellOfPicture();
  scrollTo(0, top);
});

// A visit before this one had a picture here, which is gone with it.
function tellOfPicture() {
  const line = document.createElement("p");
  line.className = "note";
  line.textContent = `This search had the picture ${history.state.name}, which is lost: drop it here again.`;
  answer.prepend(line);
  announce();
}

// With --watch, other videos are searched from now on.
document.addEventListener("gallery", () => kept.clear());

// The browser does not know how tall the page will be once its answer is drawn. Nothing can be noted while a page is loaded again.
history.scrollRestoration = "manual";
addEventListener("scrollend", () => history.replaceState({ ...history.state, top: scrollY }, ""));
listenForPictures(() => go(asked(), shownPicture()));
listenToKeys(answer);
enliven(answer);
if (history.state?.name) tellOfPicture();
if (history.state?.top) scrollTo(0, history.state.top);
