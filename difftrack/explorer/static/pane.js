// One view: a store through one lens, its frames with the match probabilities, and the panels below.

import { Newest, ask, askLines } from "./api.js";
import { DECADES, colorOf } from "./colors.js";
import { button, h, labelled, number, power, select, stepper } from "./dom.js";
import { fit, legend as paintLegend, marks, paintOverlay, picture } from "./draw.js";
import { change, freshLens, state } from "./state.js";
import { TrackPanel } from "./tracking.js";


/** Products of a full match between all frames beyond which the page does not ask for both directions by itself. */
const COSTLY = 3e9;

export const KINDS = {
  query_key: "query – key", query_query: "query – query", key_key: "key – key", value: "value", feature: "feature",
  query_key_pre_rotary: "query – key, unrotated", query_query_pre_rotary: "query – query, unrotated", key_key_pre_rotary: "key – key, unrotated",
};
/** Names of two of them in addresses of earlier versions. */
const FORMER = { query: "query_query", key: "key_key" };
const AXES = { temporal: "time", vertical: "rows", horizontal: "columns" };
const DIRECTIONS = [["both", "both ways"], ["forward", "forward"], ["back", "back"]];
export const MEASURES = { error: "error, px", cycle: "cycle error, px", margin: "margin", entropy: "entropy", probability: "probability" };
const LOWER_IS_BETTER = new Set(["error", "cycle", "entropy"]);
const TABS = { map: "Layer × step", heads: "Head × layer", attention: "Attention", tracks: "Tracking", table: "Numbers" };

/** The first lens of a clip: the last step and a late layer of an analysis view if there is one. */
export function firstLens(info) {
  const usable = info.stores.filter((store) => store.usable);
  const store = usable.find(({ view }) => view === "analysis") || usable[0];
  return store ? fitted(freshLens({ store: store.name, step: store.steps.at(-1), layer: store.layers[Math.floor(0.8 * (store.layers.length - 1))], direction: store.products > COSTLY ? "forward" : "both" }), store) : null;
}

const nearest = (value, values) => values.reduce((best, own) => (Math.abs(own - value) < Math.abs(best - value) ? own : best), values[0]);

/** Restrict a lens to the contents of a store. */
export function fitted(lens, store) {
  const heads = lens.heads === "all" ? "all" : lens.heads.filter((head) => store.heads.includes(head));
  const kept = heads === "all" || heads.length ? heads : "all";
  return {
    ...lens, store: store.name, step: nearest(lens.step, store.steps), layer: nearest(lens.layer, store.layers),
    kind: [lens.kind, FORMER[lens.kind], store.kinds[0]].find((own) => store.kinds.includes(own)), heads: kept,
    frequencies: store.rotary ? lens.frequencies : {},
    weights: lens.weights && kept !== "all" && kept.length === lens.weights.length ? lens.weights : null,
  };
}

export class Pane {
  constructor(page, index) {
    this.page = page;
    this.index = index;
    this.newest = new Newest();
    this.answer = null;
    this.more = new Map();
    this.cells = { key: "", values: new Map(), abort: null };
    this.tracking = new TrackPanel(this);
    this.built = "";
    this.head = h("div", { class: "pane-head" });
    this.controls = h("div", { class: "controls" });
    this.message = h("p", { class: "problem", role: "alert", hidden: true });
    this.tiles = h("div", { class: "tiles", role: "group" });
    this.scale = h("div", { class: "legend" });
    this.tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Panels" });
    this.panel = h("div", { class: "panel", role: "tabpanel", tabindex: 0 });
    this.element = h("section", { class: "pane", "aria-label": `View ${index + 1}` }, this.head, this.controls, this.message, this.tiles, this.scale, this.tabs, this.panel);
  }

  get lens() { return state.panes[this.index]; }
  get store() { return this.page.info.stores.find(({ name }) => name === this.lens.store); }
  get point() { return state.points[state.active]; }

  edit(edit, key = "") {
    change(() => { state.panes[this.index] = { ...this.lens, ...edit }; }, key && `${key}${this.index}`);
  }

  question(point = this.point, more = {}) {
    return { lens: { clip: state.clip, ...this.lens }, point: [point.frame, point.x, point.y], ...more };
  }

  update() {
    if (!this.store || !this.store.usable) {
      this.drawHead();
      this.controls.replaceChildren();
      this.say(this.store ? this.store.problems.map(({ unit, error }) => `${unit}: ${error}`).join("\n") : `There is no store ${this.lens.store} of this clip.`);
      this.built = "";
      this.laid = "";
      this.tiles.replaceChildren();
      return;
    }
    const lens = fitted(this.lens, this.store);
    if (JSON.stringify(lens) !== JSON.stringify(this.lens)) state.panes[this.index] = lens;
    this.build();
    this.show();
    this.ask();
  }

