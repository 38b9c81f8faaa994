// The page: one state, drawn by NiiVue or on canvases.
"use strict";
const labelled = page.volumes.filter((name) => name in TITLES && name !== "scan");
const WINDOWS = page.in_hu
  ? { "Liver": [80, 160], "Abdomen": [40, 400], "Liver, narrow": [85, 80], "Vessels": [150, 400], "All": [100, 600] }
  : { "All": [(page.low + page.high) / 2, page.high - page.low], "Bright": [page.low + 0.75 * (page.high - page.low), (page.high - page.low) / 2], "Dark": [page.low + 0.25 * (page.high - page.low), (page.high - page.low) / 2] };
const state = { layout: labelled.length ? "panels" : "overlay", plane: labelled.length ? "axial" : "all", at: page.shape.map((n) => n >> 1), opacity: { mask: 0.5, original: 0.5, reference: 0.5, contours: 1 } };
const byId = (id) => document.getElementById(id);
let engine = null;
let voxels = {};

function make(tag, text = "", className = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className });
}

function note(text) {
  if (text && ![...byId("notes").children].some((line) => line.textContent === text)) byId("notes").append(make("li", text));
}

// --- pictures

function panelOf(roles) {
  const element = make("section", "", "panel");
  const title = make("h2");
  const names = roles.length === 0 ? ["scan"] : roles.filter((name) => name in TITLES);
  for (const name of names) title.append(make("b", TITLES[name]), ...legendOf(name));
  if (!page.table || roles.length === 0) title.append(make("span", page.in_hu ? "" : "values are no HU"));
  element.append(title);
  return { element, roles };
}

// Which colour of a label map is which.
function legendOf(name) {
  if (name === "scan") return [];
  return ["liver", "tumor"].map((label, k) => {
    const entry = make("span", label, "legend");
    entry.style.setProperty("--colour", `rgb(${COLOURS[name][k]})`);
    return entry;
  });
}

// What is drawn for some label maps: contours belong to the mask.
function rolesOf(names) {
  return names.includes("mask") && page.volumes.includes("contours") ? [...names, "contours"] : names;
}

// Beside each other as in print: scan, reference, mask.
function sideBySide() {
  return [...labelled].reverse().map((name) => rolesOf([name]));
}

async function layOut() {
  const sets = state.layout === "overlay" ? [rolesOf(labelled)] : [[], ...sideBySide()];
  await engine.layOut(sets.map(panelOf), state, byId("panels"));
  pressed("layouts", state.layout);
  pressed("planes", state.plane);
}

function redraw() {
  engine.draw(state);
  tell();
}

function moveTo(at, moved = false) {
  state.at = at;
  engine.draw(state, moved);
  tell();
}

// A press or a drag in a panel: it goes there, and draws there if that is what was chosen.
function pointAt(at, plane, roles, moved = false) {
  if (draws(roles)) {
    drawing.at(at, plane);
    engine.drawn();
    showDrawing();
  }
  moveTo(at, moved);
}

function tell() {
  const at = indexOf(state.at);
  const value = page.low + ((page.high - page.low) * voxels.scan[at]) / 255;
  const place = mmOf(state.at).map((mm, axis) => `${"RAS"[axis]} ${mm.toFixed(1)}`).join("  ");
  const clipped = voxels.scan[at] === 0 ? "≤ " : voxels.scan[at] === 255 ? "≥ " : "";
  const labels = labelled.map((name) => `${TITLES[name].toLowerCase()}: ${["background", "liver", "tumor"][voxels[name][at]]}`);
  byId("readout").textContent = [`${place} mm`, `${clipped}${value.toFixed(0)}${page.in_hu ? " HU" : ""}`, ...labels].join("   ·   ");
  for (const row of document.querySelectorAll("#lesions tbody tr")) row.classList.toggle("at", row.dataset.at === String(state.at));
}

// --- tools

function choice(id, options, key) {
  for (const [value, text] of Object.entries(options)) {
    const button = make("button", text);
    Object.assign(button, { type: "button", value });
    button.addEventListener("click", () => { state[key] = value; layOut(); });
    byId(id).append(button);
  }
}

