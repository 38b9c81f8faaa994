// The app's page: send scans, watch them, look at one, take the next. All it knows comes from /api.
"use strict";
const byId = (id) => document.getElementById(id);
const COLUMNS = [
  ["name", "case"], ["state", "state"], ["liver_ml", "liver ml"], ["lesions", "lesions"], ["largest_mm", "largest mm"],
  ["burden", "burden %"], ["quality", "quality"], ["flags", "flags"], ["edited", "corrected"], ["verdict", "verdict"],
];
const SCANS = /\.(nii|nii\.gz|nrrd|mha|mgz|mgh|zip)$/i;
const PAIRS = /\.(mhd|raw|zraw|raw\.gz|nhdr|hdr|img|hdr\.gz|img\.gz)$/i;
const RESULTS = {
  "everything.zip": "All as zip", "mask.nii.gz": "Mask", "page.html": "Page", "table.json": "Table", "scores.json": "Scores", "record.json": "Provenance",
  "seg.dcm": "DICOM segmentation", "sr.dcm": "DICOM report", "captures.zip": "DICOM pictures (zip)",
  "edited.nii.gz": "Corrected mask", "edited.json": "Provenance of the correction",
};
let cases = [];
let tag = ""; // of that list
let sort = { key: "created", down: true };
let timer = null;
let reference = null;

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The app does not answer: was it ended? Nothing that was finished is lost.");
  }
  if (answer.ok || answer.status === 304) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.code ? `${told.code}: ${told.detail}` : `The app answered ${answer.status}`);
}

async function api(path, options = {}) {
  const answer = await ask(path, options);
  return answer.status === 204 ? null : answer.json();
}

function say(text) {
  byId("message").textContent = text;
  byId("message").hidden = !text;
}

const guarded = (work) => async (...args) => {
  try {
    say("");
    await work(...args);
  } catch (error) {
    say(error.message);
  }
};

// --- sending

// Files of one scan together: each volume alone, files that name each other, and all that is left is one DICOM series.
function groupsOf(files) {
  const groups = new Map();
  for (const { file, path } of files) {
    const folder = path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : "";
    const key = SCANS.test(path) ? path : PAIRS.test(path) ? path.replace(PAIRS, "") : `${folder}/`;
    groups.set(key, [...(groups.get(key) ?? []), { file, path }]);
  }
  return [...groups.entries()].map(([key, members]) => ({ name: key.replace(/\/$/, "").split("/").pop() || "DICOM series", members }));
}

const titleOf = (name) => name.replace(/\.(nii\.gz|nii|zip|nrrd|mha|mgz|mgh)$/i, "");
const sending = new Set();  // cases whose files are on their way

// Make a case, send what belongs to it, then the reference, and start it; what goes wrong leaves nothing of it.
async function withCase(values, send) {
  const { id } = await api(`api/cases?${new URLSearchParams({ run: byId("run").value, ...values })}`, { method: "POST" });
  sending.add(id);
  try {
    await send(id);
    if (reference) await api(`api/cases/${id}/reference/${encodeURIComponent(reference.name)}`, { method: "PUT", body: reference });
    await api(`api/cases/${id}/start`, { method: "POST" });
  } catch (error) {
    await api(`api/cases/${id}`, { method: "DELETE" }).catch(() => null);
    throw error;
  } finally {
    sending.delete(id);
  }
  takeReference(null);
}

async function sendAll(files) {
  const bytes = files.reduce((sum, { file }) => sum + file.size, 0);
  const bar = byId("sending");
  let sent = 0;
  byId("sending-line").hidden = false;
  try {
    for (const { name, members } of groupsOf(files)) {
      await withCase({ name: titleOf(name) }, async (id) => {
        for (const { file } of members) {
          await api(`api/cases/${id}/scan/${encodeURIComponent(file.name)}`, { method: "PUT", body: file });
          bar.value = (sent += file.size) / (bytes || 1);
        }
      });
    }
  } finally {
    byId("sending-line").hidden = true;
    bar.value = 0;
    await refresh();
  }
}

function takeReference(file) {
  reference = file;
  byId("reference-name").textContent = file ? file.name : "";
  byId("no-reference").hidden = !file;
  byId("reference").value = "";
}