  // ---- controls

  drawHead() {
    const stores = this.page.info.stores.map(({ name, usable, problems }) => [name, `${name}${usable ? (problems.length ? " (damaged in part)" : "") : " (damaged)"}`]);
    this.head.replaceChildren(
      h("span", { class: "pane-number", "aria-hidden": "true" }, state.panes.length > 1 ? "AB"[this.index] : ""),
      select(this.lens.store, stores, (name) => {
        const store = this.page.info.stores.find((own) => own.name === name);
        const costly = store.usable && store.products > COSTLY;
        change(() => { state.panes[this.index] = store.usable ? fitted({ ...this.lens, direction: costly ? "forward" : this.lens.direction }, store) : { ...this.lens, store: name }; });
      }, { "aria-label": "Store", class: "store" }),
      state.panes.length > 1 ? button("✕", () => change(() => { state.panes.splice(this.index, 1); }), { class: "icon", "aria-label": `Close view ${"AB"[this.index]}` }) : "",
    );
  }

  build() {
    const key = [this.lens.store, state.panes.length, this.page.info.name].join("|");
    if (key === this.built) return;
    this.built = key;
    const { steps, timesteps, layers, heads, kinds } = this.store;
    this.drawHead();
    this.stepSlider = stepper("Step", this.lens.step, steps, (step) => this.edit({ step }, "step"), (step) => `${step} (t = ${Math.round(timesteps[steps.indexOf(step)])})`);
    this.layerSlider = stepper("Layer", this.lens.layer, layers, (layer) => this.edit({ layer }, "layer"));
    this.headRow = h("div", { class: "heads", role: "group", "aria-label": "Heads" },
      button("mean of all", () => this.edit({ heads: "all", weights: null }), { class: "chip", "data-head": "all" }),
      heads.map((head) => button(String(head), () => this.toggleHead(head), { class: "chip", "data-head": head, "aria-label": `Head ${head}` })),
      button("weights", () => this.toggleWeights(), { class: "chip quiet", "data-head": "weights", title: "Weigh the chosen heads" }));
    this.weightRow = h("div", { class: "weights", hidden: true });
    const kind = select(this.lens.kind, kinds.map((own) => [own, KINDS[own]]), (own) => this.edit({ kind: own }));
    const direction = select(this.lens.direction, DIRECTIONS, (own) => this.edit({ direction: own }));
    const temperature = h("input", { type: "text", size: 8, value: String(this.lens.temperature), list: "temperatures", "aria-label": "Temperature", onchange: (event) => this.setTemperature(event.target) });
    const window = select(this.lens.window, [[0, "best token"], [1, "3 × 3 mean"], [2, "5 × 5 mean"], [3, "7 × 7 mean"]], (own) => this.edit({ window: Number(own) }));
    const convention = select(this.lens.convention, ["corrected", "released"], (own) => this.edit({ convention: own }));
    this.selects = { kind, direction, window, convention };
    this.bands = Object.fromEntries(Object.keys(AXES).map((axis) => [axis, h("input", { type: "text", size: 6, "aria-label": `Frequencies of ${AXES[axis]}`, onchange: (event) => this.setBand(axis, event.target) })]));
    this.temperature = temperature;
    this.controls.replaceChildren(
      h("div", { class: "row" }, this.layerSlider, this.stepSlider),
      this.headRow, this.weightRow,
      h("div", { class: "row selects" },
        labelled("Kind", kind), labelled("Direction", direction, { hint: "Softmax from the source over the target's tokens, from the target over the source's, or the mean of both" }),
        labelled("Temperature", temperature, { hint: "root_channel, root_heads or a number" }),
        labelled("Position", window, { hint: "The best token, or a mean of the window around it, weighted by probability" }),
        labelled("Convention", convention)),
      this.store.rotary ? h("div", { class: "row selects" }, Object.entries(AXES).map(([axis, name]) => labelled(`Frequencies of ${name}`, this.bands[axis],
        { hint: "Rotary frequencies of queries and keys that take part, from-to in shares: 0 is the fastest, 1 past the slowest" }))) : "",
    );
    this.tabs.replaceChildren(...Object.entries(TABS).map(([tab, text]) => button(text, () => change(() => { state.tab = tab; }), {
      role: "tab", "data-tab": tab, "aria-selected": "false",
      onkeydown: (event) => {
        const names = Object.keys(TABS);
        const at = names.indexOf(tab) + ({ ArrowRight: 1, ArrowLeft: -1 }[event.key] || 0);
        if (at === names.indexOf(tab)) return;
        event.preventDefault();
        event.stopPropagation();
        const next = names[(at + names.length) % names.length];
        change(() => { state.tab = next; });
        this.tabs.querySelector(`[data-tab="${next}"]`).focus();
      },
    })));
    this.shownPanel = "";
  }

