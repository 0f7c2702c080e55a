// The picture of a query: chosen, dropped or pasted.
const field = document.getElementById("image");
const chosen = document.getElementById("chosen");
const [preview, name, remove] = chosen.children;
const drop = document.getElementById("drop");
let picture = null;

export function shownPicture() {
  return picture;
}

// Shows the picture of the query, or that there is none.
export async function showPicture(file) {
  picture = file ?? null;
  chosen.hidden = !picture;
  field.hidden = document.querySelector("label[for=image]").hidden = Boolean(picture);
  if (!picture) return;
  name.textContent = picture.name;
  preview.setAttribute("aria-label", `the picture ${picture.name}`);
  preview.hidden = true;
  let small;
  try {
    small = await createImageBitmap(picture, { resizeHeight: 96, resizeQuality: "medium" });
  } catch {
    return; // of a kind that this browser cannot show; the server may read it
  }
  if (picture !== file) return;
  preview.width = small.width;
  preview.height = small.height;
  preview.getContext("2d").drawImage(small, 0, 0);
  preview.hidden = false;
}

// `search` is called whenever the picture has changed.
export function listenForPictures(search) {
  document.getElementById("send").hidden = true; // a picture is searched for as soon as it is there
  document.getElementById("also").hidden = false;
  const take = (file) => {
    const heaviest = Number(field.dataset.heaviest);
    field.value = "";
    if (!file) return;
    // Told before it is sent.
    if (file.size > heaviest) alertOf(`The picture is larger than ${heaviest / 2 ** 20} MiB: choose a smaller one.`);
    else if (!file.type.startsWith("image/")) alertOf(`${file.name} is not a picture.`);
    else showPicture(file).then(search);
  };
  field.addEventListener("change", () => take(field.files[0]));
  remove.addEventListener("click", () => {
    showPicture(null);
    field.focus();
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take(event.clipboardData.files[0]);
  });
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    drop.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.hidden = true;
  });
  addEventListener("drop", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    drop.hidden = true;
    take(event.dataTransfer.files[0]);
  });
}

function alertOf(text) {
  field.setCustomValidity(text);
  field.reportValidity();
  field.addEventListener("input", () => field.setCustomValidity(""), { once: true });
}
