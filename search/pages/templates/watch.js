// Keeps the line about watched folders up to date. Without this script, it shows the state when the page was loaded.
"use strict";

{
  const EVERY_MS = 3000;
  const place = document.getElementById("watch");

  const refresh = async () => {
    if (!document.hidden) {
      try {
        const response = await fetch("/watch");
        if (response.ok) {
          const open = place.querySelector("details")?.open ?? false;
          place.innerHTML = await response.text(); // from the server's own template, which escapes all data
          place.querySelector("details")?.toggleAttribute("open", open);
        }
      } catch {
        // The server has stopped. The next query says so.
      }
    }
    setTimeout(refresh, EVERY_MS);
  };

  setTimeout(refresh, EVERY_MS);
}