function pressed(id, value) {
  for (const button of byId(id).children) button.setAttribute("aria-pressed", button.value === value);
}

function setWindow(name) {
  [state.level, state.width] = WINDOWS[name];
  [byId("level").value, byId("width").value] = [Math.round(state.level), Math.round(state.width)];
}

function tools() {
  if (labelled.length) choice("layouts", { panels: "Side by side", overlay: "Overlay" }, "layout");
  choice("planes", { axial: "Axial", coronal: "Coronal", sagittal: "Sagittal", all: "All three", solid: "3D" }, "plane");
  for (const name of Object.keys(WINDOWS)) byId("window").append(make("option", name));
  byId("window").addEventListener("change", () => { setWindow(byId("window").value); redraw(); });
  for (const id of ["level", "width"]) {
    byId(id).addEventListener("change", () => {
      state[id] = Number(byId(id).value) || state[id];
      redraw();
    });
  }
  setWindow(Object.keys(WINDOWS)[0]);
  const lines = byId("contours-shown");
  lines.style.display = page.volumes.includes("contours") ? "" : "none";
  lines.querySelector("input").addEventListener("change", (event) => {
    state.opacity.contours = event.target.checked ? 1 : 0;
    redraw();
  });
  for (const name of ["mask", "original", "reference"]) {
    byId(`${name}-opacity`).hidden = !labelled.includes(name);
    byId(`${name}-opacity`).style.display = labelled.includes(name) ? "" : "none";
    byId(`${name}-opacity`).querySelector("input").addEventListener("input", (event) => {
      state.opacity[name] = Number(event.target.value);
      redraw();
    });
  }
}

// --- figures

const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));

function figures() {
  const side = byId("figures");
  if (!page.table) {
    side.append(make("p", "No mask was given: there is nothing to measure.", "soft"));
    return;
  }
  const { liver, lesions, missed } = page.table;
  side.append(make("h2", "Liver"));
  const span = (name) => {
    const found = liver.intervals[name];
    return found ? ` (${(100 * liver.intervals.level).toFixed(0)} %: ${number(found.low, found.high < 100 ? 1 : 0)}–${number(found.high, found.high < 100 ? 1 : 0)})` : "";
  };
  const rows = [
    ["liver with tumor", `${number(liver.liver_with_tumor_ml)} ml${span("liver_ml")}`], ["tumor", `${number(liver.tumor_ml)} ml${span("tumor_ml")}`],
    ["burden", liver.tumor_burden === null ? "–" : `${(100 * liver.tumor_burden).toFixed(1)} %`], ["lesions", String(liver.lesion_count)],
  ];
  side.append(tableOf([], rows));
  const cut = reasons().some(({ code }) => code === "LIVER_CUT_OFF");  // tells the side, too
  if (liver.truncated && !cut) note("The liver is cut by the edge of the scan: its volumes are lower bounds.");
  side.append(make("h2", lesions.length ? "Lesions: press one to go there" : "Lesions"));
  const heads = ["#", "volume, ml", "longest, mm", page.in_hu ? "mean HU" : "mean"];
  const confident = lesions.some((row) => row.mean_confidence !== null);
  if (confident) heads.push("sure");
  const matched = labelled.includes("reference") && Boolean(missed);  // figures that came later say nothing of the reference
  if (matched) heads.push("match");
  const cells = (row, name) => [
    name, number(row.volume_ml, 2), number(row.diameter_mm), number(row.mean_hu, 0),
    ...(confident ? [row.mean_confidence === null ? "–" : `${Math.round(100 * row.mean_confidence)} %`] : []),
    ...(matched ? [row.match ?? "missed"] : []),
  ];
  const all = [...lesions.map((row) => [row, cells(row, String(row.id))]), ...(missed ?? []).map((row) => [row, cells(row, `R${row.id}`)])];
  const table = tableOf(heads, all.map(([, texts]) => texts));
  table.id = "lesions";
  [...table.tBodies[0].rows].forEach((line, k) => {
    const at = voxelOf(all[k][0].centroid_ras_mm);
    line.dataset.at = String(at);
    const button = make("button", line.cells[0].textContent);
    button.setAttribute("aria-label", `go to lesion ${button.textContent}`);
    line.cells[0].replaceChildren(button);
    line.addEventListener("click", () => moveTo(at));
  });
  const scroll = make("div", "", "lesions");
  if (all.length) scroll.append(table);
  else scroll.append(make("p", "The mask holds no tumor.", "soft"));
  side.append(scroll);
  const calibration = page.table.calibration;
  if (confident && calibration) {
    const how = calibration.reason ? `uncalibrated (${calibration.reason})` : `calibrated, temperature ${number(calibration.temperature, 2)}`;
    side.append(make("p", `How sure the network is: ${how}.`, "soft"));
  }
  if (lesions.some((row) => row.below_resolution)) side.append(make("p", "Lesions of one voxel's thickness may be noise.", "soft"));
  provenance(side);
}

