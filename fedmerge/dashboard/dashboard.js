/* Asks once a second for what has changed, and shows it. Names and messages are put into the page as text only; what
   comes as HTML (timeline, tables) was escaped where it was made. */
(() => {
const $ = (id) => document.getElementById(id);
const EVERY_MS = 1000, HIDDEN_MS = 5000, PATIENCE_MS = 15000, SHOWN = 500, KEPT = 2000;
const LEVELS = { progress: 0, info: 1, warning: 2, error: 3 };
const TONES = { running: "work", stopping: "work", done: "good", stopped: "bad", interrupted: "bad", down: "bad" };
const MODES = { idle: "waits", asked: "is asked", working: "works", away: "away", off: "" };
const at = { run: "", since: 0, paused: false, lost: 0, offset: 0, said: 0, busy: false, hurry: false,
  chose: false };
let curves = new Map(), lines = [], head = {}, cards = [], where = null, scale = null, timer = 0;

history.replaceState(null, "", location.pathname);  // the secret is in a cookie from here on

/* ---- words ---- */

function lasting(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  for (const [unit, small, part, of] of [["d", "h", 86400, 3600], ["h", "min", 3600, 60], ["min", "s", 60, 1]])
    if (whole >= part) {
      const rest = Math.floor((whole % part) / of);
      return `${Math.floor(whole / part)} ${unit}` + (rest ? ` ${rest} ${small}` : "");
    }
  return `${whole} s`;
}

function size(bytes) {
  for (const [unit, power] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (bytes >= power) return `${(bytes / power).toPrecision(3)} ${unit}`;
  return `${bytes} B`;
}

const now = () => Date.now() / 1000 + at.offset;
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
const say = (text) => { $("say").textContent = text; };

function put(node, text) { if (node.textContent !== text) node.textContent = text; }

function element(name, facts = {}, ...inside) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(facts)) node.setAttribute(key, value);
  node.append(...inside);
  return node;
}

/* ---- asking ---- */

async function ask() {
  const run = at.run, given = new URLSearchParams({ run, since: String(at.since) });
  const stop = new AbortController(), patience = setTimeout(() => stop.abort(), PATIENCE_MS);
  try {
    const answer = await fetch(`state?${given}`, { signal: stop.signal, cache: "no-store" });
    if (answer.status === 404 && at.run && at.since) { at.run = ""; at.since = 0; return; }
    if (!answer.ok) return lost(answer.status === 404 ? "does not let this page in any more: it was started again"
      : "does not answer as it should");
    const told = await answer.json();
    if (!at.paused && run === at.run) take(told);
  } catch (error) {
    lost("does not answer: it was ended, or the connection is gone");
  } finally {
    clearTimeout(patience);
  }
}

function lost(why) {
  if (!at.lost) at.lost = Date.now() / 1000;
  const text = `The dashboard ${why}. What is shown is as it was at ${clock(at.lost + at.offset)}.`;
  $("lost").hidden = false;
  put($("lost"), text);
}

async function go() {
  clearTimeout(timer);
  if (at.busy) { at.hurry = true; return; }  // one question at a time
  at.busy = true;
  if (!at.paused) await ask();
  at.busy = false;
  timer = setTimeout(go, at.hurry ? 0 : document.hidden ? HIDDEN_MS : EVERY_MS);
  at.hurry = false;
}

function take(told) {
  at.lost = 0;
  $("lost").hidden = true;
  at.offset = told.now - Date.now() / 1000;
  if (told.whole) { curves = new Map(); lines = []; where = null; $("log").replaceChildren(); }
  at.run = told.run; at.since = told.version; at.said = told.said;
  chooser(told.runs, told.run);
  let drawn = told.whole;
  for (const [name, piece] of Object.entries(told.pieces)) {
    if (name.startsWith("curve/")) {
      if (piece) curves.set(name, piece); else curves.delete(name);
      drawn = true;
    } else if (name in SHOW) SHOW[name](piece);
  }
  if (drawn) controls();
  if (told.messages.length || told.whole) messages(told.messages);
  if (told.whole) parts(told.pieces);
  put($("updated"), `as of ${clock(told.now)}`);
  tick();
}

function parts(pieces) {
  const there = new Set(["sites", "timeline", "curves", "traffic", "messages", ...Object.keys(pieces)]);
  for (const link of document.querySelectorAll("nav [data-part]")) {
    const hidden = !there.has(link.dataset.part);
    link.hidden = $(link.dataset.part).hidden = hidden;
  }
}

function chooser(runs, chosen) {
  const names = Object.keys(runs), select = $("run");
  $("chooser").hidden = !names.length;
  const wanted = names.reverse().map((name) => `${name} (${runs[name]})`);
  const have = [...select.options].map((option) => option.textContent);
  if (wanted.join("\n") !== have.join("\n"))
    select.replaceChildren(...names.map((name, k) => element("option", { value: name }, wanted[k])));
  select.value = chosen;
}

/* ---- head and sites ---- */

function showHead(piece) {
  if (head.state && head.state !== piece.state) say(`${piece.title} is now ${piece.state}`);
  head = piece;
  put($("title"), piece.title);
  document.title = `${piece.state}: ${piece.title}`;
  $("state").dataset.tone = TONES[piece.state] ?? "quiet";
  put($("words"), piece.words);
  put($("facts"), piece.facts.join("; "));
  $("warnings").hidden = !piece.warnings.length;
  $("warnings").replaceChildren(...piece.warnings.map((text) => element("li", {}, text)));
}

function showSites(piece) {
  for (const card of piece) {
    const before = cards.find((other) => other.name === card.name);
    if (before && before.state !== card.state && (card.state === "away" || before.state === "away"))
      say(card.state === "away" ? `${card.name} ${card.words}` : `${card.name} is there again`);
  }
  cards = piece;
  const list = $("cards");
  const known = new Map([...list.children].map((node) => [node.dataset.name, node]));
  list.replaceChildren(...piece.map((card) => known.get(card.name) ?? blank(card.name)));
  if (!piece.length) list.append(element("li", { class: "card" }, "No site was asked yet."));
  piece.forEach((card, k) => fill(list.children[k], card));
}

function blank(name) {
  const node = element("li", { class: "card", "data-name": name });
  node.append(
    element("div", { class: "top" }, element("h3", {}), element("span", { class: "mode" })),
    element("p", { class: "words" }), element("progress", { hidden: "" }), element("p", { class: "far" }),
    element("p", { class: "moved" }), element("p", { class: "moved notes" }),
  );
  node.querySelector("h3").append(`${name} `, element("span", { class: "role" }));
  return node;
}

function fill(node, card) {
  const part = (name) => node.querySelector(name), bar = part("progress"), far = card.progress;
  node.dataset.state = card.state;
  put(part(".role"), card.role);
  put(part(".words"), card.words);
  bar.hidden = !far;
  if (far) {
    bar.max = far.total; bar.value = far.done;
    bar.setAttribute("aria-label", `${card.name}: ${far.what}`);
    const left = far.left_s === null ? "" : far.done >= far.total ? "" : `, about ${lasting(far.left_s)} left`;
    put(part(".far"), `${far.what} ${far.done} of ${far.total}${left}`);
  } else put(part(".far"), "");
  put(part(".moved"), card.sent === null ? "" : `↓ ${size(card.sent)} to it, ↑ ${size(card.received)} from it`);
  put(part(".notes"), card.notes.join("; "));
}

function tick() {  // what grows by itself
  const time = lasting(now() - (head.since ?? 0)), goes = ["running", "queued", "stopping", "waiting"];
  const since = !head.since ? "" : goes.includes(head.state) ? ` for ${time}` : `, ${time} ago`;
  put($("state"), head.state ? `${head.state}${since}` : "");
  cards.forEach((card, k) => {
    const node = $("cards").children[k]?.querySelector(".mode");
    const time = card.since && card.state !== "off" ? ` for ${lasting(now() - card.since)}` : "";
    if (node) put(node, `${MODES[card.state] ?? card.state}${time}`);
  });
}

/* ---- timeline and tables ---- */

function replace(box, html, grows = false) {  // where it was scrolled to, and whether it had the focus, stay
  const old = box.querySelector(".wide"), left = old?.scrollLeft, top = old?.scrollTop;
  const focused = old && document.activeElement === old;
  const atEnd = !old || left + old.clientWidth >= old.scrollWidth - 4;
  box.innerHTML = html;
  const fresh = box.querySelector(".wide");
  if (fresh && grows && atEnd) fresh.scrollLeft = fresh.scrollWidth;
  else if (old && fresh) { fresh.scrollLeft = left; fresh.scrollTop = top; }
  if (focused && fresh) fresh.focus({ preventScroll: true });
}

function nothing(text) { return `<p class="quiet">${text}</p>`; }

function showTimeline(piece) {
  replace($("drawing"), piece.drawing || nothing("No site was asked anything yet."),
    piece.drawing.includes('class="open"'));
  replace($("times-table"), piece.table);
  $("times").hidden = !piece.table;
  put($("left-out"), piece.left_out);
}

const SHOW = {
  head: showHead,
  sites: showSites,
  timeline: showTimeline,
  scores: (html) => replace($("scores-table"), html || nothing("No row is over yet.")),
  left: (html) => replace($("left-table"), html || nothing("Nothing left yet, and nothing was refused.")),
  traffic: (html) => replace($("traffic-table"), html || nothing("Nothing moved yet.")),
};

/* ---- curves ---- */

const kind = () => document.querySelector("input[name=kind]:checked").value;

function controls() {
  const some = [...curves.values()].some((curve) => Object.values(curve.points).some((points) => points.length));
  $("some-curves").hidden = !some;
  put($("no-curves"), some ? "" : "There are no curves yet. Those of a real campaign's sources stay at their hospitals; "
    + "a target's come with each row that is over, where its policy lets them go.");
  if (!some) return;
  if (!at.chose) {  // until somebody chooses: the first kind that there is, as a coordinator has validations only
    const kinds = [...document.querySelectorAll("input[name=kind]")];
    const there = kinds.find((box) => [...curves.values()].some((curve) => curve.points[box.value].length));
    if (there) there.checked = true;
  }
  const runs = [...new Set([...curves.values()].sort((a, b) => b.time - a.time).map((curve) => curve.run))];
  const which = $("which"), chosen = which.value || "latest";
  const wanted = [["latest", "the last of each site"], ["all", "all"], ...runs.map((run) => [`=${run}`, run])];
  if (wanted.map(String).join("\n") !== [...which.options].map((o) => `${o.value},${o.textContent}`).join("\n")) {
    which.replaceChildren(...wanted.map(([value, text]) => element("option", { value }, text)));
    which.value = wanted.some(([value]) => value === chosen) ? chosen : "latest";
  }
  const there = new Set([...curves.values()].map((curve) => curve.site));
  const sites = [...cards.map((card) => card.name).filter((name) => there.delete(name)), ...[...there].sort()];
  const boxes = new Map([...$("chosen").querySelectorAll("input")].map((box) => [box.value, box]));
  if (sites.join("\n") !== [...boxes.keys()].join("\n"))
    $("chosen").replaceChildren(...sites.map((site) => {
      const box = boxes.get(site) ?? element("input", { type: "checkbox", value: site });
      if (!boxes.has(site)) { box.checked = true; box.addEventListener("change", drawCurves); }
      return element("label", {}, box, site);
    }));
  drawCurves();
}

function shownCurves() {
  const wanted = $("which").value, sites = [...$("chosen").querySelectorAll("input")];
  const checked = sites.filter((box) => box.checked).map((box) => box.value);
  let found = [...curves.values()].filter((curve) => checked.includes(curve.site) && curve.points[kind()].length);
  found.sort((a, b) => a.time - b.time);
  if (wanted === "latest") found = [...new Map(found.map((curve) => [curve.site, curve])).values()];
  else if (wanted !== "all") found = found.filter((curve) => `=${curve.run}` === wanted);
  const alone = new Set(found.map((curve) => curve.site)).size === found.length;
  return found.map((curve, k) => {
    const own = cards.findIndex((card) => card.name === curve.site);
    const place = !alone ? k : own >= 0 ? own : cards.length + k;
    return { name: `${curve.site}: ${curve.run}`, colour: `var(--c${place % 10})`, dash: Math.floor(place / 10) % 3,
      points: curve.points[kind()] };
  });
}

function drawCurves() {
  const shown = shownCurves(), steps = shown.flatMap((curve) => curve.points.map((point) => point[0]));
  if (where !== null && !steps.length) where = null;
  const label = `${document.querySelector("input[name=kind]:checked").parentNode.textContent.trim()} of `
    + `${shown.length} trainings over their steps`;
  scale = chart.draw($("chart"), shown, { logarithmic: $("log-scale").checked, where, label });
  if (!scale) $("chart").replaceChildren(element("p", { class: "quiet" }, "No such curve of what is chosen."));
  $("legend").replaceChildren(...shown.map((curve) => {
    const point = where === null ? curve.points.at(-1) : chart.at(curve.points, where);
    const mark = element("span", { class: "mark" });
    mark.style.background = curve.colour;
    const value = point ? element("b", {}, chart.number(point[1])) : "not begun";
    return element("li", {}, mark, `${curve.name}: `, value, point ? ` at step ${point[0]}` : "");
  }));
  return shown;
}

function read(step, aloud = false) {
  const shown = shownCurves(), steps = [...new Set(shown.flatMap((curve) => curve.points.map((point) => point[0])))];
  if (!steps.length) return;
  steps.sort((a, b) => a - b);
  where = step === null ? null : steps.reduce((best, s) => Math.abs(s - step) < Math.abs(best - step) ? s : best);
  const values = where === null || !aloud ? [] : shown.map((curve) => [curve, chart.at(curve.points, where)]);
  const told = values.filter(([, point]) => point).map(([curve, point]) => `${curve.name} ${chart.number(point[1])}`);
  put($("reading"), !values.length ? "" : `At step ${where}: ${told.slice(0, 6).join("; ")}`);
  drawCurves();
}

function move(by) {
  const shown = shownCurves(), steps = [...new Set(shown.flatMap((curve) => curve.points.map((point) => point[0])))];
  steps.sort((a, b) => a - b);
  if (!steps.length) return;
  const here = where === null ? steps.length - 1 : steps.findIndex((step) => step >= where);
  read(steps[Math.min(steps.length - 1, Math.max(0, here + by))], true);
}

$("chart").addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  if (event.key in moves) move(moves[event.key]);
  else if (event.key === "Escape") read(null);
  else return;
  event.preventDefault();
});
$("chart").addEventListener("pointermove", (event) => {
  if (scale) read(scale.stepAt(event.clientX - $("chart").getBoundingClientRect().left));
});
$("chart").addEventListener("pointerleave", () => read(null));
for (const box of document.querySelectorAll("input[name=kind]"))
  box.addEventListener("change", () => { at.chose = true; read(null); drawCurves(); });
