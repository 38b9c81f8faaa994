// What is drawn on the mask, in the page's voxels: strokes, undo, and what has changed since it was saved.
"use strict";

// Voxels that share a face with one.
function neighbours(voxel) {
  const found = [];
  for (const axis of [0, 1, 2]) {
    for (const step of [-1, 1]) {
      const at = [...voxel];
      at[axis] += step;
      if (at[axis] >= 0 && at[axis] < page.shape[axis]) found.push(at);
    }
  }
  return found;
}

class Drawing {
  constructor(voxels) {
    this.scan = voxels.scan;
    this.labels = voxels.mask;
    this.saved = voxels.mask.slice();
    this.unsaved = 0;  // voxels that differ from what was saved
    this.strokes = [];
    this.stroke = null;
    Object.assign(this, { tool: "move", label: 2, size: 6, tolerance: 20, reach: 30 });
  }

  begin() {
    this.stroke = { voxels: [], before: [], last: null };
  }

  end() {
    if (this.stroke?.voxels.length) this.strokes.push(this.stroke);
    this.stroke = null;
  }

  // Draw at a voxel of a plane; between it and the last one of the stroke as well.
  at(voxel, plane) {
    if (this.tool === "grow") {
      if (!this.stroke.last) this.#grow(voxel);
      this.stroke.last = { voxel, plane };
      return;
    }
    const { last } = this.stroke;
    const joined = last && last.plane === plane && last.voxel[plane.through] === voxel[plane.through];
    const from = joined ? last.voxel : voxel;
    const steps = Math.max(1, ...voxel.map((v, axis) => Math.abs(v - from[axis])));
    for (let step = joined ? 1 : steps; step <= steps; step++) {
      this.#disc(voxel.map((v, axis) => Math.round(from[axis] + ((v - from[axis]) * step) / steps)), plane);
    }
    this.stroke.last = { voxel, plane };
  }

  undo() {
    const { voxels, before } = this.strokes.pop() ?? { voxels: [], before: [] };
    voxels.forEach((voxel, k) => this.#put(voxel, before[k]));
  }

  #put(voxel, label) {
    this.unsaved += (label !== this.saved[voxel]) - (this.labels[voxel] !== this.saved[voxel]);
    this.labels[voxel] = label;
  }

  #paint(voxel) {
    if (this.labels[voxel] === this.label) return;
    this.stroke.voxels.push(voxel);
    this.stroke.before.push(this.labels[voxel]);
    this.#put(voxel, this.label);
  }

  // Voxels of one slice whose centres lie within half the brush's size in mm; at least the one in the middle.
  #disc(centre, { across, down }) {
    const [edge, other] = [spacing()[across], spacing()[down]];
    const [far, deep] = [Math.floor(this.size / 2 / edge), Math.floor(this.size / 2 / other)];
    for (let j = -deep; j <= deep; j++) {
      for (let i = -far; i <= far; i++) {
        if (Math.hypot(i * edge, j * other) > this.size / 2) continue;
        const at = [...centre];
        at[across] += i;
        at[down] += j;
        if (at.every((v, axis) => v >= 0 && v < page.shape[axis])) this.#paint(indexOf(at));
      }
    }
  }

  // From a voxel on: an object of a higher label becomes the chosen one; else what is as bright, and joined to it.
  #grow(seed) {
    const { labels, label } = this;
    const first = labels[indexOf(seed)];
    if (first > label) return this.#flood(seed, (at) => labels[indexOf(at)] === first);
    if (label === 0) return undefined;
    const middle = this.#brightness(seed);
    const within = (this.tolerance / (page.high - page.low)) * 255;
    const edges = spacing();
    return this.#flood(seed, (at) => {
      const there = labels[indexOf(at)];
      if (label === 1 ? there === 2 : first > 0 && there === 0) return false;  // tumors stay; one of the liver stays in it
      if (Math.hypot(...at.map((v, axis) => (v - seed[axis]) * edges[axis])) > this.reach) return false;
      return Math.abs(this.#brightness(at) - middle) <= within;
    });
  }

  // Mean level of a voxel and its six neighbours: noise is no border, and a border stays where it is.
  #brightness(voxel) {
    const around = [voxel, ...neighbours(voxel)].map((at) => this.scan[indexOf(at)]);
    return around.reduce((sum, level) => sum + level, 0) / around.length;
  }

  // All voxels joined to the first by faces for which the test holds; they are painted once all are known.
  #flood(first, belongs) {
    const seen = new Uint8Array(this.labels.length);
    const found = [indexOf(first)];
    seen[found[0]] = 1;
    for (let k = 0; k < found.length; k++) {
      for (const at of neighbours(voxelOfIndex(found[k]))) {
        const index = indexOf(at);
        if (seen[index]) continue;
        seen[index] = 1;
        if (belongs(at)) found.push(index);
      }
    }
    for (const index of found) this.#paint(index);
  }

  // What the app takes: runs of voxels that differ from what was saved.
  edit() {
    const runs = [];
    for (let k = 0; k < this.labels.length; k++) {
      const label = this.labels[k];
      if (label === this.saved[k]) continue;
      const last = runs.at(-1);
      if (last && last[0] + last[1] === k && last[2] === label) last[1]++;
      else runs.push([k, 1, label]);
    }
    return { made_from: page.mask_sha256, ...page.grid, runs };
  }

  // What was sent is saved; what was drawn since then is not.
  keep(sent, sha256) {
    page.mask_sha256 = sha256;
    this.saved = sent;
    this.unsaved = this.labels.reduce((sum, label, k) => sum + (label !== sent[k]), 0);
  }
}
