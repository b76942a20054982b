"use strict";
/* The panels that need nothing: a canvas for each slice. Any browser of 2023 or later draws them. */
function slicePanels(viewer) {
  const { state } = viewer, canvases = [...document.querySelectorAll("#viewer .slice canvas")];

  function index(plane, across, down) {  // voxel under a screen cell
    const v = [0, 0, 0], n = state.one.shape;
    v[plane.cut] = state.at[plane.cut];
    v[plane.across] = n[plane.across] - 1 - across;
    v[plane.down] = n[plane.down] - 1 - down;
    return v[0] + n[0] * (v[1] + n[1] * v[2]);
  }

  function layer(w, h, paint) {
    const sheet = document.createElement("canvas");
    sheet.width = w; sheet.height = h;
    const context = sheet.getContext("2d"), data = context.createImageData(w, h);
    paint(data.data);
    context.putImageData(data, 0, 0);
    return sheet;
  }

  function outline(context, plane, map, w, h, sx, sy, thick) {
    const label = (x, y) => {
      const value = x < 0 || y < 0 || x >= w || y >= h ? 0 : map[index(plane, x, y)];
      return state.hidden.has(value) ? 0 : value;
    };
    const paths = {};
    const edge = (value, x1, y1, x2, y2) => {
      const path = (paths[value] ??= new Path2D());
      path.moveTo(x1 * sx, y1 * sy); path.lineTo(x2 * sx, y2 * sy);
    };
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      const own = label(x, y);
      if (!own) continue;
      if (label(x - 1, y) !== own) edge(own, x, y, x, y + 1);
      if (label(x + 1, y) !== own) edge(own, x + 1, y, x + 1, y + 1);
      if (label(x, y - 1) !== own) edge(own, x, y, x + 1, y);
      if (label(x, y + 1) !== own) edge(own, x, y + 1, x + 1, y + 1);
    }
    context.lineWidth = thick;
    for (const [value, path] of Object.entries(paths)) {
      context.strokeStyle = viewer.colour(value);
      context.stroke(path);
    }
  }

  function panel(canvas) {
    const plane = viewer.PLANES[canvas.dataset.plane], side = canvas.dataset.side, one = state.one;
    const w = one.shape[plane.across], h = one.shape[plane.down];
    const wide = w * one.spacing[plane.across], tall = h * one.spacing[plane.down];
    const dots = window.devicePixelRatio || 1;
    const scale = Math.min(canvas.parentElement.clientWidth / wide, viewer.tallest() / tall);
    canvas.style.width = `${wide * scale}px`; canvas.style.height = `${tall * scale}px`;
    canvas.width = Math.round(wide * scale * dots); canvas.height = Math.round(tall * scale * dots);
    const context = canvas.getContext("2d"), sx = canvas.width / w, sy = canvas.height / h;
    const grey = layer(w, h, (dot) => {
      for (let y = 0, i = 0; y < h; y++) for (let x = 0; x < w; x++, i += 4) {
        dot[i] = dot[i + 1] = dot[i + 2] = state.image[index(plane, x, y)]; dot[i + 3] = 255;
      }
    });
    context.imageSmoothingQuality = "high";
    context.drawImage(grey, 0, 0, canvas.width, canvas.height);
    const map = viewer.map(side), { opacity, lines, over } = viewer.drawn();
    if (map && lines) {
      context.globalAlpha = opacity;
      outline(context, plane, map, w, h, sx, sy, 1.6 * dots);
    } else if (map) {
      const filled = layer(w, h, (dot) => {
        for (let y = 0, i = 0; y < h; y++) for (let x = 0; x < w; x++, i += 4) {
          const value = map[index(plane, x, y)];
          if (!value || state.hidden.has(value)) continue;
          const colour = parseInt(viewer.colour(value).slice(1), 16);
          dot[i] = colour >> 16; dot[i + 1] = (colour >> 8) & 255; dot[i + 2] = colour & 255; dot[i + 3] = 255;
        }
      });
      context.imageSmoothingEnabled = false;
      context.globalAlpha = opacity;
      context.drawImage(filled, 0, 0, canvas.width, canvas.height);
    }
    context.globalAlpha = 1;
    if (side !== "truth" && over) outline(context, plane, viewer.map("truth"), w, h, sx, sy, 1.3 * dots);
    const cx = (w - state.at[plane.across] - 0.5) * sx, cy = (h - state.at[plane.down] - 0.5) * sy, gap = 9 * dots;
    context.strokeStyle = "rgba(255,255,255,.75)"; context.lineWidth = dots;
    context.beginPath();
    for (const [x1, y1, x2, y2] of [[0, cy, cx - gap, cy], [cx + gap, cy, canvas.width, cy],
                                    [cx, 0, cx, cy - gap], [cx, cy + gap, cx, canvas.height]]) {
      context.moveTo(x1, y1); context.lineTo(x2, y2);
    }
    context.stroke();
    context.font = `600 ${11 * dots}px system-ui, sans-serif`;
    context.fillStyle = "rgba(255,255,255,.9)"; context.textBaseline = "middle";
    const [left, right, top, bottom] = plane.letters, pad = 9 * dots;
    context.textAlign = "center";
    context.shadowColor = "#000"; context.shadowBlur = 4 * dots;
    for (const [letter, x, y] of [[left, pad, canvas.height / 2], [right, canvas.width - pad, canvas.height / 2],
                                  [top, canvas.width / 2, pad], [bottom, canvas.width / 2, canvas.height - pad]]) {
      context.strokeStyle = "rgba(0,0,0,.8)"; context.lineWidth = 3 * dots;
      context.strokeText(letter, x, y); context.fillText(letter, x, y);
    }
  }

  function point(event) {
    const canvas = event.currentTarget, plane = viewer.PLANES[canvas.dataset.plane];
    const box = canvas.getBoundingClientRect(), n = state.one.shape;
    viewer.move(plane.across, n[plane.across] - 0.5 - ((event.clientX - box.left) / box.width) * n[plane.across]);
    viewer.move(plane.down, n[plane.down] - 0.5 - ((event.clientY - box.top) / box.height) * n[plane.down]);
    viewer.draw();
  }

  for (const canvas of canvases) {
    const plane = viewer.PLANES[canvas.dataset.plane];
    canvas.addEventListener("pointerdown", (event) => {
      if (!state.one) return;
      canvas.setPointerCapture(event.pointerId); point(event);
    });
    canvas.addEventListener("pointermove", (event) => { if (state.one && event.buttons & 1) point(event); });
    canvas.addEventListener("wheel", (event) => {
      if (!state.one || event.ctrlKey) return;
      event.preventDefault(); viewer.move(plane.cut, state.at[plane.cut] + Math.sign(-event.deltaY)); viewer.draw();
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => { if (state.one && viewer.key(event, plane)) viewer.draw(); });
  }

  return {
    async open() {},
    draw(plane) {
      for (const canvas of canvases) {
        canvas.parentElement.hidden = plane !== "all" && canvas.dataset.plane !== plane;
        if (!canvas.parentElement.hidden) panel(canvas);
      }
    },
    hide() { for (const canvas of canvases) canvas.parentElement.hidden = true; },
  };
}
