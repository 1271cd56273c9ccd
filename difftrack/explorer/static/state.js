// The state of the view. The address contains all of it, so that a link reproduces the view.

const LENS = { store: "", step: 0, layer: 0, kind: "query_key", heads: "all", weights: null, direction: "both", temperature: "root_channel", window: 0, convention: "corrected", frequencies: {} };
const SHORT = { store: "s", step: "t", layer: "l", kind: "k", heads: "h", weights: "w", direction: "d", temperature: "T", window: "r", convention: "c", frequencies: "f" };
export const DISPLAY = { opacity: 0.9, map: "inferno", log: false, smooth: false, own: true, top: 1, truth: true, others: false };
const FRESH = () => ({
  clip: "", points: [], active: 0, frame: 0, target: null, layout: "frames", tab: "map", measure: "", panes: [],
  display: { ...DISPLAY }, tracking: null, theme: "",
});

export const state = FRESH();
const listeners = new Set();
const past = [];
let future = [];
let lastKey = "";
let lastTime = 0;

export const freshLens = (lens) => ({ ...LENS, ...lens });
export const onChange = (listener) => listeners.add(listener);

/**
 * Change the state, call all listeners, and remember the previous state. Changes of one `key` in quick succession undo as one;
 * those of one gesture (a key that begins with "gesture") do however long it takes.
 */
export function change(edit, key = "") {
  const before = serialise();
  edit(state);
  const after = serialise();
  if (after === before) return;
  const now = performance.now();
  if (!key || key !== lastKey || (now - lastTime > 900 && !key.startsWith("gesture"))) past.push(before);
  if (past.length > 200) past.shift();
  lastKey = key;
  lastTime = now;
  future = [];
  publish();
}

export const canUndo = () => past.length > 0;
export const canRedo = () => future.length > 0;

export function undo() {
  if (!past.length) return;
  future.push(serialise());
  restore(past.pop());
  publish();
}

export function redo() {
  if (!future.length) return;
  past.push(serialise());
  restore(future.pop());
  publish();
}

let token = "";
/** Read the address that the page was opened with, and return its token. */
export function begin(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  token = given.get("token") || "";
  restore(hash);
  return token;
}

/** Read an address that was typed or followed. */
export function follow(hash) {
  if (hash.replace(/^#/, "") === location_()) return false;
  past.push(serialise());
  restore(hash);
  publish();
  return true;
}

const location_ = () => [token ? `token=${encodeURIComponent(token)}` : "", serialise()].filter(Boolean).join("&");
export const link = () => `${location.origin}${location.pathname}#${location_()}`;

function publish() {
  lastKey = past.length ? lastKey : "";
  history.replaceState(null, "", `#${location_()}`);
  listeners.forEach((listener) => listener());
}

export function serialise() {
  const found = new URLSearchParams();
  if (!state.clip) return "";
  found.set("clip", state.clip);
  if (state.points.length) found.set("p", state.points.map(({ frame, x, y }) => `${frame},${round(x)},${round(y)}`).join(";"));
  if (state.active) found.set("a", state.active);
  if (state.frame) found.set("f", state.frame);
  if (state.target !== null) found.set("g", state.target);
  if (state.layout !== "frames") found.set("view", state.layout);
  if (state.tab !== "map") found.set("tab", state.tab);
  if (state.measure) found.set("m", state.measure);
  state.panes.forEach((lens, index) => found.set(`v${index}`, JSON.stringify(shortened(lens))));
  const own = Object.fromEntries(Object.entries(state.display).filter(([name, value]) => value !== DISPLAY[name]));
  if (Object.keys(own).length) found.set("o", JSON.stringify(own));
  if (state.tracking) found.set("track", JSON.stringify(state.tracking));
  if (state.theme) found.set("theme", state.theme);
  return found.toString();
}

function restore(text) {
  const given = new URLSearchParams(text.replace(/^#/, ""));
  Object.assign(state, FRESH());
  state.clip = given.get("clip") || "";
  state.points = (given.get("p") || "").split(";").map((part) => part.split(",").map(Number))
    .filter((part) => part.length === 3 && part.every(Number.isFinite)).slice(0, 64)
    .map(([frame, x, y]) => ({ frame: Math.max(0, Math.round(frame)), x, y }));
  state.active = Math.min(whole(given.get("a"), 0), Math.max(0, state.points.length - 1));
  state.frame = whole(given.get("f"), 0);
  state.target = given.has("g") ? whole(given.get("g"), 0) : null;
  state.layout = oneOf(given.get("view"), ["frames", "heads", "layers", "steps"]);
  state.tab = oneOf(given.get("tab"), ["map", "heads", "attention", "tracks", "table"]);
  state.measure = oneOf(given.get("m"), ["", "error", "cycle", "margin", "entropy", "probability"]);
  state.theme = oneOf(given.get("theme"), ["", "light", "dark"]);
  for (let index = 0; index < 2 && given.has(`v${index}`); index += 1) state.panes.push(lengthened(json(given.get(`v${index}`), {})));
  const display = json(given.get("o"), {});
  for (const name of Object.keys(DISPLAY)) if (typeof display[name] === typeof DISPLAY[name]) state.display[name] = display[name];
  const tracking = json(given.get("track"), null);
  state.tracking = tracking && typeof tracking === "object" && !Array.isArray(tracking) ? tracking : null;
}

const round = (value) => Math.round(value * 100) / 100;
const whole = (text, otherwise) => (/^\d{1,9}$/.test(text || "") ? Number(text) : otherwise);
const oneOf = (text, known) => (known.includes(text) ? text : known[0]);

function json(text, otherwise) {
  try { return text ? JSON.parse(text) : otherwise; } catch { return otherwise; }
}

const shortened = (lens) => Object.fromEntries(Object.entries(SHORT).filter(([name]) => JSON.stringify(lens[name]) !== JSON.stringify(LENS[name])).map(([name, key]) => [key, lens[name]]));
const lengthened = (given) => freshLens(Object.fromEntries(Object.entries(SHORT).filter(([, key]) => given && key in given).map(([name, key]) => [name, given[key]])));
