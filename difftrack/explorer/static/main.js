// The page: the bar above, the gallery, and the views of one clip with their shared source frame.

import { Refusal, ask, currentToken, getJson, onRecovery, useToken } from "./api.js";
import { MAPS, OTHER, TRUTH, pointColor } from "./colors.js";
import { busy, button, copy, during, h, labelled, notice, number, select } from "./dom.js";
import { fit, forgetPictures, marks, picture, trail } from "./draw.js";
import { saveCsv, savePng } from "./export.js";
import { gallery } from "./gallery.js";
import { Pane, firstLens } from "./pane.js";
import { begin, canRedo, canUndo, change, follow, freshLens, link, onChange, redo, state, undo } from "./state.js";

const bar = document.getElementById("bar");
const main = document.getElementById("main");
let library = null;
let page = null;

const KEYS = [
  [["click", "drag"], "place a point, move a point"],
  [["arrows"], "move the point by a pixel; with Shift by ten"],
  [["n", "p"], "next point, previous point"],
  [["Delete"], "remove the point"],
  [["[", "]"], "layer down, layer up"],
  [[";", "'"], "step back, step forward"],
  [[",", "."], "frame back, frame forward"],
  [["space"], "play, stop"],
  [["1", "2", "3", "4"], "frames, all heads, all layers, all steps"],
  [["l"], "log scale"],
  [["t"], "true track on and off"],
  [["c"], "compare: a second view beside the first"],
  [["u", "Ctrl+Z"], "undo; Ctrl+Shift+Z redoes"],
  [["g"], "back to the clips"],
  [["?"], "this list"],
];

/** All views of one clip. */
class ClipPage {
  constructor(info) {
    this.info = info;
    this.library = library;
    const spec = info.stores.find(({ usable }) => usable);
    const [height, width] = info.has_frames ? [info.height, info.width] : spec ? spec.clip_size : [128, 192];
    this.size = { width, height };
    this.numFrames = info.num_frames || (spec ? spec.frames.at(-1) + 1 : 1);
    this.truth = [];
    this.others = [];
    this.panes = [];
    this.timers = new Map();
    this.started = null;
    this.tracked = 0;
    this.playing = null;
    this.build();
  }

  build() {
    this.canvas = h("canvas", { class: "source", tabindex: 0, role: "application", "aria-label": "Source frame. Click to place a point, arrow keys move it by a pixel.", "aria-describedby": "place" });
    this.place = h("p", { id: "place", class: "quiet small", role: "status", "aria-live": "polite" });
    this.scrubber = h("input", { type: "range", min: 0, max: this.numFrames - 1, step: 1, "aria-label": "Frame", oninput: (event) => change(() => { state.frame = Number(event.target.value); }, "frame") });
    this.frameLabel = h("output", {});
    this.playButton = button("▶", () => this.play(), { class: "icon", "aria-label": "Play" });
    this.ticks = h("div", { class: "ticks", "aria-hidden": "true" });
    this.points = h("div", { class: "points", role: "group", "aria-label": "Points" });
    this.layouts = h("div", { class: "segments", role: "group", "aria-label": "Show" }, [["frames", "Frames"], ["heads", "All heads"], ["layers", "All layers"], ["steps", "All steps"]].map(([layout, text]) => button(text, () => change(() => { state.layout = layout; }), { "data-layout": layout })));
    this.display = h("div", { class: "display" });
    this.paneRow = h("div", { class: "panes" });
    const { prompt, source, fps } = this.info;
    this.element = h("div", { class: "clip" },
      h("div", { class: "about" }, h("h1", {}, this.info.name), h("p", { class: "quiet" }, prompt || "no prompt"), h("p", { class: "quiet small" }, [source, `${this.numFrames} frames`, `${this.size.width} × ${this.size.height} px`, fps ? `${number(fps, 0)} fps` : ""].filter(Boolean).join(" · "))),
      h("div", { class: "work" },
        h("section", { class: "side", "aria-label": "Source frame" },
          h("div", { class: "stage" }, this.canvas),
          h("div", { class: "transport" }, this.playButton, h("div", { class: "scrub" }, this.scrubber, this.ticks), this.frameLabel),
          this.place, this.points,
          this.layouts, h("details", { class: "display-box", open: innerWidth > 820 }, h("summary", {}, "Display"), this.display),
          this.info.has_frames ? "" : h("p", { class: "problem" }, this.info.frames_problem || "")),
        this.paneRow));
    this.listen();
  }

