/* What is shown of which case, and the controls; the panels are drawn by `slices.js`, or by NiiVue (`niivue.js`).
   Axes are right, front, up; the patient's right is at the left of the screen, as radiologists look. */
(() => {
const $ = (id) => document.getElementById(id);
if (!$("viewer")) return;
const settings = JSON.parse($("viewer-settings").textContent);
const state = { k: 0, at: [0, 0, 0], one: null, maps: {}, image: null, hidden: new Set(), turn: 0 };
const viewer = {
  state,
  PLANES: {                            // axes across and down the screen, the one that is cut, letters at the edges
    axial: { across: 0, down: 1, cut: 2, letters: "RLAP" },
    coronal: { across: 0, down: 2, cut: 1, letters: "RLSI" },
    sagittal: { across: 1, down: 2, cut: 0, letters: "APSI" },
  },
  name: (side) => (side === "truth" ? "" : $(`viewer-${side}`).value),
  map: (side) => state.maps[viewer.name(side)],
  colour: (value) => settings.colours[(value - 1) % settings.colours.length],
  drawn: () => ({
    opacity: Number($("viewer-opacity").value) / 100, lines: $("viewer-lines").checked, over: $("viewer-truth").checked,
  }),
  tallest: () => Math.max(220, 0.62 * window.innerHeight),
  move(axis, to) { state.at[axis] = Math.max(0, Math.min(state.one.shape[axis] - 1, Math.round(to))); },
  key(event, plane) {                  // whether it moved the cross-hair
    const step = { ArrowLeft: [plane.across, 1], ArrowRight: [plane.across, -1], ArrowUp: [plane.down, 1],
                   ArrowDown: [plane.down, -1], PageUp: [plane.cut, 1], PageDown: [plane.cut, -1] }[event.key];
    if (!step) return false;
    event.preventDefault(); viewer.move(step[0], state.at[step[0]] + step[1]);
    return true;
  },
  draw,
};
const slices = slicePanels(viewer);
let panels = slices;

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
  await panels.open();
  if (turn === state.turn) await methods(turn);
}

async function methods(turn = state.turn) {
  for (const side of ["a", "b"]) {
    const name = viewer.name(side);
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

function told(scores) {
  return Object.entries(settings.measures).filter(([key]) => Number.isFinite(scores?.[key])).map(
    ([key, { name, unit, digits }]) => `${name}\u00a0${scores[key].toFixed(digits)}${unit && "\u00a0"}${unit}`).join(", ");
}

function draw() {
  if (!state.one) return;
  panels.draw(document.querySelector('input[name="viewer-plane"]:checked').value);
  const { one, at } = state, n = one.shape, i = at[0] + n[0] * (at[1] + n[1] * at[2]);
  const label = (map) => {
    if (!map) return "not kept";
    return map[i] ? settings.labels[map[i] - 1] ?? `label ${map[i]}` : "background";
  };
  for (const side of ["a", "b"]) $(`viewer-score-${side}`).textContent = told(one.scores[viewer.name(side)]);
  for (const axis of [0, 1, 2]) {
    $(`viewer-${"xyz"[axis]}`).value = String(at[axis]);
    $(`viewer-${"xyz"[axis]}-at`).textContent = String(at[axis] * one.stride + one.offset[axis]);
  }
  const mm = one.affine.map((row) => (row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]).toFixed(1));
  const [low, high] = one.window, value = low + (state.image[i] / 255) * (high - low);
  say(`Under the cross-hair: annotated ${label(state.maps[""])}; `
    + ["a", "b"].map((side) => `${viewer.name(side)}: ${label(viewer.map(side))}`).join("; ")
    + `; intensity about ${Number(value.toPrecision(3))}; at ${mm.join(", ")} mm.`.replaceAll("-", "\u2212"));
}

function show(k) {
  choose(k).catch((error) => say(`This case cannot be shown: ${error.message}`));
}

function drawBySlices(why) {           // whatever drew before
  panels = slices;
  for (const input of document.querySelectorAll("#viewer .deep input")) {
    if (input.checked) document.querySelector('input[name="viewer-plane"]').checked = true;
    input.closest(".deep").hidden = true;
  }
  $("viewer-by").textContent = why;
  draw();
}

async function begin() {
  if (typeof niivuePanels === "function") {
    slices.hide();
    try {
      panels = await niivuePanels(viewer, drawBySlices);
    } catch (error) {
      drawBySlices(`NiiVue cannot draw here (${error.message}); these are plain slices.`);
    }
  }
  show(0);
}

for (const axis of [0, 1, 2]) $(`viewer-${"xyz"[axis]}`).addEventListener("input", (event) => {
  if (state.one) { viewer.move(axis, Number(event.target.value)); draw(); }
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

if (typeof DecompressionStream === "undefined") say("This browser is too old to open the images; one of 2023 or later does.");
else begin();
})();