  show() {
    const { lens } = this;
    this.stepSlider.slider.show(lens.step);
    this.layerSlider.slider.show(lens.layer);
    for (const [name, element] of Object.entries(this.selects)) element.value = String(lens[name]);
    this.temperature.value = String(lens.temperature);
    for (const [axis, element] of Object.entries(this.bands)) element.value = (lens.frequencies[axis] || [0, 1]).join("–");
    for (const chip of this.headRow.children) {
      const { head } = chip.dataset;
      const on = head === "all" ? lens.heads === "all" : head === "weights" ? !!lens.weights : lens.heads !== "all" && lens.heads.includes(Number(head));
      chip.setAttribute("aria-pressed", on);
      if (head === "weights") chip.hidden = lens.heads === "all" || lens.heads.length < 2;
    }
    this.weightRow.hidden = !lens.weights;
    if (lens.weights && this.weightRow.dataset.heads !== String(lens.heads)) {
      this.weightRow.dataset.heads = String(lens.heads);
      this.weightRow.replaceChildren(...lens.heads.map((head, at) => labelled(`Head ${head}`, h("input", {
        type: "range", min: 0, max: 1, step: 0.05, value: lens.weights[at],
        oninput: (event) => this.edit({ weights: this.lens.weights.map((own, index) => (index === at ? Number(event.target.value) : own)) }, `weight${head}`),
      }))));
    }
    for (const tab of this.tabs.children) {
      const on = tab.dataset.tab === state.tab;
      tab.setAttribute("aria-selected", on);
      tab.tabIndex = on ? 0 : -1;
      if (!on) continue;
      this.panel.setAttribute("aria-label", tab.textContent);
      requestAnimationFrame(() => {  // on a narrow page the row of tabs scrolls; the chosen one is to be seen
        const row = this.tabs, left = tab.offsetLeft - row.offsetLeft, right = left + tab.offsetWidth;
        if (left < row.scrollLeft || right > row.scrollLeft + row.clientWidth) row.scrollLeft = left - (row.clientWidth - tab.offsetWidth) / 2;
      });
    }
  }

  toggleHead(head) {
    const { heads } = this.lens;
    if (heads === "all") return this.edit({ heads: [head], weights: null });
    const chosen = heads.includes(head) ? heads.filter((own) => own !== head) : [...heads, head].sort((a, b) => a - b);
    return this.edit({ heads: chosen.length ? chosen : "all", weights: null });
  }

  toggleWeights() {
    this.edit({ weights: this.lens.weights ? null : this.lens.heads.map(() => 1) });
  }

  setTemperature(input) {
    const text = input.value.trim();
    const value = ["root_channel", "root_heads"].includes(text) ? text : Number(text);
    const right = typeof value === "string" || (Number.isFinite(value) && value > 0);
    input.setAttribute("aria-invalid", !right);
    if (right) this.edit({ temperature: value });
  }

  setBand(axis, input) {
    const [, from, to] = input.value.trim().match(/^([\d.]+)\s*[-–]\s*([\d.]+)$/) || [];
    const band = [Number(from), Number(to)];
    const right = from !== undefined && band.every(Number.isFinite) && band[0] >= 0 && band[0] <= band[1] && band[1] <= 1;
    input.setAttribute("aria-invalid", !right);
    if (right) this.edit({ frequencies: { ...this.lens.frequencies, [axis]: band } });
  }

  say(text) {
    this.message.textContent = text || "";
    this.message.hidden = !text;
  }

  // ---- matches

  ask() {
    if (!this.point) {
      this.answer = null;
      this.say("");
      this.paintPlain();
      this.showPanel();
      return;
    }
    this.newest.run(() => this.answerNow());
  }