  // ---- points

  listen() {
    const { canvas } = this;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return { x: clamp(((event.clientX - box.left) / box.width) * this.size.width, this.size.width), y: clamp(((event.clientY - box.top) / box.height) * this.size.height, this.size.height) };
    };
    let dragged = -1;
    let gesture = 0;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      gesture += 1;
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.started = performance.now();
      const { x, y } = at(event);
      const reach = (12 / canvas.clientWidth) * this.size.width;
      dragged = state.points.findIndex((point) => point.frame === state.frame && Math.hypot(point.x - x, point.y - y) < reach);
      if (dragged >= 0) { change(() => { state.active = dragged; }); return; }
      if (state.points.length >= 64) { notice("At most 64 points are possible."); return; }
      const add = event.shiftKey || event.ctrlKey || event.metaKey || !state.points.length;
      change(() => {
        const point = { frame: state.frame, x, y };
        if (add) { state.points = [...state.points, point]; state.active = state.points.length - 1; }
        else state.points = state.points.map((own, index) => (index === state.active ? point : own));
      }, `gesture${gesture}`);
      dragged = state.active;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId) || dragged < 0) return;
      this.started = performance.now();
      const { x, y } = at(event);
      change(() => { state.points = state.points.map((own, index) => (index === dragged ? { ...own, x, y } : own)); }, `gesture${gesture}`);
    });
    canvas.addEventListener("pointerup", () => { dragged = -1; });
    canvas.addEventListener("pointercancel", () => { dragged = -1; });
  }

  move(dx, dy) {
    if (!state.points.length) {
      change(() => { state.points = [{ frame: state.frame, x: this.size.width / 2, y: this.size.height / 2 }]; state.active = 0; });
      return;
    }
    this.started = performance.now();
    change(() => {
      state.points = state.points.map((own, index) => (index === state.active ? { ...own, x: clamp(own.x + dx, this.size.width), y: clamp(own.y + dy, this.size.height) } : own));
      state.frame = state.points[state.active].frame;
    }, "move");
  }

  remove(index) {
    change(() => {
      state.points = state.points.filter((_, own) => own !== index);
      state.active = Math.max(0, Math.min(state.active, state.points.length - 1));
    });
  }

  pick(index) {
    change(() => { state.active = index; state.frame = state.points[index].frame; });
  }

  // ---- questions of panes to the page

  frame(frame) {
    return this.info.has_frames ? picture(this.info.name, frame).catch(() => null) : null;
  }

  /** The true track of a point, unless the point has moved since the request. */
  truthOf(index) {
    return this.truthFor && this.truthPoints?.[index] === JSON.stringify(state.points[index]) ? this.truth[index] : null;
  }

  errorAt(index, frame, xy) {
    const track = this.truthOf(index);
    if (!track || !track.visible[frame] || xy[0] === null) return null;
    return Math.hypot(xy[0] - track.xy[frame][0], xy[1] - track.xy[frame][1]);
  }

  later(index, task) {
    if (this.timers.has(index)) clearTimeout(this.timers.get(index));
    else busy(1);
    this.timers.set(index, setTimeout(() => { this.timers.delete(index); busy(-1); task(); }, 110));
  }

  /** Record when an overlay is on the screen, for the benchmark and the tests. */
  painted(started) {
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        document.documentElement.dataset.painted = String(Number(document.documentElement.dataset.painted || 0) + 1);
        if (started !== null && started === this.started) {
          performance.measure("difftrack:overlay", { start: started, end: performance.now() });
          this.started = null;
        }
      };
      channel.port2.postMessage(0);
    });
  }

  /** Marks of a frame in every view: the points themselves, the truth, other trackers, live tracks. */
  markFrame(context, frame, factor, unit, pane) {
    const { display, points } = state;
    points.forEach((point, index) => {
      if (display.others) for (const track of Object.values(this.others[index] || {})) if (track.visible[frame]) marks.other(context, track.xy[frame][0] * factor, track.xy[frame][1] * factor, unit * 0.9);
      const truth = this.truthOf(index);
      if (display.truth && truth && truth.visible[frame] && frame !== point.frame) marks.truth(context, truth.xy[frame][0] * factor, truth.xy[frame][1] * factor, unit);
      const track = pane?.tracking.on ? pane.tracking.tracks?.[index] : null;
      if (track && track.xy[frame] && frame !== point.frame) marks.track(context, track.xy[frame][0] * factor, track.xy[frame][1] * factor, unit * 0.95, index, track.visible[frame]);
      if (point.frame === frame) marks.point(context, point.x * factor, point.y * factor, unit, index, index === state.active);
    });
  }

  drawMarks() {
    this.drawSource();
    this.panes.forEach((pane) => (pane.answer ? pane.paint() : pane.store?.usable && pane.paintPlain()));
  }

  async drawSource() {
    const { canvas } = this;
    const image = await this.frame(state.frame);
    const factor = fit(canvas, this.size.width, this.size.height);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
    else { context.fillStyle = "#30353b"; context.fillRect(0, 0, canvas.width, canvas.height); }
    const unit = (canvas.width / Math.max(1, canvas.clientWidth)) * 5.2;
    state.points.forEach((point, index) => {
      if (state.display.others) for (const track of Object.values(this.others[index] || {})) trail(context, track.xy, track.visible, factor, OTHER, unit * 0.22);
      const truth = this.truthOf(index);
      if (state.display.truth && truth) trail(context, truth.xy, truth.visible, factor, TRUTH, unit * 0.3);
      const track = this.panes[0]?.tracking.on ? this.panes[0].tracking.tracks?.[index] : null;
      if (track) trail(context, track.xy, track.visible, factor, pointColor(index), unit * 0.42);
    });
    this.markFrame(context, state.frame, factor, unit, this.panes[0]);
  }

  // ---- showing the state

  update() {
    while (this.panes.length > state.panes.length) this.panes.pop();
    while (this.panes.length < state.panes.length) this.panes.push(new Pane(this, this.panes.length));
    if (this.shownPanes !== state.panes.length) {
      this.shownPanes = state.panes.length;
      this.paneRow.replaceChildren(...this.panes.map(({ element }) => element));
      this.element.classList.toggle("two", state.panes.length > 1);
    }
    state.frame = Math.min(state.frame, this.numFrames - 1);
    this.scrubber.value = state.frame;
    this.frameLabel.textContent = `${state.frame} / ${this.numFrames - 1}`;
    for (const each of this.layouts.children) each.setAttribute("aria-pressed", each.dataset.layout === state.layout);
    this.drawTicks();
    this.drawPoints();
    this.drawDisplay();
    this.drawSource();
    this.askTruth();
    this.panes.forEach((pane) => pane.update());
  }

  drawTicks() {
    const store = this.panes[0]?.store;
    const frames = store?.frames || [];
    const key = frames.join();
    if (this.tickKey === key) return;
    this.tickKey = key;
    this.ticks.replaceChildren(...(frames.length < this.numFrames ? frames : []).map((frame) => h("i", { style: { left: `${(100 * frame) / Math.max(1, this.numFrames - 1)}%` } })));
  }

  drawPoints() {
    const { points, active } = state;
    const point = points[active];
    this.place.textContent = point ? `Point ${active + 1}: x ${number(point.x, 1)}, y ${number(point.y, 1)}, frame ${point.frame}` : "Click a point in the frame. Shift-click adds another.";
    this.points.replaceChildren(...points.map((own, index) => h("span", { class: "point-chip", "aria-current": index === active },
      button("", () => this.pick(index), { class: "dot-button", "aria-label": `Point ${index + 1}, frame ${own.frame}`, "aria-pressed": index === active }),
      button("✕", () => this.remove(index), { class: "icon tiny", "aria-label": `Remove point ${index + 1}` }))));
    [...this.points.children].forEach((chip, index) => { chip.firstChild.style.background = pointColor(index); });
    if (points.length) this.points.append(button("+ add", () => { change(() => { state.points = [...state.points, { frame: state.frame, x: this.size.width / 2, y: this.size.height / 2 }]; state.active = state.points.length - 1; }); this.canvas.focus(); }, { class: "chip" }), button("clear", () => change(() => { state.points = []; state.active = 0; }), { class: "chip" }));
  }

  drawDisplay() {
    const { display } = state;
    const key = JSON.stringify([Object.keys(this.others).length, this.truth.some(Boolean), this.others.some((own) => Object.keys(own).length)]);
    const put = (name, group = "") => (value) => change(() => { state.display = { ...state.display, [name]: value }; }, group);
    if (this.displayFor !== key) {
      this.displayFor = key;
      const check = (name, text, disabled = false) => h("label", { class: "check" }, h("input", { type: "checkbox", "data-display": name, disabled, onchange: (event) => put(name)(event.target.checked) }), h("span", {}, text));
      const anyOther = this.others.some((own) => Object.keys(own).length);
      this.display.replaceChildren(
        h("label", { class: "field slider" }, h("span", {}, "Overlay", h("output", {})), h("input", { type: "range", min: 0, max: 1, step: 0.05, "data-display": "opacity", "aria-label": "Opacity of the overlay", oninput: (event) => put("opacity", "opacity")(Number(event.target.value)) })),
        h("div", { class: "row selects" }, labelled("Colours", select(display.map, MAPS, put("map"), { "data-display": "map" })), labelled("Best tokens", select(display.top, [1, 2, 3, 5, 10], (value) => put("top")(Number(value)), { "data-display": "top" }))),
        h("div", { class: "checks" }, check("log", "log scale"), check("smooth", "smooth"), check("own", "scale per frame"), check("truth", "true track"), check("others", "other trackers", !anyOther)),
        h("p", { class: "key quiet small" }, keyed("match", "match"), this.truth.some(Boolean) ? keyed("truth", "true position") : "", anyOther ? keyed("other", "other trackers") : "", keyed("track", "live track")));
      this.keyMarks();
    }
    for (const input of this.display.querySelectorAll("[data-display]")) {
      const value = display[input.dataset.display];
      if (input.type === "checkbox") input.checked = value;
      else input.value = String(value);
      if (input.dataset.display === "opacity") input.parentElement.querySelector("output").textContent = `${Math.round(100 * value)} %`;
    }
  }

  keyMarks() {
    for (const canvas of this.display.querySelectorAll("canvas")) {
      const context = canvas.getContext("2d");
      context.fillStyle = "#5b6672";
      context.fillRect(0, 0, 36, 36);
      marks[canvas.dataset.mark](context, 18, 18, 9, state.active, true);
    }
  }

  async askTruth() {
    const key = JSON.stringify(state.points);
    if (key === this.truthFor) return;
    this.truthFor = key;
    this.later("truth", () => during(this.loadTruth(key)));
  }

  async loadTruth(key) {
    const points = state.points.map(({ frame, x, y }) => [frame, x, y]);
    const asked = state.points.map((point) => JSON.stringify(point));
    try {
      const found = points.length ? await ask("tracks", { clip: this.info.name, points }) : { truth: [], others: [] };
      if (key !== this.truthFor) return;
      this.truthPoints = asked;
      this.truth = found.truth;
      this.others = found.others;
    } catch {
      this.truth = [];
      this.others = [];
    }
    this.drawDisplay();
    this.drawMarks();
    this.panes.forEach((pane) => pane.store?.usable && pane.showPanel());
  }

  play() {
    if (this.playing) {
      clearInterval(this.playing);
      this.playing = null;
    } else {
      this.playing = setInterval(() => change(() => { state.frame = (state.frame + 1) % this.numFrames; }, "frame"), 1000 / Math.min(24, this.info.fps || 8));
    }
    this.playButton.textContent = this.playing ? "❚❚" : "▶";
    this.playButton.setAttribute("aria-label", this.playing ? "Stop" : "Play");
  }

  close() {
    clearInterval(this.playing);
    this.timers.forEach((timer) => { clearTimeout(timer); busy(-1); });
    this.timers.clear();
    this.panes.forEach((pane) => pane.cells.abort?.abort());
  }
}