// All files of what was dropped, folders with all that is below them.
async function dropped({ items, files: plain }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return [...plain].map((file) => ({ file, path: file.name }));
  const files = [];
  const walk = async (entry, path) => {
    if (entry.name.startsWith(".")) return;
    if (entry.isFile) files.push({ file: await new Promise((done, fail) => entry.file(done, fail)), path: path + entry.name });
    else {
      const reader = entry.createReader();
      for (let part = [null]; part.length;) {
        part = await new Promise((done, fail) => reader.readEntries(done, fail));
        for (const child of part) await walk(child, `${path}${entry.name}/`);
      }
    }
  };
  for (const entry of entries) await walk(entry, "");
  return files;
}

const listed = (input) => [...input.files].filter((file) => !file.name.startsWith(".")).map((file) => ({ file, path: file.webkitRelativePath || file.name }));

// --- the table

const shown = {
  liver_ml: (value) => value?.toFixed(0), largest_mm: (value) => value?.toFixed(1), burden: (value) => value === undefined || value === null ? null : (100 * value).toFixed(1),
  flags: (value) => value?.join(" "), edited: (value) => (value ? "yes" : "–"),
};

function stateOf(row) {
  if (row.state === "failed") return `failed: ${row.code}`;
  if (row.state === "uploading") return "being sent";
  return row.state === "running" ? `${row.stage}, ${row.percent} %` : row.state;
}

function table() {
  const value = (row) => (sort.key === "state" ? stateOf(row) : row[sort.key]) ?? "";
  const rows = [...cases].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
    return sort.down ? -order : order;
  });
  byId("cases").tBodies[0].replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr");
    line.dataset.id = row.id;
    for (const [key] of COLUMNS) {
      const cell = line.insertCell();
      cell.textContent = key === "state" ? stateOf(row) : (shown[key]?.(row[key]) ?? row[key] ?? "–");
      if (key === "state" && row.state === "failed") cell.className = "bad";
      if (key === "flags" || (key === "quality" && row.quality === "look at it")) cell.className = "flag";
      if (key === "name") {
        const button = document.createElement("button");
        button.textContent = row.name;
        cell.replaceChildren(button);
      }
    }
    line.addEventListener("click", () => { location.hash = row.id; });
    return line;
  }));
  byId("none").hidden = cases.length > 0;
  byId("collect").hidden = !cases.some((row) => row.state === "done");
}

function heads() {
  for (const [key, text] of COLUMNS) {
    const head = document.createElement("th");
    const button = document.createElement("button");
    button.textContent = text;
    button.addEventListener("click", () => {
      sort = { key, down: sort.key === key ? !sort.down : false };
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      table();
    });
    head.append(button);
    byId("cases").tHead.rows[0].append(head);
  }
}

// --- one case

const current = () => cases.find((row) => row.id === location.hash.slice(1));

function show() {
  const row = current();
  if (keepsDrawing(row)) return;
  byId("list").hidden = Boolean(row);
  byId("case").hidden = !row;
  if (!row) {
    byId("view").removeAttribute("src");
    delete byId("view").dataset.id;
    return table();
  }
  byId("name").textContent = row.name;
  const busy = ["waiting", "running"].includes(row.state);
  const done = row.state === "done";
  byId("state").textContent = toldOf(row);
  byId("state").className = row.state === "failed" ? "bad" : "soft";
  byId("state").hidden = done;
  byId("progress").hidden = !busy;
  byId("progress").value = row.percent ?? 0;
  byId("cancel").hidden = !busy;
  byId("again").hidden = !["failed", "cancelled"].includes(row.state);
  byId("view").hidden = byId("result").hidden = !done;
  byId("next").disabled = cases.length < 2;
  if (done && byId("view").dataset.id !== row.id) {
    byId("view").dataset.id = row.id;
    byId("view").src = `api/cases/${row.id}/page.html`;
    byId("verdict").value = row.verdict;
    byId("note").value = row.note;
    byId("downloads").replaceChildren(...Object.entries(RESULTS).map(([file, text]) => {
      const link = document.createElement("a");
      Object.assign(link, { href: `api/cases/${row.id}/${file}`, textContent: text, download: `${row.name}-${file}` });
      return link;
    }));
  }
  if (done) showCorrection(row);
  for (const link of byId("downloads").children) {
    const file = link.href.split("/").pop();
    link.hidden = file !== "everything.zip" && !row.results?.includes(file);
  }
  byId("no-dicom").hidden = !row.no_dicom;
  if (row.no_dicom) byId("no-dicom").textContent = `No DICOM results could be made (${row.no_dicom.code}): ${row.no_dicom.detail}. The mask is not concerned.`;
  if (done) byId("scores").textContent = scoresOf(row.scores);
}

