// Panels of NiiVue, which need WebGL 2.
"use strict";

const SOFTWARE_VOXELS = 4e6;  // with more of them an emulated graphics card takes minutes

// Why NiiVue cannot be used here, or nothing.
function whyNoGpu() {
  if (typeof niivue === "undefined") return page.without_niivue;
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) return "This browser has no WebGL (a remote desktop, or an old graphics card): slices are drawn instead, and no 3D";
  const most = gl.getParameter(gl.MAX_3D_TEXTURE_SIZE);
  const names = gl.getExtension("WEBGL_debug_renderer_info");
  const renderer = names ? gl.getParameter(names.UNMASKED_RENDERER_WEBGL) : "";
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  if (/swiftshader|llvmpipe|basic render/i.test(renderer) && page.shape.reduce((a, b) => a * b) > SOFTWARE_VOXELS) {
    return "This browser emulates its graphics card, too slowly for this scan: slices are drawn instead, and no 3D";
  }
  return Math.max(...page.shape) > most ? `This graphics card takes ${most} voxels a side, too few for this scan: slices are drawn instead` : "";
}

class Gpu {
  constructor(onMove, onPoint, onLost) {
    this.onMove = onMove;
    this.onPoint = onPoint;
    this.onLost = onLost;
    this.panels = [];
    this.labels = null;  // of the mask, once it can be drawn on
    this.waiting = 0;  // number of the picture that will show what was drawn
  }

  // NiiVue's drawing takes the place of the mask's volume: it is shown from the labels themselves.
  beginDrawing(labels) {
    this.labels = labels;
    for (const { nv, roles } of this.panels) {
      if (!roles.includes("mask")) continue;
      nv.createEmptyDrawing();
      nv.drawBitmap = labels;
      nv.refreshDrawing(false);
    }
    this.draw(state);
  }

  // Labels have changed.
  drawn() {
    cancelAnimationFrame(this.waiting);
    this.waiting = requestAnimationFrame(() => {
      for (const { nv, shown } of this.#visible()) if (shown.includes("mask")) nv.refreshDrawing(true);
    });
  }

  // The first panel holds all volumes, each other one the scan and its own label map: one overlay, or side by side.
  async layOut(panels, state, holder) {
    if (this.panels.length === 0) {
      holder.replaceChildren();
      const all = page.volumes.filter((name) => name !== "scan");
      const several = [all, ...sideBySide()];
      for (const roles of several) this.panels.push(await this.#open(roles, holder));
      for (const one of this.panels) {
        one.nv.broadcastTo(this.panels.filter((other) => other !== one).map((other) => other.nv), { "2d": true, "3d": true });
      }
    }
    this.panels.forEach((panel, number) => {
      const wanted = panels[number];
      panel.element.hidden = !wanted;
      if (wanted) panel.element.querySelector("h2").replaceWith(wanted.element.querySelector("h2"));
      panel.shown = wanted ? wanted.roles : [];
    });
    const types = niivue.SLICE_TYPE;
    const type = { axial: types.AXIAL, coronal: types.CORONAL, sagittal: types.SAGITTAL, solid: types.RENDER, all: types.MULTIPLANAR };
    for (const panel of this.#visible()) {
      const letters = PLANES[state.plane]?.letters ?? "";  // NiiVue's own are cut at the edges of a single slice
      panel.letters.replaceChildren(...[...letters].map((letter) => make("b", letter)));
      panel.nv.opts.isOrientationTextVisible = state.plane === "all";
      panel.nv.setSliceType(type[state.plane]);
      panel.nv.canvas.setAttribute("aria-label", { all: "slices in three planes", solid: "3D" }[state.plane] ?? `${state.plane} slice`);
    }
    this.draw(state);
  }

  async #open(roles, holder) {
    const element = document.createElement("section");
    element.className = "panel";
    const [title, frame, canvas, letters] = ["h2", "div", "canvas", "div"].map((tag) => document.createElement(tag));
    frame.className = "gpu";
    letters.className = "letters";
    frame.append(canvas, letters);
    element.append(title, frame);
    holder.append(element);
    const nv = new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, backColor: [0, 0, 0, 1], show3Dcrosshair: true,
      crosshairColor: [0.47, 0.86, 0.47, 0.7], crosshairWidth: 0.3, crosshairWidthUnit: "percent", crosshairGap: 8, multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
      showAllOrientationMarkers: true, tileMargin: 8, fontColor: [1, 1, 1, 1], logLevel: "error", loadingText: "",
    });
    await nv.attachToCanvas(canvas);
    canvas.addEventListener("webglcontextlost", (event) => { event.preventDefault(); this.onLost(); });
    for (const name of ["scan", ...roles]) {
      const volume = await niivue.NVImage.loadFromBase64({ base64: base64Of(name).trim(), name: `${name}.nii.gz`, colormap: "gray" });
      nv.addVolume(volume);
    }
    const panel = { element, nv, roles, letters, shown: roles };
    nv.onLocationChange = ({ mm }) => this.onMove(voxelOf([...mm].slice(0, 3)), true);
    leafByKeys(canvas, () => (state.plane in PLANES ? state.plane : "axial"), this.onMove);
    for (const name of ["pointerdown", "pointermove"]) canvas.addEventListener(name, (event) => this.#pointed(panel, event));
    return panel;
  }