const clamp = (value, most) => Math.min(most, Math.max(0, value));
const keyed = (name, text) => h("span", { class: "keyed" }, h("canvas", { class: "key-mark", width: 36, height: 36, "data-mark": name, "aria-hidden": "true" }), text);

// ---- the bar

function drawBar() {
  const two = state.panes.length > 1;
  const tools = page ? [
    button("↶", undo, { class: "icon", "aria-label": "Undo", title: "Undo (u)", disabled: !canUndo() }),
    button("↷", redo, { class: "icon", "aria-label": "Redo", title: "Redo (Ctrl+Shift+Z)", disabled: !canRedo() }),
    button(two ? "One view" : "Compare", compare, { title: "Two views side by side (c)", "aria-pressed": two }),
    button("PNG", () => savePng(page), { title: "Save the pictures" }),
    button("CSV", () => saveCsv(page), { title: "Save the numbers" }),
    button("Link", () => copy(link(), "The link is in the clipboard; it reproduces this view."), { title: "Copy a link to this view" }),
  ] : [];
  const dark = document.documentElement.dataset.scheme === "dark";
  bar.replaceChildren(
    h("a", { class: "brand", href: "#", onclick: (event) => { event.preventDefault(); home(); } }, h("img", { src: "static/icon.svg", alt: "", width: 24, height: 24 }), h("span", {}, "DiffTrack"), h("span", { class: "quiet" }, "explorer")),
    page ? button([h("span", { "aria-hidden": "true" }, "←"), h("span", { class: "word" }, " Clips")], home, { class: "quiet-button", "aria-label": "Clips", title: "All clips (g)" }) : "",
    h("div", { class: "spacer" }), ...tools,
    button(dark ? "☀" : "☾", () => { const own = dark ? "light" : "dark"; localStorage.setItem("difftrack-theme", own); if (page) change(() => { state.theme = ""; }); useTheme(); drawBar(); }, { class: "icon", "aria-label": dark ? "Light colours" : "Dark colours", title: "Light or dark" }),
    button("?", help, { class: "icon", "aria-label": "Keyboard help", title: "Keyboard (?)" }));
}