function toldOf(row) {
  if (row.state === "failed") return `${row.code}: ${row.detail}`;
  if (row.state === "waiting") return `waiting: ${row.stage}`;
  if (row.state === "uploading") return "Not all of its files have come. If no other page is sending them, delete the case and send it again.";
  if (row.state === "cancelled") return "Cancelled; nothing was kept but the scan.";
  return stateOf(row);
}

function scoresOf(scores) {
  if (!scores) return "";
  if (scores.error) return scores.error;
  const told = (value, digits) => (typeof value === "number" ? value.toFixed(digits) : "–");
  return ["liver", "tumor"].map((region) => `${region}: Dice ${told(scores[`${region}_dice`], 3)}, IoU ${told(scores[`${region}_iou`], 3)}, `
    + `mean distance ${told(scores[`${region}_assd_area`], 1)} mm, HD95 ${told(scores[`${region}_hd95_pooled`], 1)} mm`).join("   ·   ");
}

// --- keeping up

async function refresh() {
  clearTimeout(timer);
  try {
    const answer = await ask("api/cases", { headers: { "If-None-Match": tag } });
    const changed = answer.status !== 304;
    if (changed) [cases, tag] = [await answer.json(), answer.headers.get("ETag")];
    if (changed || current()) show();
  } finally {
    const busy = cases.some((row) => ["waiting", "running"].includes(row.state) || row.stage === "measuring");
    timer = setTimeout(guardedRefresh, busy ? 1000 : 6000);
  }
}
const guardedRefresh = () => refresh().catch((error) => say(error.message));

const post = (what) => guarded(async () => {
  await api(`api/cases/${current().id}/${what}`, { method: "POST" });
  await refresh();
});

function listen() {
  const drop = byId("drop");
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", guarded(async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    await sendAll(await dropped(event.dataTransfer));
  }));
  for (const id of ["files", "folder"]) {
    byId(id).addEventListener("change", guarded(async () => {
      const files = listed(byId(id));
      byId(id).value = "";
      await sendAll(files);
    }));
  }
  byId("no-reference").addEventListener("click", () => takeReference(null));
  byId("reference").addEventListener("change", () => takeReference(byId("reference").files[0] ?? null));
  window.addEventListener("hashchange", () => {
    if (!mayLeave()) return;
    say("");
    show();
  });
  byId("back").addEventListener("click", () => { location.hash = ""; });
  byId("next").addEventListener("click", () => {
    location.hash = cases[(cases.indexOf(current()) + 1) % cases.length].id;
  });
  byId("cancel").addEventListener("click", post("cancel"));
  byId("again").addEventListener("click", post("start"));
  byId("delete").addEventListener("click", guarded(async () => {
    if (!confirm(`Delete ${current().name}, its scan and its mask?`)) return;
    await api(`api/cases/${current().id}`, { method: "DELETE" });
    forgetDrawing();
    location.hash = "";
    await refresh();
  }));
  byId("save").addEventListener("click", guarded(async () => {
    const body = JSON.stringify({ verdict: byId("verdict").value, note: byId("note").value });
    await api(`api/cases/${current().id}/verdict`, { method: "PUT", body, headers: { "Content-Type": "application/json" } });
    await refresh();
  }));
}

// A page that is closed while it sends takes its cases along.
function listenToLeaving() {
  window.addEventListener("beforeunload", (event) => { if (sending.size) event.preventDefault(); });
  window.addEventListener("pagehide", () => {
    for (const id of sending) fetch(`api/cases/${id}`, { method: "DELETE", keepalive: true });
  });
}

async function start() {
  heads();
  listen();
  listenToLeaving();
  listenToDrawing();
  for (const run of await api("api/runs")) byId("run").append(new Option(run, run));
  await offerArchive();
  await refresh();
}
start().catch((error) => say(error.message));
