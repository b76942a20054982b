"use strict";
/* A chart of several curves, from which values are read off with the mouse or with keys. */
const chart = (() => {
const NS = "http://www.w3.org/2000/svg", HEIGHT = 300, LEFT = 58, RIGHT = 18, TOP = 12, BOTTOM = 44;
const DASHES = ["", "7 4", "2 3"];

function make(name, facts, text) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(facts)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

function ticks(low, high, wanted) {
  const span = high - low || Math.abs(high) || 1, raw = span / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
  return found;
}

function powers(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const k of [1, 2, 5]) found.push(k * 10 ** power);
  const seen = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  return seen.length > 8 ? seen.filter((value) => Number.isInteger(Math.round(Math.log10(value) * 1e6) / 1e6)) : seen;
}

/* The last value of a curve that is known at a step; null before its first. */
function at(points, step) {
  let found = null;
  for (const point of points) { if (point[0] > step) break; found = point; }
  return found;
}

/* curves: [{name, colour, dash, points: [[step, value], ...]}]; where: a step, or null. */
function draw(box, curves, { logarithmic, where, label }) {
  const width = Math.max(280, box.clientWidth), all = curves.flatMap((curve) => curve.points);
  const usable = logarithmic ? all.filter((point) => point[1] > 0) : all;
  box.setAttribute("aria-label", label);
  if (!usable.length) { box.replaceChildren(); return null; }
  let low = Infinity, high = -Infinity, last = 0, first = Infinity;
  for (const [step, value] of usable) {
    low = Math.min(low, value); high = Math.max(high, value);
    first = Math.min(first, step); last = Math.max(last, step);
  }
  if (low === high) { const room = Math.abs(low) * 0.1 || 1; high += room; if (!logarithmic) low -= room; }
  const scale = logarithmic ? Math.log10 : (value) => value;
  const bottom = scale(low), span = scale(high) - bottom || 1;
  const x = (step) => LEFT + ((step - first) / (last - first || 1)) * (width - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((scale(value) - bottom) / span) * (HEIGHT - TOP - BOTTOM);
  const svg = make("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" });
  for (const value of logarithmic ? powers(low, high) : ticks(low, high, 5)) {
    svg.append(make("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(make("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  for (const step of ticks(first, last, Math.max(2, width / 130))) {
    if (!Number.isInteger(step)) continue;
    svg.append(make("text", { x: x(step), y: HEIGHT - 26, "text-anchor": "middle" }, String(step)));
  }
  svg.append(make("text", { x: width - RIGHT, y: HEIGHT - 7, "text-anchor": "end" }, "steps"));
  for (const { colour, dash, points } of curves) {
    const good = logarithmic ? points.filter((point) => point[1] > 0) : points;
    const path = good.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const looks = { class: "line", stroke: colour, "stroke-dasharray": DASHES[dash] };
    svg.append(make("polyline", { ...looks, points: path }));
    if (good.length < 40)
      for (const [step, value] of good) svg.append(make("circle", { cx: x(step), cy: y(value), r: 2.6, fill: colour }));
  }
  if (where !== null) {
    svg.append(make("line", { class: "cursor", x1: x(where), x2: x(where), y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const { colour, points } of curves) {
      const point = at(points, where);
      if (point && (!logarithmic || point[1] > 0))
        svg.append(make("circle", { cx: x(where), cy: y(point[1]), r: 4.5, fill: colour }));
    }
  }
  box.replaceChildren(svg);
  return { stepAt: (left) => first + ((left - LEFT) / (width - LEFT - RIGHT)) * (last - first) };
}

return { draw, at, number };
})();
