// The keyboard, and the links to moments: see the help at the end of the page.
import { stripOf } from "/results.js";

const field = document.getElementById("query");
const help = document.getElementById("keys");
const letters = document.getElementById("letters");

export function listenToKeys(answer) {
  help.hidden = false;
  letters.checked = remembered() !== "off";
  letters.addEventListener("change", () => remember(letters.checked ? "on" : "off"));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const place = event.target;
    const result = place.closest?.(".result");
    const results = [...answer.querySelectorAll(".result")];
    const go = (by) => results[Math.min(Math.max(results.indexOf(result) + by, 0), results.length - 1)]?.focus();
    const onItself = place === result;
    const onStrip = place.matches?.(".strip");
    const typing = place.matches?.("input:not([type=checkbox]), textarea, select");
    const letter = letters.checked && !typing;

    if (place === field && event.key === "ArrowDown") go(1);
    else if (letter && event.key === "/") {
      field.focus();
      field.select();
    } else if (letter && event.key === "?") {
      help.open = !help.open;
      help.firstElementChild.focus();
    } else if ((letter && event.key === "j") || (onItself && event.key === "ArrowDown")) go(1);
    else if ((letter && event.key === "k") || (onItself && event.key === "ArrowUp")) go(-1);
    else if (onItself && event.key === "ArrowLeft") stripOf(result).step(-1);
    else if (onItself && event.key === "ArrowRight") stripOf(result).step(1);
    else if ((onItself || onStrip) && event.key === "Enter") stripOf(result).play();
    else if (result && event.key === "Escape") {
      stripOf(result).leave();
      (onItself ? field : result).focus();
    } else return;
    event.preventDefault();
  });

  answer.addEventListener("click", (event) => {
    const link = event.target.closest("a.seek");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const strip = stripOf(link.closest(".result"));
    strip.play(Number(link.dataset.seconds));
    strip.player.focus();
  });
}

// A browser may keep nothing of this page.
function remembered() {
  try {
    return localStorage.getItem("letters");
  } catch {
    return null;
  }
}

function remember(value) {
  try {
    localStorage.setItem("letters", value);
  } catch {
    // The choice holds until the page is left.
  }
}