function tableOf(heads, rows) {
  const table = make("table");
  if (heads.length) table.createTHead().insertRow().append(...heads.map((text) => make("th", text)));
  const body = table.createTBody();
  for (const texts of rows) body.insertRow().append(...texts.map((text) => make("td", text)));
  return table;
}

// Why the mask's record says to look at it.
function reasons() {
  return [...(page.record?.quality?.reasons ?? []), ...(page.record?.warnings ?? [])];
}

function provenance(side) {
  const record = page.record;
  if (!record) return;
  for (const { code, detail, message } of reasons()) note(`${code}: ${message ?? detail}`);
  side.append(make("h2", "Where the mask comes from"));
  const facts = [["made", record.started ?? "–"], ["weights", (record.weights ?? "–").slice(0, 12)]];
  if (record.corrections) facts.push(["corrected by hand", record.corrections === 1 ? "once" : `${record.corrections} times`]);
  side.append(tableOf([], facts));
}

// --- start

function startAt() {
  const largest = page.table?.lesions.reduce((best, row) => (!best || row.volume_ml > best.volume_ml ? row : best), null);
  if (largest) return voxelOf(largest.centroid_ras_mm);
  for (const name of labelled) {
    const middle = middleOf(voxels[name]);
    if (middle) return middle;
  }
  return state.at;
}

// Centre of gravity of what is not background.
function middleOf(labels) {
  const sums = [0, 0, 0];
  let count = 0;
  for (let k = 0; k < labels.length; k++) {
    if (!labels[k]) continue;
    count++;
    voxelOfIndex(k).forEach((v, axis) => { sums[axis] += v; });
  }
  return count ? sums.map((sum) => Math.round(sum / count)) : null;
}

async function drawSlices(reason) {
  note(reason);
  engine = new Slices(voxels, moveTo, pointAt);
  for (const button of byId("planes").children) {
    if (button.value === "solid") Object.assign(button, { disabled: true, title: "3D needs WebGL" });
  }
  if (state.plane === "solid") state.plane = "axial";
  await layOut();
  document.body.dataset.ready = "slices";
}

async function start() {
  tools();
  figures();
  if (page.cropped) note("Only the liver and what is around it is shown: the whole scan would not fit into one page.");
  if (Math.max(...page.grid.steps) > 1) note(`Pictures are coarser than the scan (${page.grid.steps.join(" × ")} voxels in one); figures are not.`);
  if (!page.in_hu) note("Values are shown as they are in the file; they are no HU.");
  if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old for the page: it needs Chrome 80, Firefox 113, Safari 16.4 or later");
  for (const name of page.volumes) voxels[name] = await readVoxels(name);
  state.at = startAt();
  const reason = whyNoGpu();
  if (reason) await drawSlices(reason);
  else {
    try {
      engine = new Gpu(moveTo, pointAt, () => drawSlices("The graphics card gave up: slices are drawn instead."));
      await layOut();
      document.body.dataset.ready = "gpu";
    } catch (error) {
      await drawSlices(`NiiVue could not start (${error.message}): slices are drawn instead.`);
    }
  }
  tell();
  window.addEventListener("resize", () => engine.draw(state));
  offerDrawing();
}

start().catch((error) => {
  byId("readout").textContent = error.message;
  byId("readout").className = "bad";
  document.body.dataset.ready = "failed";
});
