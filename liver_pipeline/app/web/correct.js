// Corrections: what is drawn in the viewer's page is saved from here, and nobody leaves without knowing what is lost.
"use strict";
let unsaved = 0;  // voxels of the page in the frame

const frame = () => byId("view");
const tellFrame = (message) => frame().contentWindow?.postMessage(message, location.origin);

function forgetDrawing() {
  unsaved = 0;
}

// Whether the page may go to where the address points now; if not, the address is set back.
function mayLeave() {
  const here = frame().dataset.id;
  if (!unsaved || location.hash.slice(1) === here) return true;
  if (!confirm(`${unsaved} voxels that you drew are not saved. Leave, and lose them?`)) {
    history.replaceState(null, "", `#${here}`);
    return false;
  }
  forgetDrawing();
  return true;
}

// Whether a case that was deleted elsewhere stays on the screen, for what was drawn.
function keepsDrawing(row) {
  if (row || !unsaved) return false;
  say("NOT_FOUND: the case was deleted meanwhile, perhaps in another tab; what you drew cannot be saved any more. “All cases” leaves it.");
  return true;
}

function showCorrection(row) {
  byId("correction").hidden = !row.edited;
  byId("corrected").textContent = row.stage === "measuring" ? "This mask was corrected by hand; its figures are being measured." : "This mask was corrected by hand.";
}

async function saveDrawing(edit) {
  const id = frame().dataset.id;
  const send = (body) => api(`api/cases/${id}/edit`, { method: "PUT", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  let row;
  try {
    row = await send(edit);
  } catch (error) {
    if (!error.message.startsWith("MASK_CHANGED")) throw error;
    const now = await api(`api/cases/${id}`);
    if (!confirm("The mask was changed since you opened it, perhaps in another tab. Put what you drew on top of it? Elsewhere it stays as it is now.")) {
      throw new Error("MASK_CHANGED: not saved; what you drew is still on this page.", { cause: error });
    }
    row = await send({ ...edit, made_from: now.mask_sha256 });
  }
  tellFrame({ correction: "saved", mask_sha256: row.mask_sha256 });
  showNewFigures(id).catch((error) => say(error.message));
  await refresh();
}

// The table is there once the correction is measured.
async function showNewFigures(id) {
  const table = await api(`api/cases/${id}/table.json`);
  if (frame().dataset.id === id) tellFrame({ correction: "figures", table });
  await refresh();
}

function listenToDrawing() {
  const save = guarded(async (edit) => {
    try {
      await saveDrawing(edit);
    } catch (error) {
      tellFrame({ correction: "refused" });
      throw error;
    }
  });
  window.addEventListener("message", ({ data, origin, source }) => {
    if (source !== frame().contentWindow || origin !== location.origin) return;
    if (data.correction === "ready") tellFrame({ correction: "begin" });
    if (data.correction === "state") unsaved = data.unsaved;
    if (data.correction === "save") save(data.edit);
  });

  window.addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });

  byId("collect").addEventListener("click", guarded(async () => {
    const { folder, cases: count, left_out: left } = await api("api/training-set", { method: "POST" });
    const command = Object.assign(document.createElement("code"), { textContent: `liver-pipeline train runs/next --from default --data folder dataset_dir="${folder}"` });
    const missing = Object.entries(left).map(([id, why]) => ` ${cases.find((row) => row.id === id)?.name ?? id} is left out (${why}).`).join("");
    byId("collected").replaceChildren(`${count} corrected or accepted ${count === 1 ? "case is" : "cases are"} ready; rejected ones are left out.${missing} To train on them: `, command);
    byId("collected").hidden = false;
  }));

  byId("take-back").addEventListener("click", guarded(async () => {
    if (!confirm("Delete the correction? The network's mask is the case's mask again.")) return;
    await api(`api/cases/${frame().dataset.id}/edit`, { method: "DELETE" });
    forgetDrawing();
    delete frame().dataset.id;
    await refresh();
  }));
}