  async answerNow() {
    const { point } = this;
    if (!point || !this.store) return;
    const layout = state.layout;
    const started = this.page.started;
    try {
      let answer;
      if (layout === "frames") {
        answer = await ask("match", this.question(point, { top_k: state.display.top }));
      } else {
        const target = this.target(point);
        if (target === null) throw new Error("there is no other frame");
        answer = await ask("maps", this.question(point, { target, axis: layout.slice(0, -1) }));
      }
      this.answer = { ...answer, layout, lens: this.lens, point };
      this.say(this.store.problems.length ? this.store.problems.map(({ unit, error }) => `Damaged and left out: ${unit}: ${error}`).join("\n") : "");
      await this.paint();
      this.page.painted(started);
    } catch (error) {
      this.answer = null;
      this.say(error.message);
      this.laid = "";
      this.tiles.replaceChildren();
      this.scale.replaceChildren();
    }
    this.page.later(this.index, () => this.askMore());
  }

  target(point) {
    const frames = this.framesWith(point).filter((frame) => frame !== point.frame);
    if (!frames.length) return null;
    return state.target !== null && frames.includes(state.target) ? state.target : nearest(state.target ?? frames[Math.floor(frames.length / 2)], frames);
  }

  framesWith(point) {
    const found = new Set(this.store.chunks.filter((chunk) => chunk.includes(point.frame)).flat());
    return [...found].sort((a, b) => a - b);
  }

  /** Requests that cost more than the picture: other points, cycle errors, the open panel. */
  async askMore() {
    const { point } = this;
    if (!point || !this.store || !this.answer) return this.showPanel();
    const { direction } = this.lens;
    const asked = state.points.map((own, index) => [own, index]).filter(([, index]) => index !== state.active);
    this.more.clear();
    this.cycle = null;
    const tasks = asked.map(async ([own, index]) => { this.more.set(index, await ask("match", this.question(own, { maps: false }))); });
    if (state.layout === "frames" && direction !== "back" && (direction === "forward" || this.store.products < COSTLY)) {
      const lens = this.lens;
      tasks.push(ask("match", this.question(point, { maps: false, cycle: true })).then((found) => { if (this.lens === lens) this.cycle = found; }));
    }
    this.showPanel();
    await Promise.allSettled(tasks);
    if (this.answer) await this.paint();
    if (state.tab === "table") this.showPanel();
    return undefined;
  }

  // ---- pictures

  paintPlain() {
    const frames = this.store.frames;
    this.layTiles(frames.map((frame) => ({ key: `plain${frame}`, frame, caption: `frame ${frame}`, label: `Frame ${frame}` })), true);
    this.scale.replaceChildren();
    for (const tile of this.tiles.children) this.drawTile(tile, null);
  }

  async paint() {
    const { answer } = this;
    const { layout, point } = answer;
    const shown = this.shown(answer);
    this.layTiles(shown, false);
    const { display } = state;
    const full = Math.max(...answer.largest, 1e-12);
    this.full = full;
    const [, rows, cols] = answer.arrays.maps.shape;
    await Promise.all([...this.tiles.children].map((tile, at) => this.drawTile(tile, {
      data: answer.arrays.maps.data.subarray(at * rows * cols, (at + 1) * rows * cols), rows, cols, largest: answer.largest[at], full: display.own ? answer.largest[at] : full, display,
      match: layout === "frames" ? answer.matches[at] : answer.cells[at], point,
    })));
    this.drawLegend(full, display);
  }

  shown(answer) {
    if (answer.layout === "frames") {
      return answer.frames.map((frame, at) => {
        const match = answer.matches[at];
        const facts = [`p ${number(match.probability, match.probability < 0.095 ? 3 : 2)}`];
        const error = this.page.errorAt(state.active, frame, match.xy);
        if (error !== null) facts.push(`error ${number(error, 1)} px`);
        else if (this.cycle && this.cycle.matches[at]) facts.push(`cycle ${number(this.cycle.matches[at].cycle, 1)} px`);
        const label = `Frame ${frame}: match at x ${number(match.xy[0], 1)}, y ${number(match.xy[1], 1)}, probability ${number(match.probability, 3)}, margin ${number(match.margin, 3)}`;
        return { key: `frame${frame}`, frame, caption: `frame ${frame}`, facts: facts.join(" · "), label, chosen: state.target === frame, run: () => change(() => { state.target = state.target === frame ? null : frame; }) };
      });
    }
    const axis = answer.axis;
    const target = this.target(answer.point);
    return answer.cells.map((cell) => {
      const error = cell.error ? null : this.page.errorAt(state.active, target, cell.xy);
      const now = axis === "head" ? answer.lens.heads !== "all" && answer.lens.heads.length === 1 && answer.lens.heads[0] === cell.label : answer.lens[axis] === cell.label;
      return {
        key: `${axis}${cell.label}`, frame: target, caption: `${axis} ${cell.label}`, chosen: now,
        facts: cell.error ? "damaged" : error !== null ? `${number(error, 1)} px` : `p ${number(cell.probability, 2)}`,
        label: cell.error ? `${axis} ${cell.label}: ${cell.error}` : `Look at ${axis} ${cell.label}`,
        run: () => change(() => {
          state.panes[this.index] = { ...this.lens, ...(axis === "head" ? { heads: [cell.label], weights: null } : { [axis]: cell.label }) };
          state.layout = "frames";
        }),
      };
    });
  }

