// Keeps the line about watched folders up to date. Without this script, it shows the state when the page was loaded.
"use strict";

{
  const EVERY_MS = 3000;
  const place = document.getElementById("watch");
  const gallery = () => place.firstElementChild.dataset.replaced;
  let shown = null;

  const show = (content) => {
    if (content === shown) return;
    shown = content;
    const before = gallery();
    const open = place.querySelector("details")?.open ?? false;
    const focused = place.contains(document.activeElement);
    place.innerHTML = content; // from the server's own template, which escapes all data
    place.querySelector("details")?.toggleAttribute("open", open);
    if (focused) place.querySelector("summary")?.focus();
    document.getElementById("total").textContent = place.firstElementChild.dataset.total;
    if (gallery() !== before) document.dispatchEvent(new Event("gallery"));
  };

  const refresh = async () => {
    if (!document.hidden) {
      try {
        const response = await fetch("/watch");
        if (response.ok) show(await response.text());
      } catch {
        // The server has stopped. The next query says so.
      }
    }
    setTimeout(refresh, EVERY_MS);
  };

  setTimeout(refresh, EVERY_MS);
}