for (const name of ["which", "log-scale"]) $(name).addEventListener("change", () => { read(null); drawCurves(); });
addEventListener("resize", () => { if (!$("some-curves").hidden) drawCurves(); });

/* ---- messages ---- */

function fits(message) {
  const words = $("search").value.toLowerCase().split(" ").filter(Boolean);
  const text = `${message.source} ${message.text}`.toLowerCase();
  return LEVELS[message.level] >= LEVELS[$("level").value] && words.every((word) => text.includes(word));
}

function row(message) {
  const time = message.at ? new Date(message.at * 1000) : null;
  const facts = time ? { datetime: time.toISOString(), title: time.toLocaleString("en-GB") } : {};
  return element("li", { "data-level": message.level },
    element("time", facts, time ? clock(message.at) : "--:--:--"),
    element("span", { class: "source" }, message.source), element("span", { class: "text" }, message.text));
}

function messages(fresh) {
  lines = [...lines, ...fresh].slice(-KEPT);
  list(fresh.filter(fits));
}

function list(more) {
  const log = $("log"), top = log.scrollTop;
  log.append(...more.slice(-SHOWN).map(row));
  while (log.children.length > SHOWN) log.firstChild.remove();
  const matching = lines.filter(fits).length, old = at.said - lines.length;
  const shown = Math.min(matching, SHOWN);
  put($("how-many"), `${shown} of ${at.said} lines are shown` + (matching > SHOWN ? `, the last of ${matching} that fit` : "")
    + (old > 0 ? `; the first ${old} are in the log only` : "") + ".");
  if ($("follow").checked) log.scrollTop = log.scrollHeight; else log.scrollTop = top;
}

function again() { $("log").replaceChildren(); list(lines.filter(fits)); }

$("level").addEventListener("change", again);
$("search").addEventListener("input", again);
$("follow").addEventListener("change", again);
$("log").addEventListener("wheel", (event) => { if (event.deltaY < 0) $("follow").checked = false; }, { passive: true });
$("log").addEventListener("keydown", (event) => {
  if (["ArrowUp", "PageUp", "Home"].includes(event.key)) $("follow").checked = false;
});

/* ---- the rest ---- */

$("pause").addEventListener("click", () => {
  at.paused = !at.paused;
  $("pause").setAttribute("aria-pressed", String(at.paused));
  put($("pause"), at.paused ? "Go on" : "Pause");
  say(at.paused ? "Updates are paused" : "Updates go on");
  if (at.paused) put($("updated"), `paused; as of ${clock(now())}`); else go();
});
$("run").addEventListener("change", () => {
  at.run = $("run").value; at.since = 0; head = {}; cards = [];
  go();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) go(); });
setInterval(() => { if (!at.paused && !at.lost) tick(); }, 1000);
go();
})();
