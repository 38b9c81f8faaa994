// The tools to correct a mask. They are there only where the app shows this page, which keeps what is drawn.
"use strict";
const TOOLS = [["move", "Move"], ["brush", "Brush"], ["grow", "Click to segment"]];
const CLASSES = [[2, "Tumor"], [1, "Liver"], [0, "Erase"]];
let drawing = null;
let sent = null;

// Whether a press in a panel draws there.
function draws(roles) {
  return drawing !== null && drawing.tool !== "move" && drawing.stroke !== null && roles.includes("mask");
}

function tellApp(message) {
  window.parent.postMessage(message, location.origin);
}

function showDrawing() {
  byId("undo").disabled = drawing.strokes.length === 0;
  byId("keep").disabled = drawing.unsaved === 0 || sent !== null;
  byId("unsaved").textContent = sent ? "Saving…" : drawing.unsaved ? `${drawing.unsaved} voxels not saved` : "";
  for (const [id, tool] of [["brush-size", "brush"], ["tolerance", "grow"], ["reach", "grow"]]) byId(id).hidden = drawing.tool !== tool;
  byId("panels").classList.toggle("draws", drawing.tool !== "move");
  pressed("drawing-tools", drawing.tool);
  pressed("drawing-classes", String(drawing.label));
  tellApp({ correction: "state", unsaved: drawing.unsaved });
}

// A ring as large as the brush, round the pointer.
function showRing(event) {
  const canvas = event.target.tagName === "CANVAS" && event.pointerType !== "touch" && drawing.tool === "brush" ? event.target : null;
  const pixels = canvas ? drawing.size * engine.scaleAt(canvas, event) : 0;
  Object.assign(byId("ring").style, { width: `${pixels}px`, height: `${pixels}px`, left: `${event.clientX}px`, top: `${event.clientY}px` });
  byId("ring").hidden = pixels < 4;
}

function undo() {
  drawing.undo();
  engine.drawn();
  redraw();
  showDrawing();
}

function save() {
  sent = drawing.labels.slice();
  tellApp({ correction: "save", edit: drawing.edit() });
  showDrawing();
}

function answered({ data, origin, source }) {
  if (source !== window.parent || origin !== location.origin) return;
  if (data.correction === "begin" && drawing === null) beginDrawing();
  if (data.correction === "figures") {
    page.table = data.table;
    byId("figures").replaceChildren();
    figures();
    tell();
  }
  if (data.correction === "saved") drawing.keep(sent, data.mask_sha256);
  if (["saved", "refused"].includes(data.correction)) {
    sent = null;
    showDrawing();
  }
}

function beginDrawing() {
  drawing = new Drawing(voxels);
  engine.beginDrawing?.(voxels.mask);
  byId("correct").hidden = false;
  const setting = (key, values) => values.map(([value, text]) => {
    const button = Object.assign(make("button", text), { type: "button", value });
    button.addEventListener("click", () => { drawing[key] = value; showDrawing(); });
    return button;
  });
  byId("drawing-tools").append(...setting("tool", TOOLS));
  byId("drawing-classes").append(...setting("label", CLASSES));
  for (const [id, key] of [["brush-size", "size"], ["tolerance", "tolerance"], ["reach", "reach"]]) {
    const input = byId(id).querySelector("input");
    input.value = drawing[key];
    input.addEventListener("change", () => { drawing[key] = Math.max(0, Number(input.value)) || drawing[key]; });
  }
  byId("undo").addEventListener("click", undo);
  byId("keep").addEventListener("click", save);
  byId("panels").addEventListener("pointerdown", (event) => {
    if (event.button === 0 && drawing.tool !== "move" && event.target.tagName === "CANVAS") drawing.begin();
  }, true);
  for (const name of ["pointerup", "pointercancel"]) {
    window.addEventListener(name, () => {
      if (!drawing.stroke) return;
      drawing.end();
      showDrawing();
    });
  }
  byId("panels").addEventListener("pointermove", showRing);
  byId("panels").addEventListener("pointerleave", () => { byId("ring").hidden = true; });
  window.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); undo(); }
  });
  showDrawing();
}

// Called once the pictures are there.
function offerDrawing() {
  if (window.parent === window || !page.mask_sha256 || !location.protocol.startsWith("http")) return;
  window.addEventListener("message", answered);
  tellApp({ correction: "ready" });
}