function useTheme() {
  const wanted = state.theme || localStorage.getItem("difftrack-theme") || "";
  const dark = wanted ? wanted === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.scheme = dark ? "dark" : "light";
}

function compare() {
  change(() => {
    if (state.panes.length > 1) { state.panes = [state.panes[0]]; return; }
    const own = state.panes[0];
    const store = page.info.stores.find(({ name }) => name === own.store);
    const other = page.info.stores.find(({ usable, backbone, name }) => usable && name !== own.store && backbone !== store?.backbone);
    const step = store?.steps?.find((each) => each !== own.step);
    const second = other ? { ...own, store: other.name } : step !== undefined ? { ...own, step: store.steps[0] === own.step ? step : store.steps[0] } : own;
    state.panes = [own, freshLens(second)];
  });
}

let returnFocus = null;
function help() {
  let dialog = document.getElementById("help");
  if (!dialog) {
    dialog = h("dialog", { id: "help", "aria-labelledby": "help-title" }, h("h2", { id: "help-title" }, "Keyboard"),
      h("table", {}, h("tbody", {}, KEYS.map(([keys, what]) => h("tr", {}, h("th", { scope: "row" }, ...keys.map((key) => h("kbd", {}, key))), h("td", {}, what))))), button("Close", () => dialog.close(), { class: "primary" }));
    dialog.addEventListener("close", () => returnFocus?.focus?.());
    document.body.append(dialog);
  }
  returnFocus = document.activeElement;
  dialog.showModal();
}