  // Pixels of the screen that a mm takes where the pointer is; 0 where there is no slice.
  scaleAt(canvas, event) {
    const { nv } = this.panels.find(({ element }) => element.contains(canvas));
    const { dpr } = nv.uiData;
    const tile = nv.screenSlices[nv.tileIndex(event.offsetX * dpr, event.offsetY * dpr)];
    return tile ? Math.abs(tile.leftTopWidthHeight[2] / tile.fovMM[0]) / dpr : 0;  // it runs from right to left
  }

  // A press or a drag, whether or not NiiVue's crosshair was there already.
  #pointed({ nv, shown }, event) {
    if (!(event.buttons & 1)) return;
    const at = [event.offsetX * nv.uiData.dpr, event.offsetY * nv.uiData.dpr];
    const plane = Object.values(PLANES)[nv.screenSlices[nv.tileIndex(...at)]?.axCorSag];
    const place = nv.canvasPos2frac(at);
    if (plane && place[0] >= 0) this.onPoint(voxelOf([...nv.frac2mm(place)].slice(0, 3)), plane, shown, true);
  }

  #colours(name, shares) {
    const [R, G, B] = [0, 1, 2].map((c) => [0, ...COLOURS[name].map((colour) => colour[c])]);
    return { R, G, B, A: [0, ...shares.map((share) => 255 * share)], I: [0, 1, 2], labels: ["", "liver", "tumor"] };
  }

  #visible() {
    return this.panels.filter((panel) => !panel.element.hidden);
  }

  // moved: the user did it in a panel, and NiiVue has told the others
  draw(state, moved = false) {
    if (moved) return;
    for (const panel of this.#visible()) {
      this.#dress(panel, state);
      panel.nv.scene.crosshairPos = panel.nv.mm2frac(mmOf(state.at));
      panel.nv.drawScene();
    }
  }

  // Window, opacity and colours; the textures are made again only if one of them changed.
  #dress(panel, { level, width, opacity, plane }) {
    const { nv, roles, shown } = panel;
    const solid = plane === "solid";
    const dress = JSON.stringify([level, width, opacity, solid, shown, this.labels !== null]);
    if (panel.dress === dress) return;
    panel.dress = dress;
    Object.assign(nv.volumes[0], { cal_min: level - width / 2, cal_max: level + width / 2 });
    nv.volumes[0].opacity = solid && shown.length ? 0 : 1;  // skin and bones would hide the liver, and it its tumors
    roles.forEach((name, number) => {
      const colours = this.#colours(name, solid ? [0.12, 1] : SHARES[name]);
      const seen = shown.includes(name) && !(solid && name === "contours") ? opacity[name] : 0;
      const asDrawing = name === "mask" && this.labels !== null;
      nv.volumes[number + 1].setColormapLabel(colours);
      nv.volumes[number + 1].opacity = asDrawing ? 0 : seen;
      if (!asDrawing) return;
      nv.drawOpacity = seen;
      nv.setDrawColormap(colours);
    });
    nv.updateGLVolume();
  }
}