  layTiles(shown, plain) {
    const key = shown.map((tile) => tile.key).join();
    if (this.laid !== key) {
      this.laid = key;
      this.tiles.dataset.count = shown.length;
      this.tiles.classList.toggle("many", shown.length > 12);
      this.tiles.replaceChildren(...shown.map(() => h("button", { type: "button", class: "tile" }, h("canvas", { "aria-hidden": "true" }), h("span", { class: "caption" }), h("span", { class: "facts" }), h("span", { class: "offscreen" }))));
    }
    shown.forEach((tile, at) => {
      const element = this.tiles.children[at];
      element.frame = tile.frame;
      element.children[3].textContent = tile.label;
      element.setAttribute("aria-pressed", !!tile.chosen);
      element.onclick = plain ? () => change(() => { state.frame = tile.frame; }) : tile.run;
      element.children[1].textContent = tile.caption;
      element.children[2].textContent = tile.facts || "";
    });
  }

  async drawTile(tile, found) {
    const canvas = tile.firstChild;
    const { width, height } = this.page.size;
    const frame = tile.frame;
    const image = await this.page.frame(frame);
    const factor = fit(canvas, width, height);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
    else { context.fillStyle = "#30353b"; context.fillRect(0, 0, canvas.width, canvas.height); }
    const unit = Math.max(4, (canvas.width / Math.max(90, canvas.clientWidth)) * 4.4);
    if (found && !found.match.error) paintOverlay(context, found);
    this.page.markFrame(context, frame, factor, unit, this);
    if (!found || found.match.error) return;
    const own = found.match.xy;
    if (found.match.top) for (const top of found.match.top.slice(1)) marks.top(context, top.xy[0] * factor, top.xy[1] * factor, unit, state.active);
    if (own[0] !== null) marks.match(context, own[0] * factor, own[1] * factor, unit, state.active, true);
    for (const [index, answer] of state.layout === "frames" ? this.more : []) {
      const match = answer.matches.find((each) => each.frame === frame);
      if (match && match.xy[0] !== null) marks.match(context, match.xy[0] * factor, match.xy[1] * factor, unit, index, false);
    }
  }

  drawLegend(full, display) {
    const canvas = h("canvas", { class: "ramp", "aria-hidden": "true" });
    paintLegend(canvas, display);
    const low = display.own ? (display.log ? `${10 ** -DECADES}` : "0") : display.log ? (full / 10 ** DECADES).toExponential(0) : "0";
    const high = display.own ? "1" : full >= 0.01 ? full.toFixed(2) : full.toExponential(1);
    const what = display.own ? "match probability, share of the largest in its frame" : "match probability";
    this.scale.replaceChildren(h("span", {}, low), canvas, h("span", {}, high), h("span", { class: "quiet" }, `${what}${display.log ? ", log" : ""}`));
  }

  // ---- panels

  showPanel() {
    const tab = state.tab;
    if (tab === "tracks") this.tracking.show(this.panel);
    else if (!this.point) this.panel.replaceChildren(h("p", { class: "quiet" }, "Click a point in the source frame first."));
    else if (tab === "map" || tab === "heads") this.showCells(tab === "map" ? "layer_step" : "head_layer");
    else if (tab === "attention") this.showAttention();
    else this.showTable();
    this.shownPanel = tab;
  }

  measure() {
    const known = this.page.truth[state.active];
    if (state.measure && (state.measure !== "error" || known)) return state.measure;
    return known ? "error" : "margin";
  }

