/* The panels that NiiVue draws, one for each side, on the graphics card (WebGL 2).

   Each has the image and one layer of coloured voxels above it, which is painted here: so labels have the page's colours,
   and the numbers of both viewers are the same bytes. Three panels serve all cases, since browsers allow few of them. */
async function niivuePanels(viewer, fallen) {
  const { state } = viewer, TYPES = { axial: 0, coronal: 1, sagittal: 2, all: 3, render: 4 };
  const GREY = [2, 8], COLOURS = [2304, 32];  // NIfTI's data types, and their bits: uint8, RGBA
  const trial = document.createElement("canvas").getContext("webgl2");
  if (!trial) throw new Error("the browser offers no WebGL 2");
  trial.getExtension("WEBGL_lose_context")?.loseContext();  // it is freed
  let panes = [], ready = false, busy = false, gone = false, shown = "axial";
  panes = await Promise.all(["truth", "a", "b"].map(attached)).catch((error) => {
    for (const sheet of document.querySelectorAll("#viewer .sheet.deep")) sheet.remove();
    throw error;
  });

  async function attached(side) {
    const pane = document.querySelector(`#viewer .pane[data-side="${side}"]`), sheet = document.createElement("div");
    sheet.className = "sheet deep";
    sheet.innerHTML = "<canvas tabindex='0' role='img'></canvas>";
    pane.append(sheet);
    const canvas = sheet.firstChild;
    canvas.dataset.side = side;
    const nv = new niivue.Niivue({
      logLevel: "error", loadingText: "", dragAndDropEnabled: false, dragMode: niivue.DRAG_MODE.none,
      dragModePrimary: niivue.DRAG_MODE.crosshair, isForceMouseClickToVoxelCenters: true, doubleTouchTimeout: 0,
      longTouchTimeout: 2 ** 31 - 1, invertScrollDirection: true, isRadiologicalConvention: true, sagittalNoseLeft: true,
      showAllOrientationMarkers: true, isNearestInterpolation: true, multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID,
      crosshairColor: [1, 1, 1, 0.75], crosshairWidthUnit: "mm", fontColor: [1, 1, 1, 0.9],
    });
    await nv.attachToCanvas(canvas);
    const above = nv.drawTextAbove.bind(nv);
    nv.drawTextAbove = ([x, y], ...rest) => above([x, y - nv.fontPx / 2], ...rest);  // else the edge cuts the letter
    const own = { side, sheet, canvas, nv, layer: null, painted: "" };
    nv.onLocationChange = () => moved(own);
    nv.onAzimuthElevationChange = () => turned(own);
    canvas.addEventListener("webglcontextlost", () => give("The graphics card gave NiiVue up; these are plain slices."));
    // NiiVue's own keys, and clicks that change the contrast of one panel alone, are kept from it.
    canvas.addEventListener("keydown", (event) => { event.stopImmediatePropagation(); key(event, own); }, true);
    for (const kind of ["keyup", "dblclick"])
      canvas.addEventListener(kind, (event) => event.stopImmediatePropagation(), true);
    canvas.addEventListener("wheel", (event) => { if (event.ctrlKey) event.stopImmediatePropagation(); }, true);
    canvas.addEventListener("wheel", () => { if (!viewer.PLANES[shown]) turned(own); });
    return own;
  }

  function volume([type, bits], bytes, colormap) {  // the bytes as a NIfTI file in memory
    const one = state.one, file = new ArrayBuffer(352 + bytes.length), head = new DataView(file);
    head.setInt32(0, 348, true);
    [3, ...one.shape, 1, 1, 1, 1].forEach((n, i) => head.setInt16(40 + 2 * i, n, true));
    head.setInt16(70, type, true);
    head.setInt16(72, bits, true);
    [1, ...one.spacing, 1, 1, 1, 1].forEach((mm, i) => head.setFloat32(76 + 4 * i, mm, true));
    head.setFloat32(108, 352, true);
    head.setFloat32(112, 1, true);
    head.setUint8(123, 2);             // mm
    head.setInt16(254, 1, true);       // the affine is the scanner's
    one.affine.flat().forEach((value, i) => head.setFloat32(280 + 4 * i, value, true));
    [0x6e, 0x2b, 0x31, 0].forEach((sign, i) => head.setUint8(344 + i, sign));
    new Uint8Array(file, 352).set(bytes);
    return niivue.NVImage.new(file, "case.nii", colormap, 1, null, 0, 255);
  }

  async function open() {
    ready = false;
    const turn = state.turn;
    for (const pane of panes) {
      const grey = await volume(GREY, state.image, "gray");
      const layer = await volume(COLOURS, new Uint8Array(4 * state.image.length), "gray");
      if (turn !== state.turn || gone) return;
      pane.nv.volumes = [grey, layer];   // in place of the last case's
      pane.nv.setVolume(grey, 0);        // sends both to the card, once
      pane.nv.updateInterpolation(0, true);  // greys are smooth, labels are voxels
      Object.assign(pane, { layer, painted: "" });
    }
    ready = true;
  }

  function border(map, axes) {         // labels at voxels with another label beside them
    const n = state.one.shape, steps = axes.map((axis) => [axis, [1, n[0], n[0] * n[1]][axis]]);
    const seen = map.map((value) => (state.hidden.has(value) ? 0 : value)), found = new Uint8Array(map.length);
    for (let z = 0, i = 0; z < n[2]; z++) for (let y = 0; y < n[1]; y++) for (let x = 0; x < n[0]; x++, i++) {
      const own = seen[i], at = [x, y, z];
      if (own && steps.some(([axis, step]) => (at[axis] ? seen[i - step] : 0) !== own
        || (at[axis] < n[axis] - 1 ? seen[i + step] : 0) !== own)) found[i] = own;
    }
    return found;
  }

  function paint(pane, plane) {
    const map = viewer.map(pane.side), { opacity, lines, over } = viewer.drawn(), cut = viewer.PLANES[plane];
    const outlined = pane.side !== "truth" && over, axes = cut ? [cut.across, cut.down] : [0, 1, 2];
    const wanted = JSON.stringify([viewer.name(pane.side), Boolean(map), opacity, lines, outlined,
                                   lines || outlined ? axes : 0, [...state.hidden]]);
    if (wanted === pane.painted) return;
    pane.painted = wanted;
    const bytes = pane.layer.img.fill(0), dots = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const put = (labels, alpha) => {
      const paints = new Uint32Array(256), four = new Uint8Array(paints.buffer);
      for (let value = 1; value < 256; value++) if (!state.hidden.has(value)) {
        const colour = parseInt(viewer.colour(value).slice(1), 16);
        four.set([colour >> 16, (colour >> 8) & 255, colour & 255, alpha], 4 * value);
      }
      for (let i = 0; i < labels.length; i++) if (labels[i]) dots[i] = paints[labels[i]];
    };
    if (map) put(lines ? border(map, axes) : map, Math.round(255 * opacity));
    if (outlined) put(border(viewer.map("truth"), axes), 255);
    pane.nv.refreshLayers(pane.layer, 1);
  }

  function fit(pane, plane) {          // the panel's height, and lines of about a dot
    const cut = viewer.PLANES[plane], sides = state.one.shape.map((n, axis) => n * state.one.spacing[axis]);
    const room = pane.sheet.clientWidth;
    const wide = cut ? sides[cut.across] : sides[0] + sides[1], tall = cut ? sides[cut.down] : sides[1] + sides[2];
    const mm = Math.max(wide / room, tall / viewer.tallest());  // a dot's
    const height = `${Math.round(cut ? tall / mm : Math.min(room, viewer.tallest()))}px`;
    if (pane.sheet.style.height !== height) pane.sheet.style.height = height;
    Object.assign(pane.nv.opts, { crosshairWidth: 1.3 * mm, crosshairGap: 14 });
    if (pane.nv.crosshairs3D) pane.nv.crosshairs3D.mm = [NaN, NaN, NaN];  // it is made anew
  }

  function draw(plane) {
    if (!ready) return;
    shown = plane;
    busy = true;
    for (const pane of panes) {
      const what = pane.side === "truth" ? "annotated" : viewer.name(pane.side);
      const words = plane === "render" ? "arrow keys turn the head, page keys bring it nearer"
        : "arrow keys move the cross-hair, page keys the slice";
      pane.canvas.setAttribute("aria-label", `${what}, ${plane === "render" ? "3D" : plane}; ${words}`);
      fit(pane, plane);
      paint(pane, plane);
      pane.nv.scene.crosshairPos = pane.nv.vox2frac(state.at);
      pane.nv.setSliceType(TYPES[plane]);
    }
    busy = false;
  }

  function moved(pane) {
    if (busy || !ready) return;
    pane.nv.frac2vox(pane.nv.scene.crosshairPos).forEach((to, axis) => viewer.move(axis, to));
    viewer.draw();
  }

  function turned(pane) {
    if (busy || !ready) return;
    busy = true;
    const { renderAzimuth, renderElevation, volScaleMultiplier } = pane.nv.scene;
    for (const other of panes.filter((one) => one !== pane)) {
      Object.assign(other.nv.scene, { renderAzimuth, renderElevation, volScaleMultiplier });
      other.nv.drawScene();
    }
    busy = false;
  }

  function key(event, pane) {
    if (!ready) return;
    if (shown !== "render") {
      if (viewer.key(event, viewer.PLANES[shown] ?? viewer.PLANES.axial)) viewer.draw();
      return;
    }
    const { scene } = pane.nv;
    const [right, up, nearer] = { ArrowLeft: [-10, 0, 1], ArrowRight: [10, 0, 1], ArrowUp: [0, 10, 1],
                                  ArrowDown: [0, -10, 1], PageUp: [0, 0, 1.1], PageDown: [0, 0, 1 / 1.1] }[event.key] ?? [];
    if (!nearer) return;
    event.preventDefault();
    scene.volScaleMultiplier *= nearer;
    pane.nv.setRenderAzimuthElevation(scene.renderAzimuth + right, scene.renderElevation + up);
  }

  function give(why) {                 // the panels up, to the slices
    if (gone) return;
    [gone, ready] = [true, false];
    for (const pane of panes) {
      pane.nv.cleanup();
      pane.sheet.remove();
      pane.nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    }
    fallen(why);
  }

  return { open, draw };
}
