// A result: its strip of frames is a slider that shows a frame large and seeks the player.

const DRAG_PIXELS = 8;
const strips = new WeakMap();

// Makes the results in an element react.
export function enliven(root) {
  for (const strip of root.querySelectorAll(".strip")) {
    if (!strips.has(strip)) strips.set(strip, new Strip(strip));
  }
}

// The strip of a result.
export function stripOf(result) {
  return strips.get(result.querySelector(".strip"));
}

class Strip {
  constructor(element) {
    this.element = element;
    this.stage = element.closest(".result").querySelector(".stage");
    this.player = this.stage?.querySelector("video");
    this.frames = [...element.querySelectorAll("li")];
    this.at = this.frames.findIndex((frame) => frame.classList.contains("best"));
    this.moved = false; // away from what the stage shows by itself
    // A slider holds no links. The moments above it are links still.
    for (const link of element.querySelectorAll("a")) link.replaceWith(...link.childNodes);
    element.firstElementChild.setAttribute("aria-hidden", "true"); // its value says what there is to say
    element.setAttribute("role", "slider");
    element.setAttribute("aria-label", element.dataset.name);
    element.setAttribute("aria-valuemin", 1);
    element.setAttribute("aria-valuemax", this.frames.length);
    element.tabIndex = 0;
    this.large = document.createElement("img");
    this.large.className = "large";
    this.large.alt = "";
    this.when = document.createElement("span");
    this.when.className = "when";
    this.stage?.append(this.large, this.when);
    if (this.player?.poster) this.cover();
    this.mark();
    this.show(null);
    this.listen();
  }

  listen() {
    const { element, player } = this;
    let pressed = null;
    element.addEventListener("pointermove", (event) => {
      const frame = this.nearest(event);
      if (pressed === null) this.show(frame);
      else if (Math.abs(event.clientX - pressed) > DRAG_PIXELS || this.moved) this.choose(frame);
    });
    element.addEventListener("pointerleave", () => this.show(this.moved ? this.at : null));
    element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      element.setPointerCapture(event.pointerId);
      pressed = event.clientX;
      this.moved = false;
      this.show(this.nearest(event));
    });
    element.addEventListener("pointerup", (event) => {
      if (pressed === null) return;
      pressed = null;
      const dragged = this.moved;
      this.choose(this.nearest(event));
      // A tap plays; whoever drags is looking for the place.
      if (!dragged) this.play();
    });
    // The browser has taken the movement for scrolling.
    element.addEventListener("pointercancel", () => {
      pressed = null;
      this.show(this.moved ? this.at : null);
    });
    element.addEventListener("keydown", (event) => {
      const last = this.frames.length - 1;
      const to = {
        ArrowLeft: this.at - 1, ArrowDown: this.at - 1, ArrowRight: this.at + 1, ArrowUp: this.at + 1,
        PageDown: this.at - 3, PageUp: this.at + 3, Home: 0, End: last,
      }[event.key];
      if (to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      this.choose(to);
    });
    player?.addEventListener("playing", () => {
      this.moved = false;
      this.show(null);
    });
    player?.addEventListener("timeupdate", () => {
      if (!player.paused) this.mark(this.frames.findLastIndex((frame) => Number(frame.dataset.seconds) <= player.currentTime + 0.05));
    });
  }

  // Until it plays, the player is its picture and one button.
  cover() {
    const button = document.createElement("button");
    button.className = "play";
    button.type = "button";
    button.textContent = "▶";
    button.setAttribute("aria-label", `play ${this.element.closest(".result").dataset.video}`);
    button.addEventListener("click", () => {
      this.play();
      this.player.focus();
    });
    this.player.controls = false;
    this.button = button;
    this.stage.append(button);
  }

  // The frame nearest to the pointer.
  nearest({ clientX, clientY }) {
    const distances = this.frames.map((frame) => {
      const { left, right, top, bottom } = frame.getBoundingClientRect();
      return Math.hypot(Math.max(left - clientX, 0, clientX - right), Math.max(top - clientY, 0, clientY - bottom));
    });
    return distances.indexOf(Math.min(...distances));
  }

  // Shows a frame large; null for what is below.
  show(at) {
    const image = at === null ? null : this.frames[at].querySelector("img");
    this.large.hidden = !image;
    this.when.hidden = at === null;
    if (image && this.large.getAttribute("src") !== image.getAttribute("src")) this.large.src = image.getAttribute("src");
    if (at !== null) this.when.textContent = this.frames[at].dataset.text;
  }

  // Marks a frame as the present one.
  mark(at = this.at) {
    this.at = Math.min(Math.max(at, 0), this.frames.length - 1);
    this.frames.forEach((frame, i) => frame.classList.toggle("now", i === this.at));
    this.element.setAttribute("aria-valuenow", this.at + 1);
    this.element.setAttribute("aria-valuetext", this.frames[this.at].dataset.text);
  }

  // Goes to a frame.
  choose(at) {
    this.player?.pause();
    this.mark(at);
    this.moved = true;
    this.show(this.at);
    if (this.player?.readyState > 0) this.player.currentTime = Number(this.frames[this.at].dataset.seconds);
  }

  step(by) {
    this.choose(this.at + by);
  }

  // Plays from the present frame, or from a time.
  play(seconds = Number(this.frames[this.at].dataset.seconds)) {
    const { player } = this;
    if (!player) return;
    player.controls = true;
    this.button?.remove();
    const seek = () => {
      player.currentTime = seconds;
      // If the browser refuses to play, the frame at that moment is still shown.
      player.play().catch(() => this.show(null));
    };
    if (player.readyState > 0) seek();
    else {
      player.addEventListener("loadedmetadata", seek, { once: true });
      player.load();
    }
  }

  // Stops, and shows what is below.
  leave() {
    this.player?.pause();
    this.moved = false;
    this.show(null);
  }
}
