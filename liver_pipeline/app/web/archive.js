// Scans that lie on the app's machine: a list to look through and to take from.
"use strict";

const archive = { path: "" };

function entry(text, title, press) {
  const line = document.createElement("li");
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: text, title });
  button.addEventListener("click", guarded(press));
  line.append(button);
  return line;
}

async function lookAt(path) {
  const found = await api(`api/data?${new URLSearchParams({ path })}`);
  archive.path = found.path;
  const below = (name) => (found.path ? `${found.path}/${name}` : name);
  const steps = found.path ? found.path.split("/") : [];
  byId("data-path").replaceChildren(...["All scans", ...steps].map((name, depth) => entry(name, "", () => lookAt(steps.slice(0, depth).join("/")))));
  byId("data-list").replaceChildren(
    ...(found.is_series ? [entry("Segment the DICOM series in this folder", found.path, () => takeFromArchive(found.path))] : []),
    ...found.folders.map((name) => entry(`${name}/`, "Open the folder", () => lookAt(below(name)))),
    ...found.scans.map((name) => entry(name, "Segment this scan", () => takeFromArchive(below(name)))),
  );
  const nothing = found.folders.length + found.scans.length === 0 && !found.is_series;
  byId("data-note").textContent = nothing ? "No scan lies here." : found.more ? `${found.more} more are not listed.` : "";
}

async function takeFromArchive(path) {
  await withCase({ source: path, name: titleOf(path.split("/").pop()), wait: true }, () => null);
  byId("data-note").textContent = `${path} was put into the queue.`;
  await refresh();
}

// Offer the list where the app was started with a folder of scans.
async function offerArchive() {
  try {
    await lookAt("");
  } catch {
    return;
  }
  byId("archive").hidden = false;
  byId("archive").addEventListener("click", guarded(async () => {
    await lookAt(archive.path);
    byId("data").showModal();
  }));
  byId("data-close").addEventListener("click", () => byId("data").close());
}
