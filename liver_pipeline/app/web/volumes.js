// What the page holds: figures, and volumes as gzipped NIfTI files of eight bits along right, anterior, superior.
"use strict";
const page = JSON.parse(document.getElementById("page-data").textContent);
const COLOURS = {  // of liver and tumor; blue and orange stay apart for colour-blind readers
  mask: [[255, 150, 0], [255, 40, 40]],
  original: [[190, 140, 255], [255, 80, 220]],
  reference: [[0, 200, 255], [40, 90, 255]],
  contours: [[255, 240, 90], [255, 255, 255]],  // where the probability passes 0.2, and 0.8
};
const TITLES = { scan: "Scan", mask: page.volumes.includes("original") ? "Corrected" : "Mask", original: "Before", reference: "Reference" };
const SHARES = { mask: [0.45, 1], original: [0.45, 1], reference: [0.45, 1], contours: [1, 1] };  // how much of the opacity each label gets

function base64Of(name) {
  return document.getElementById(`volume-${name}`).textContent;
}

// Voxels of one volume, x fastest.
async function readVoxels(name) {
  const packed = Uint8Array.from(atob(base64Of(name)), (c) => c.charCodeAt(0));
  const inflated = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(inflated).arrayBuffer());
  return bytes.subarray(new DataView(bytes.buffer).getFloat32(108, true));
}

function mmOf(voxel) {
  return [0, 1, 2].map((r) => page.affine[r][3] + voxel.reduce((sum, v, c) => sum + page.affine[r][c] * v, 0));
}

// Voxel that holds a place in RAS mm, kept inside the volume.
function voxelOf(mm) {
  const [a, b, c] = page.affine.slice(0, 3);
  const d = mm.map((value, r) => value - page.affine[r][3]);
  const minor = (p, q, i, j) => p[i] * q[j] - p[j] * q[i];
  const inverse = [  // rows of the adjugate
    [minor(b, c, 1, 2), -minor(a, c, 1, 2), minor(a, b, 1, 2)],
    [-minor(b, c, 0, 2), minor(a, c, 0, 2), -minor(a, b, 0, 2)],
    [minor(b, c, 0, 1), -minor(a, c, 0, 1), minor(a, b, 0, 1)],
  ];
  const det = a[0] * inverse[0][0] + a[1] * inverse[1][0] + a[2] * inverse[2][0];
  const at = inverse.map((row) => row.reduce((sum, value, k) => sum + value * d[k], 0) / det);
  return at.map((value, axis) => Math.min(page.shape[axis] - 1, Math.max(0, Math.round(value))));
}

function spacing() {
  return [0, 1, 2].map((axis) => Math.hypot(...[0, 1, 2].map((r) => page.affine[r][axis])));
}

function indexOf([x, y, z]) {
  return x + page.shape[0] * (y + page.shape[1] * z);
}

function voxelOfIndex(index) {
  const [columns, rows] = page.shape;
  return [index % columns, Math.floor(index / columns) % rows, Math.floor(index / (columns * rows))];
}