// ---- keyboard

function onKey(event) {
  const typing = event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea, dialog[open]");
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    if (typing) return;
    event.preventDefault();
    (event.shiftKey ? redo : undo)();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  if (event.key === "?") { event.preventDefault(); help(); return; }
  if (!page) return;
  const act = action(event);
  if (!act) return;
  event.preventDefault();
  act();
}

function action(event) {
  const by = event.shiftKey ? 10 : 1;
  const onControl = event.target.closest("input, button, [role=tab], summary, a") !== null;
  const arrows = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
  if (arrows) return onControl && event.target !== page.canvas ? null : () => page.move(...arrows);
  if (event.key === " ") return onControl ? null : () => page.play();
  const along = (name, list, step) => () => {
    const lens = state.panes[0];
    const values = page.panes[0]?.store?.[list] || [];
    const next = values[values.indexOf(lens[name]) + step];
    if (next !== undefined) { page.started = performance.now(); page.panes[0].edit({ [name]: next }, name); }
  };
  const count = state.points.length;
  const show = (layout) => () => change(() => { state.layout = layout; });
  const toggle = (name) => () => change(() => { state.display = { ...state.display, [name]: !state.display[name] }; });
  return {
    "[": along("layer", "layers", -1), "]": along("layer", "layers", 1), ";": along("step", "steps", -1), "'": along("step", "steps", 1),
    ",": () => change(() => { state.frame = Math.max(0, state.frame - 1); }, "frame"), ".": () => change(() => { state.frame = Math.min(page.numFrames - 1, state.frame + 1); }, "frame"),
    n: () => count && page.pick((state.active + 1) % count), p: () => count && page.pick((state.active + count - 1) % count),
    Delete: () => count && page.remove(state.active), Backspace: () => count && page.remove(state.active),
    1: show("frames"), 2: show("heads"), 3: show("layers"), 4: show("steps"), l: toggle("log"), t: toggle("truth"), c: compare, u: undo, g: home,
  }[event.key];
}