  async showCells(axes) {
    const measure = this.measure();
    const { lens, point } = this;
    const asked = { ...lens, ...(axes === "layer_step" ? { step: 0, layer: 0 } : { layer: 0, heads: "all", weights: null }) };
    const key = JSON.stringify([state.clip, asked, point, axes, measure]);
    const grid = () => this.drawCells(axes, measure);
    if (this.cells.key === key) { grid(); return; }
    if (this.cells.abort) this.cells.abort.abort();
    const abort = new AbortController();
    this.cells = { key, values: new Map(), abort, axes, failed: "" };
    grid();
    const first = { ...lens };
    if (axes === "layer_step") Object.assign(first, { layer: this.store.layers[0] });
    let drawn = 0;
    try {
      await askLines("cells", { lens: { clip: state.clip, ...first }, point: [point.frame, point.x, point.y], axes, measure }, (cell) => {
        if (this.cells.key !== key) return;
        this.cells.values.set(axes === "layer_step" ? `${cell.layer},${cell.step}` : `${cell.head},${cell.layer}`, cell);
        if (performance.now() - drawn > 80) { drawn = performance.now(); grid(); }
      }, abort.signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (this.cells.key === key) this.cells.failed = error.message;
    }
    if (this.cells.key === key && this.panel.isConnected && (state.tab === "map" || state.tab === "heads")) { this.cells.done = true; grid(); }
  }

  drawCells(axes, measure) {
    if (!["map", "heads"].includes(state.tab) || this.cells.axes !== axes) return;
    const [rows, cols, rowName, colName] = axes === "layer_step" ? [this.store.layers, this.store.steps, "layer", "step"] : [this.store.heads, this.store.layers, "head", "layer"];
    const id = [axes, rows, cols, this.lens.store, measure, !!this.page.truth[state.active]].join("|");
    const frame = state.target;
    if (this.panel.dataset.id !== id || !this.grid || !this.grid.isConnected) {
      this.panel.dataset.id = id;
      const measures = Object.entries(MEASURES).filter(([name]) => name !== "error" || this.page.truth[state.active]);
      this.cellNote = h("p", { class: "quiet small", role: "status" });
      this.grid = h("div", { class: "cells", role: "group", "aria-label": `${TABS[state.tab]}: ${MEASURES[measure]}` });
      this.grid.style.gridTemplateColumns = `auto repeat(${cols.length}, minmax(${cols.length > 24 ? 9 : 26}px, 1fr))`;
      this.grid.append(h("span", { class: "corner" }, `${rowName} ↓  ${colName} →`), ...cols.map((col) => h("span", { class: "axis" }, String(col))));
      for (const row of [...rows].reverse()) {
        this.grid.append(h("span", { class: "axis row-name" }, String(row)));
        for (const col of cols) {
          this.grid.append(h("button", { type: "button", class: "cell", "data-at": `${row},${col}`, tabindex: -1, onclick: () => this.chooseCell(axes, row, col) }));
        }
      }
      this.grid.addEventListener("keydown", (event) => moveInGrid(event, this.grid, cols.length));
      this.panel.replaceChildren(h("div", { class: "row selects" }, labelled("Measure", select(measure, measures, (own) => change(() => { state.measure = own; })))), h("div", { class: "scroll" }, this.grid), this.cellNote);
    }
    const values = new Map([...this.cells.values].map(([at, cell]) => [at, cell.error ? null : overFrames(cell.values, frame)]));
    const finite = [...values.values()].filter((value) => value !== null && Number.isFinite(value));
    const [low, high] = [Math.min(...finite), Math.max(...finite)];
    const lower = LOWER_IS_BETTER.has(measure);
    const best = finite.length ? (lower ? low : high) : null;
    const now = axes === "layer_step" ? `${this.lens.layer},${this.lens.step}` : this.lens.heads !== "all" && this.lens.heads.length === 1 ? `${this.lens.heads[0]},${this.lens.layer}` : "";
    let bestAt = "";
    for (const cell of this.grid.querySelectorAll(".cell")) {
      const { at } = cell.dataset;
      const value = values.get(at);
      const [row, col] = at.split(",");
      const broken = this.cells.values.get(at)?.error;
      const text = value === undefined ? "" : value === null || !Number.isFinite(value) ? "—" : value.toFixed(measure === "error" || measure === "cycle" ? 1 : 2);
      cell.textContent = cols.length > 24 ? "" : broken ? "✕" : text;
      cell.title = broken || `${rowName} ${row}, ${colName} ${col}: ${text || "…"}`;
      cell.setAttribute("aria-label", broken ? `${rowName} ${row}, ${colName} ${col}: damaged: ${broken}` : `${rowName} ${row}, ${colName} ${col}: ${text || "not yet known"}`);
      cell.setAttribute("aria-pressed", at === now);
      cell.classList.toggle("broken", !!broken);
      cell.classList.toggle("best", value !== undefined && value !== null && value === best);
      if (value !== undefined && value !== null && value === best) bestAt = at;
      if (value === undefined || value === null || !Number.isFinite(value)) { cell.style.background = ""; cell.style.color = ""; continue; }
      const share = high > low ? (value - low) / (high - low) : 1;
      const { background, ink } = colorOf(lower ? 1 - share : share, "viridis");
      cell.style.background = background;
      cell.style.color = ink;
    }
    const focus = this.grid.querySelector(`.cell[data-at="${now}"]`) || this.grid.querySelector(".cell");
    if (focus && !this.grid.querySelector('.cell[tabindex="0"]')) focus.tabIndex = 0;
    const where = frame !== null ? `in frame ${frame}` : "mean over frames";
    const [bestRow, bestCol] = bestAt.split(",");
    this.cellNote.textContent = this.cells.failed || (bestAt && this.cells.done ? `${MEASURES[measure]}, ${where}; best: ${rowName} ${bestRow}, ${colName} ${bestCol}. Choose a frame above to see it alone.` : `${MEASURES[measure]}, ${where}; ${this.cells.values.size} of ${rows.length * cols.length} cells …`);
    this.panel.dataset.done = !!this.cells.done;
  }

  chooseCell(axes, row, col) {
    if (axes === "layer_step") this.edit({ layer: row, step: col });
    else this.edit({ heads: [row], weights: null, layer: col });
  }

  async showAttention() {
    delete this.panel.dataset.id;
    let found;
    try {
      found = await ask("attention", this.question());
    } catch (error) {
      this.panel.replaceChildren(h("p", { class: "problem" }, error.message));
      return;
    }
    if (state.tab !== "attention") return;
    const percent = (value) => `${value > 0 && value < 0.0001 ? power(100 * value) : (100 * value).toFixed(value < 0.0995 ? 2 : 1)} %`;
    const bars = (rows, most) => h("table", { class: "bars" }, h("tbody", {}, rows.map(([name, value, mark]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "bar" }, h("span", { class: mark || "", style: { width: `${100 * (most ? value / most : 0)}%` } })), h("td", { class: "figure" }, percent(value))))));
    const parts = [["own frame", found.own, "own"], ["other frames", found.others], ...(found.text === null ? [] : [["text", found.text, "text"]])];
    const frames = found.frames.map(({ frame, mass }) => [`frame ${frame}`, mass, frame === this.point.frame ? "own" : ""]);
    const words = wordsByMass(found.words || []);
    this.panel.replaceChildren(h("div", { class: "columns" },
      h("div", {}, h("h3", {}, "Where the attention goes"), bars(parts, 1)),
      h("div", {}, h("h3", {}, "By frame"), bars(frames, Math.max(...frames.map(([, mass]) => mass)))),
      found.words ? h("div", {}, h("h3", {}, "Words by mass"), bars(words.map(([name, ...rest]) => [this.wordButton(name), ...rest]), Math.max(...words.map(([, mass]) => mass), 1e-12))) : h("p", { class: "quiet" }, "Keys of the text are not stored."),
    ), found.words ? labelled("Map of a word or phrase", h("input", { type: "search", class: "phrase", value: this.word || "", placeholder: "such as red disc", onchange: (event) => { if (event.target.value.trim()) this.showWord(event.target.value.trim()); } })) : "", this.wordMaps = h("div", { class: "word-maps", "aria-live": "polite" }), h("p", { class: "quiet small" }, "The model's own softmax over all tokens of video and text, of the token nearest to the point; mean over the chosen heads. Weights of heads, temperature and kind do not apply. Choose a word to see where it is."));
    if (found.words && this.word) this.showWord(this.word);
  }

  /** A word of the prompt as a button that shows its map; other tokens stay text. */
  wordButton(name) {
    if (!/^[\p{L}\p{N}]/u.test(name) || /^padding ×|^token \d+$/u.test(name)) return name;
    return h("button", { type: "button", class: "word", "aria-pressed": this.word === name, title: `Which part of the clip “${name}” stands for, in this layer at this step`, onclick: () => this.showWord(name) }, name);
  }

  /** The attention that every token pays to a word, over the frames: small pictures on one scale. */
  async showWord(word) {
    this.word = word;
    const place = this.wordMaps;
    for (const button of this.panel.querySelectorAll("button.word")) button.setAttribute("aria-pressed", button.textContent === word);
    let found;
    try {
      found = await ask("word", { lens: { clip: state.clip, ...this.lens }, word });
    } catch (error) {
      place.replaceChildren(h("p", { class: "problem" }, error.message));
      return;
    }
    if (this.word !== word || !place.isConnected) return;
    const { data, shape: [, rows, cols] } = found.arrays.maps;
    const full = Math.max(...found.largest);
    const { display } = state;
    const tiles = found.frames.map((frame, at) => {
      const canvas = h("canvas", { role: "img", "aria-label": `frame ${frame}: at most ${(100 * found.largest[at]).toPrecision(2)} % of a token’s attention to the text goes to ${word}` });
      picture(state.clip, frame).then((image) => {
        canvas.width = 2 * image.width;
        canvas.height = 2 * image.height;
        const context = canvas.getContext("2d");
        context.drawImage(image, 0, 0, canvas.width, canvas.height);
        paintOverlay(context, { data: data.subarray(at * rows * cols, (at + 1) * rows * cols), rows, cols, largest: found.largest[at], full, display: { ...display, smooth: true } });
      }, () => {});
      return h("figure", {}, canvas, h("figcaption", {}, `frame ${frame}`));
    });
    const notes = found.notes.length ? ` ${found.notes.join("; ")}.` : "";
    place.replaceChildren(
      h("h3", {}, `“${word}” over the frames`),
      h("div", { class: "tiles" }, tiles),
      h("p", { class: "quiet small" }, `The share of its attention to the text that each token pays to the word; brightest is ${(100 * full).toPrecision(2)} %. Mean over the chosen heads, layer ${this.lens.layer}, step ${this.lens.step}.${notes}`),
    );
  }

  showTable() {
    delete this.panel.dataset.id;
    if (!this.answer || this.answer.layout !== "frames") { this.panel.replaceChildren(h("p", { class: "quiet" }, "Numbers are shown for the layout “frames”.")); return; }
    const head = ["frame", "x, px", "y, px", "probability", "margin", "entropy", "cycle error, px", "error, px"];
    const rows = this.answer.matches.map((match, at) => [match.frame, number(match.xy[0]), number(match.xy[1]), number(match.probability, 4), number(match.margin, 4), number(match.entropy, 3), number(this.cycle?.matches[at]?.cycle), number(this.page.errorAt(state.active, match.frame, match.xy))]);
    this.panel.replaceChildren(h("div", { class: "scroll" }, h("table", { class: "numbers" }, h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows.map((row) => h("tr", {}, row.map((text, at) => (at ? h("td", {}, String(text)) : h("th", { scope: "row" }, String(text))))))))));
  }

  /** All displayed matches, as rows of a table. */
  rows() {
    if (!this.answer || this.answer.layout !== "frames") return [];
    const { lens } = this;
    const of = (answer, index, cycle) => answer.matches.map((match, at) => ({
      view: "AB"[this.index], store: lens.store, step: lens.step, layer: lens.layer, kind: lens.kind, heads: lens.heads === "all" ? "all" : lens.heads.join(" "), direction: lens.direction,
      point: index, query_frame: state.points[index].frame, query_x_px: state.points[index].x, query_y_px: state.points[index].y,
      frame: match.frame, x_px: match.xy[0], y_px: match.xy[1], probability: match.probability, margin: match.margin, entropy: match.entropy,
      cycle_error_px: cycle?.matches[at]?.cycle ?? null, error_px: this.page.errorAt(index, match.frame, match.xy),
    }));
    return [...of(this.answer, state.active, this.cycle), ...[...this.more].flatMap(([index, answer]) => of(answer, index, null))];
  }
}

const overFrames = (values, frame) => {
  if (frame !== null && String(frame) in values) return values[frame];
  const finite = Object.values(values).filter((value) => value !== null);
  return finite.length ? finite.reduce((sum, value) => sum + value, 0) / finite.length : null;
};

/** Words of a prompt by mass, heaviest first; a word's tokens and its repetitions count together, and so does padding. */
function wordsByMass(words) {
  const padding = words.filter(({ word }) => word === "(padding)");
  const sums = new Map();
  for (const { word, mass } of words) if (word !== "(padding)") sums.set(word, (sums.get(word) || 0) + mass);
  const rows = [...sums].map(([word, mass]) => [word, mass, "text"]);
  rows.sort((a, b) => b[1] - a[1]);
  const shown = rows.slice(0, 14);
  if (padding.length) shown.push([`padding × ${padding.length}`, padding.reduce((sum, { mass }) => sum + mass, 0), "text"]);
  return shown;
}

function moveInGrid(event, grid, columns) {
  const cells = [...grid.querySelectorAll(".cell")];
  const at = cells.indexOf(document.activeElement);
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (at < 0 || by === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  const next = cells[at + by];
  if (!next) return;
  cells[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

