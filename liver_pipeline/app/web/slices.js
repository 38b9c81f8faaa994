// Slices on canvases, for browsers without WebGL. The patient's right is on the left, the front of a sagittal slice too.
"use strict";
const PLANES = {  // axes across and down the picture, and through it; both run against the volume's axes
  axial: { across: 0, down: 1, through: 2, letters: "RLAP" },
  coronal: { across: 0, down: 2, through: 1, letters: "RLSI" },
  sagittal: { across: 1, down: 2, through: 0, letters: "APSI" },
};

// Arrows and page keys on a picture leaf through the slices of the plane that it shows.
function leafByKeys(canvas, plane, onMove) {
  canvas.tabIndex = 0;
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 1, PageUp: 5, ArrowDown: -1, PageDown: -5 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = [...state.at];
    const axis = PLANES[plane()].through;
    at[axis] = Math.min(page.shape[axis] - 1, Math.max(0, at[axis] + step));
    onMove(at);
  });
}

class Slices {
  constructor(volumes, onMove, onPoint) {
    this.volumes = volumes;
    this.onMove = onMove;
    this.onPoint = onPoint;
    this.panels = [];
  }

  // Lay out one panel for each list of roles; each has one picture for each plane.
  async layOut(panels, state, holder) {
    holder.replaceChildren();
    const names = state.plane === "all" ? Object.keys(PLANES) : [state.plane];
    this.panels = panels.map((panel) => {
      const grid = document.createElement("div");
      grid.className = "planes";
      const pictures = names.map((name) => this.#picture(name, grid, panel.roles));
      panel.element.append(grid);
      holder.append(panel.element);
      return { ...panel, pictures };
    });
    this.draw(state);
  }

  #picture(name, grid, roles) {
    const plane = PLANES[name];
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    canvas.dataset.plane = name;
    canvas.setAttribute("aria-label", `${name} slice`);
    leafByKeys(canvas, () => name, this.onMove);
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0, max: page.shape[plane.through] - 1 });
    slider.setAttribute("aria-label", `${name} slice number`);
    figure.append(canvas, slider);
    grid.append(figure);
    const picture = { name, canvas, slider, plane, roles };
    const along = (step) => this.#move(plane.through, (at) => at + step);
    const point = (event) => event.buttons && this.#pointed(picture, event);
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); point(event); });
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); along(event.deltaY > 0 ? -1 : 1); }, { passive: false });
    slider.addEventListener("input", () => this.#move(plane.through, () => Number(slider.value)));
    return picture;
  }

  #move(axis, change) {
    const at = [...this.state.at];
    at[axis] = Math.min(page.shape[axis] - 1, Math.max(0, change(at[axis])));
    this.onMove(at);
  }

  #pointed({ plane, canvas, frame, roles }, event) {
    const box = canvas.getBoundingClientRect();
    const ratio = canvas.width / box.width;
    const at = [...this.state.at];
    for (const [axis, place, start, length] of [
      [plane.across, (event.clientX - box.left) * ratio, frame.left, frame.width],
      [plane.down, (event.clientY - box.top) * ratio, frame.top, frame.height],
    ]) {
      const share = 1 - (place - start) / length;
      at[axis] = Math.min(page.shape[axis] - 1, Math.max(0, Math.floor(share * page.shape[axis])));
    }
    this.onPoint(at, plane, roles);
  }

  // Pixels of the screen that a mm takes in a picture.
  scaleAt(canvas) {
    const { plane, frame } = this.panels.flatMap(({ pictures }) => pictures).find((picture) => picture.canvas === canvas);
    return (frame.width / canvas.width) * canvas.clientWidth / (page.shape[plane.across] * spacing()[plane.across]);
  }

  // Labels have changed; the next draw() shows them.
  drawn() {}

  draw(state) {
    this.state = state;
    for (const panel of this.panels) for (const picture of panel.pictures) this.#draw(panel.roles, picture);
  }

  #draw(roles, picture) {
    const { canvas, plane, slider } = picture;
    const edges = spacing();
    const [columns, rows] = [page.shape[plane.across], page.shape[plane.down]];
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
    const [wide, high] = [columns * edges[plane.across], rows * edges[plane.down]];
    const zoom = Math.min(canvas.width / wide, canvas.height / high);
    const [width, height] = [wide * zoom, high * zoom];
    picture.frame = { left: (canvas.width - width) / 2, top: (canvas.height - height) / 2, width, height };
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(this.#pixels(roles, plane, columns, rows), picture.frame.left, picture.frame.top, width, height);
    this.#crosshair(pen, picture, columns, rows, scale);
    slider.value = this.state.at[plane.through];
  }

  // One slice in the scan's own pixels: grey levels in the window, labels over them.
  #pixels(roles, plane, columns, rows) {
    const { at, level, width, opacity } = this.state;
    const image = new ImageData(columns, rows);
    const grey = new Uint8ClampedArray(256);
    for (let k = 0; k < 256; k++) {
      const value = page.low + ((page.high - page.low) * k) / 255;
      grey[k] = ((value - (level - width / 2)) / width) * 255;
    }
    const strides = [1, page.shape[0], page.shape[0] * page.shape[1]];
    const fixed = at[plane.through] * strides[plane.through];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const voxel = fixed + (columns - 1 - column) * strides[plane.across] + (rows - 1 - row) * strides[plane.down];
        const pixel = 4 * (row * columns + column);
        image.data.fill(grey[this.volumes.scan[voxel]], pixel, pixel + 3);
        image.data[pixel + 3] = 255;
        for (const role of roles) {
          const label = this.volumes[role][voxel];
          if (!label) continue;
          const share = opacity[role] * SHARES[role][label - 1];
          for (let c = 0; c < 3; c++) {
            image.data[pixel + c] = (1 - share) * image.data[pixel + c] + share * COLOURS[role][label - 1][c];
          }
        }
      }
    }
    const small = document.createElement("canvas");
    [small.width, small.height] = [columns, rows];
    small.getContext("2d").putImageData(image, 0, 0);
    return small;
  }

  #crosshair(pen, { plane, frame, canvas }, columns, rows, scale) {
    const x = frame.left + ((columns - 0.5 - this.state.at[plane.across]) / columns) * frame.width;
    const y = frame.top + ((rows - 0.5 - this.state.at[plane.down]) / rows) * frame.height;
    pen.strokeStyle = "rgba(120, 220, 120, 0.7)";
    pen.lineWidth = scale;
    const gap = 12 * scale;
    for (const [x0, y0, x1, y1] of [[frame.left, y, x - gap, y], [x + gap, y, frame.left + frame.width, y], [x, frame.top, x, y - gap], [x, y + gap, x, frame.top + frame.height]]) {
      pen.beginPath();
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
      pen.stroke();
    }
    pen.fillStyle = "#fff";
    pen.font = `bold ${15 * scale}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const edge = 11 * scale;
    const [left, right, top, bottom] = plane.letters;
    pen.fillText(left, edge, canvas.height / 2);
    pen.fillText(right, canvas.width - edge, canvas.height / 2);
    pen.fillText(top, canvas.width / 2, edge);
    pen.fillText(bottom, canvas.width / 2, canvas.height - edge);
  }
}
