"use strict";
/* A small slice viewer: annotation and two methods side by side, one cross-hair for all of them.
   Axes are right, front, up; the patient's right is at the left of the screen, as radiologists look. */
(() => {
const $ = (id) => document.getElementById(id);
if (!$("viewer")) return;
const settings = JSON.parse($("viewer-settings").textContent);
const PLANES = {                       // axes across and down the screen, the one that is cut, letters at the edges
  axial: { across: 0, down: 1, cut: 2, letters: "RLAP" },
  coronal: { across: 0, down: 2, cut: 1, letters: "RLSI" },
  sagittal: { across: 1, down: 2, cut: 0, letters: "APSI" },
};
const state = { k: 0, at: [0, 0, 0], one: null, maps: {}, image: null, hidden: new Set(), turn: 0 };

async function open(text) {
  const raw = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function say(text) { $("viewer-say").textContent = text; }

async function choose(k) {
  const turn = ++state.turn;
  const one = JSON.parse($(`case-${k}`).textContent);
  const image = await open(one.image), truth = await open(one.truth);
  if (turn !== state.turn) return;     // another case was chosen meanwhile
  Object.assign(state, { k, one, image, maps: { "": truth }, at: start(truth, one.shape) });
  $("viewer-case").value = String(k);
  for (const axis of [0, 1, 2]) $(`viewer-${"xyz"[axis]}`).max = String(one.shape[axis] - 1);
  await methods(turn);
}

async function methods(turn = state.turn) {
  for (const side of ["a", "b"]) {
    const name = $(`viewer-${side}`).value;
    if (!(name in state.maps) && name in state.one.found) {
      const map = await open(state.one.found[name]);
      if (turn !== state.turn) return;
      state.maps[name] = map;
    }
  }
  draw();
}

function start(truth, [nx, ny, nz]) {  // where most of the labels are seen
  let best = nz >> 1, most = 0, sums = [nx >> 1, ny >> 1];
  for (let z = 0; z < nz; z++) {
    let count = 0, sx = 0, sy = 0;
    for (let i = z * nx * ny, y = 0; y < ny; y++) for (let x = 0; x < nx; x++, i++)
      if (truth[i]) { count++; sx += x; sy += y; }
    if (count > most) { most = count; best = z; sums = [Math.round(sx / count), Math.round(sy / count)]; }
  }
  return [...sums, best];
}

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
    context.strokeStyle = settings.colours[(value - 1) % settings.colours.length];
    context.stroke(path);
  }
}

function panel(canvas) {
  const plane = PLANES[canvas.dataset.plane], side = canvas.dataset.side, one = state.one;
  const w = one.shape[plane.across], h = one.shape[plane.down];
  const wide = w * one.spacing[plane.across], tall = h * one.spacing[plane.down];
  const dots = window.devicePixelRatio || 1;
  const room = canvas.parentElement.clientWidth, most = Math.max(220, 0.62 * window.innerHeight);
  const scale = Math.min(room / wide, most / tall);
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
  const name = side === "truth" ? "" : $(`viewer-${side}`).value, map = state.maps[name];
  const opacity = Number($("viewer-opacity").value) / 100;
  if (map && $("viewer-lines").checked) {
    context.globalAlpha = opacity;
    outline(context, plane, map, w, h, sx, sy, 1.6 * dots);
  } else if (map) {
    const filled = layer(w, h, (dot) => {
      for (let y = 0, i = 0; y < h; y++) for (let x = 0; x < w; x++, i += 4) {
        const value = map[index(plane, x, y)];
        if (!value || state.hidden.has(value)) continue;
        const colour = parseInt(settings.colours[(value - 1) % settings.colours.length].slice(1), 16);
        dot[i] = colour >> 16; dot[i + 1] = (colour >> 8) & 255; dot[i + 2] = colour & 255; dot[i + 3] = 255;
      }
    });
    context.imageSmoothingEnabled = false;
    context.globalAlpha = opacity;
    context.drawImage(filled, 0, 0, canvas.width, canvas.height);
  }
  context.globalAlpha = 1;
  if (side !== "truth" && $("viewer-truth").checked) outline(context, plane, state.maps[""], w, h, sx, sy, 1.3 * dots);
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

function draw() {
  if (!state.one) return;
  const plane = document.querySelector('input[name="viewer-plane"]:checked').value;
  for (const canvas of document.querySelectorAll("#viewer canvas")) {
    canvas.parentElement.hidden = plane !== "all" && canvas.dataset.plane !== plane;
    if (!canvas.parentElement.hidden) panel(canvas);
  }
  const names = (map) => {
    if (!map) return "not kept";
    const n = state.one.shape, value = map[state.at[0] + n[0] * (state.at[1] + n[1] * state.at[2])];
    return value ? settings.labels[value - 1] ?? `label ${value}` : "background";
  };
  for (const side of ["a", "b"]) {
    const name = $(`viewer-${side}`).value, score = state.one.scores[name];
    $(`viewer-score-${side}`).textContent = score === null || score === undefined ? "" : `${settings.measure} ${score.toFixed(3)}`;
  }
  for (const axis of [0, 1, 2]) {
    $(`viewer-${"xyz"[axis]}`).value = String(state.at[axis]);
    const voxel = state.at[axis] * state.one.stride + state.one.offset[axis];
    $(`viewer-${"xyz"[axis]}-at`).textContent = String(voxel);
  }
  say(`Under the cross-hair: annotated ${names(state.maps[""])}; `
    + `${$("viewer-a").value}: ${names(state.maps[$("viewer-a").value])}; `
    + `${$("viewer-b").value}: ${names(state.maps[$("viewer-b").value])}.`);
}

function move(axis, to) {
  state.at[axis] = Math.max(0, Math.min(state.one.shape[axis] - 1, Math.round(to)));
}

function point(event) {
  const canvas = event.currentTarget, plane = PLANES[canvas.dataset.plane], box = canvas.getBoundingClientRect();
  const n = state.one.shape;
  move(plane.across, n[plane.across] - 0.5 - ((event.clientX - box.left) / box.width) * n[plane.across]);
  move(plane.down, n[plane.down] - 0.5 - ((event.clientY - box.top) / box.height) * n[plane.down]);
  draw();
}

for (const canvas of document.querySelectorAll("#viewer canvas")) {
  const plane = PLANES[canvas.dataset.plane];
  canvas.addEventListener("pointerdown", (event) => {
    if (!state.one) return;
    canvas.setPointerCapture(event.pointerId); point(event);
  });
  canvas.addEventListener("pointermove", (event) => { if (state.one && event.buttons & 1) point(event); });
  canvas.addEventListener("wheel", (event) => {
    if (!state.one || event.ctrlKey) return;
    event.preventDefault(); move(plane.cut, state.at[plane.cut] + Math.sign(-event.deltaY)); draw();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [plane.across, 1], ArrowRight: [plane.across, -1], ArrowUp: [plane.down, 1],
                   ArrowDown: [plane.down, -1], PageUp: [plane.cut, 1], PageDown: [plane.cut, -1] }[event.key];
    if (!step || !state.one) return;
    event.preventDefault(); move(step[0], state.at[step[0]] + step[1]); draw();
  });
}
for (const axis of [0, 1, 2]) $(`viewer-${"xyz"[axis]}`).addEventListener("input", (event) => {
  if (state.one) { move(axis, Number(event.target.value)); draw(); }
});
for (const id of ["viewer-opacity", "viewer-lines", "viewer-truth"]) $(id).addEventListener("input", draw);
for (const input of document.querySelectorAll('input[name="viewer-plane"]')) input.addEventListener("change", draw);
for (const side of ["a", "b"]) $(`viewer-${side}`).addEventListener("change", () => methods());
for (const input of document.querySelectorAll("#viewer input[data-label]")) input.addEventListener("change", () => {
  const value = Number(input.dataset.label);
  if (input.checked) state.hidden.delete(value); else state.hidden.add(value);
  draw();
});
$("viewer-case").addEventListener("change", (event) => show(Number(event.target.value)));
$("viewer-before").addEventListener("click", () => show((state.k + settings.cases - 1) % settings.cases));
$("viewer-after").addEventListener("click", () => show((state.k + 1) % settings.cases));
window.addEventListener("resize", draw);

function show(k) {
  choose(k).catch((error) => say(`This case cannot be shown: ${error.message}`));
}
if (typeof DecompressionStream === "undefined") say("This browser is too old to open the images; one of 2023 or later does.");
else show(0);
})();