// ---- going from page to page

async function reload() {
  library = await getJson("library");
}

function home() {
  change(() => { Object.assign(state, { clip: "", points: [], active: 0, frame: 0, target: null, panes: [] }); });
}

function openClip(name) {
  change(() => { Object.assign(state, { clip: name, points: [], active: 0, frame: 0, target: null, panes: [] }); });
}

let shown = "";
let opening = 0;
async function render() {
  useTheme();
  if (!state.clip) {
    page?.close();
    page = null;
    shown = "";
    document.title = "DiffTrack explorer";
    gallery(main, library, openClip, reload);
    drawBar();
    return;
  }
  if (shown === state.clip && page) { page.update(); drawBar(); return; }
  shown = state.clip;
  opening += 1;
  const ticket = opening;
  let info;
  try {
    info = await getJson(`clip?clip=${encodeURIComponent(state.clip)}`);
  } catch (error) {
    if (ticket !== opening) return;
    page = null;
    shown = "";
    main.replaceChildren(h("p", { class: "problem pad", role: "alert" }, error.message), button("All clips", home));
    drawBar();
    return;
  }
  if (ticket !== opening) return;
  page?.close();
  page = new ClipPage(info);
  document.title = `${info.name} – DiffTrack explorer`;
  if (!state.panes.length) {
    const lens = firstLens(info) || freshLens({ store: info.stores[0]?.name || "" });
    state.panes = [lens];
  }
  main.replaceChildren(page.element);
  page.update();
  drawBar();
  window.scrollTo(0, 0);
}

async function start() {
  const token = begin(location.hash);
  useToken(token);
  if (currentToken() && !token) begin(`#token=${encodeURIComponent(currentToken())}&${location.hash.replace(/^#/, "")}`);
  useTheme();
  try {
    await reload();
  } catch (error) {
    main.replaceChildren(h("p", { class: "problem pad", role: "alert" }, error.message));
    if (error instanceof Refusal && error.status === 0) onRecovery(start);
    return;
  }
  onChange(render);
  onRecovery(async () => { forgetPictures(); await reload(); shown = ""; render(); });
  addEventListener("keydown", onKey);
  addEventListener("hashchange", () => follow(location.hash));
  addEventListener("resize", () => page?.drawMarks());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { useTheme(); drawBar(); });
  render();
}

start();
