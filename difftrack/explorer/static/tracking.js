// Live tracking: a control for every option of the section `track`, made from the published JSON Schema.

import { Newest, ask, getJson } from "./api.js";
import { button, copy, h, number, select } from "./dom.js";
import { change, state } from "./state.js";

/** Keys that only the track stage reads. */
const NOT_HERE = new Set(["baselines", "lucas_kanade", "trackers", "query_mode", "device", "memory_limit_mb", "backend"]);

/** Ranges and steps of number sliders. */
const RANGES = {
  motion_cost: [0, 2, 0.01], motion_limit_token: [0.5, 20, 0.5], smoothing_radius: [0, 8, 1], smoothing_limit_token: [0.01, 1, 0.01],
  matches_per_token: [1, 4, 1], support_radius: [1, 4, 1], support_agreement_token: [0.1, 4, 0.1], window_radius: [0, 4, 1],
  window_temperature: [0.1, 4, 0.1], feature_temperature: [0.01, 1, 0.01], min_confidence: [0, 1, 0.01], min_margin: [0, 1, 0.01],
  max_cycle_error_token: [0.25, 12, 0.25], temperature: [0.5, 32, 0.5],
};

let schema = null;
const loadSchema = async () => { schema = schema || (await getJson("options")); return schema; };

/** The options that are set, or those of the data's params file if the user has set none. */
const chosen = (page) => state.tracking ?? page.library.track ?? {};

export class TrackPanel {
  constructor(pane) {
    this.pane = pane;
    this.newest = new Newest();
    this.scoring = new Newest();
    this.tracks = null;
    this.scores = null;
  }

  /** The tracking view of the pane's backbone. */
  store() {
    const own = this.pane.store;
    if (!own) return null;
    if (own.view === "tracking") return own;
    return this.pane.page.info.stores.find(({ view, backbone, usable }) => usable && view === "tracking" && backbone === own.backbone) || null;
  }

  /** Whether tracks are switched on. */
  get on() { return state.tab === "tracks"; }

  async show(panel) {
    const store = this.store();
    if (!store) {
      panel.replaceChildren(h("p", { class: "quiet" }, "No tracking view of this backbone is stored for this clip; `difftrack extract` writes one, and `dt.extract(..., view=\"tracking\")`."));
      return;
    }
    await loadSchema();
    if (!this.on) return;
    const id = `track|${store.name}`;
    if (panel.dataset.id !== id || !this.form?.isConnected) {
      panel.dataset.id = id;
      this.metrics = h("div", { class: "metrics", role: "status", "aria-live": "polite" });
      this.problem = h("p", { class: "problem", role: "alert", hidden: true });
      this.form = h("div", { class: "options" });
      panel.replaceChildren(
        h("div", { class: "row" }, this.metrics),
        this.problem,
        h("div", { class: "row" },
          button("Copy as params.yaml", () => copy(snippet(chosen(this.pane.page)), "The setting is in the clipboard."), { class: "primary" }),
          button("Defaults", () => change(() => { state.tracking = {}; }), { title: "The defaults of the library" }),
          this.pane.page.library.track ? button("params.yaml", () => change(() => { state.tracking = null; }), { title: "The setting of the params file beside the data" }) : "",
          h("span", { class: "quiet small" }, `tracked through ${store.name}`)),
        this.form);
      this.formFor = "";
    }
    this.draw(store);
    this.ask(store);
  }

  draw(store) {
    const options = chosen(this.pane.page);
    const key = JSON.stringify([options, store.name]);
    if (this.formFor === key || this.form.contains(document.activeElement) && this.formFor && this.moving) return;
    const open = new Set([...this.form.querySelectorAll("details[open]")].map((each) => each.dataset.group));
    const focused = document.activeElement?.dataset?.option;
    this.formFor = key;
    const top = Object.entries(schema.TrackSection.properties).filter(([name]) => !NOT_HERE.has(name) && !["matching", "visibility"].includes(name));
    const group = (name, text, properties) => h("details", { "data-group": name, open: open.has(name) }, h("summary", {}, text), h("div", { class: "grid" }, properties.filter(([own]) => !NOT_HERE.has(own)).map(([own, about]) => this.control([name, own], about, options, store))));
    this.form.replaceChildren(
      h("div", { class: "grid" }, top.map(([name, about]) => this.control([name], about, options, store))),
      group("visibility", "Visibility", Object.entries(schema.VisibilityParams.properties)),
      group("matching", "Matching", Object.entries(schema.MatchingParams.properties)));
    if (focused) this.form.querySelector(`[data-option="${focused}"]`)?.focus();
  }

  control(path, about, options, store) {
    const name = path.at(-1);
    const defaults = path.length > 1 ? schema.TrackSection.properties[path[0]].default : schema.TrackSection.properties;
    const otherwise = path.length > 1 ? defaults[name] : about.default;
    const set = path.reduce((own, key) => (own && typeof own === "object" ? own[key] : undefined), options);
    const value = set === undefined ? otherwise : set;
    const kinds = [about, ...(about.anyOf || [])].filter((each) => each.type !== "null");
    const values = kinds.flatMap((each) => each.enum || (each.const !== undefined ? [each.const] : []));
    const numeric = kinds.some((each) => each.type === "number" || each.type === "integer");
    const free = kinds.some((each) => each.type === "array" || each.type === "object");
    const label = `${path.join(".")}`;
    const attributes = { "data-option": label, "aria-label": label };
    const put = (own) => this.put(path, own);
    let input;
    if (kinds.some((each) => each.type === "boolean")) {
      input = h("input", { type: "checkbox", checked: !!value, ...attributes, onchange: (event) => put(event.target.checked) });
    } else if (name === "layers" || name === "steps") {
      input = this.chips(name, value, store[name], put, attributes);
    } else if (numeric && (values.length === 0 || name === "temperature")) {
      input = this.slider(name, value, put, attributes, values, (about.anyOf || []).some((each) => each.type === "null") && otherwise === null);
    } else if (free) {
      const text = typeof value === "string" ? value : JSON.stringify(value);
      input = h("input", { type: "text", value: text ?? "null", ...attributes, onchange: (event) => {
        try {
          const own = values.includes(event.target.value) ? event.target.value : JSON.parse(event.target.value);
          event.target.setAttribute("aria-invalid", "false");
          put(own);
        } catch { event.target.setAttribute("aria-invalid", "true"); }
      } });
    } else {
      input = select(value, values, put, attributes);
    }
    return h("div", { class: `option${set === undefined ? "" : " set"}`, title: about.description || "" }, h("span", { class: "option-name" }, ...label.split(/(?<=_)/).flatMap((part) => [part, h("wbr")])), input, set === undefined ? "" : button("↺", () => put(undefined), { class: "icon", "aria-label": `Default of ${label}`, title: "Default" }));
  }

  slider(name, value, put, attributes, words, optional) {
    const [low, high, step] = RANGES[name] || [0, 10, 0.1];
    const output = h("output", {}, value === null ? "off" : String(value));
    const slider = h("input", { type: "range", min: low, max: high, step, value: typeof value === "number" ? value : high, ...attributes, oninput: (event) => {
      output.textContent = event.target.value;
      this.moving = true;
      put(Number(event.target.value));
    }, onchange: () => { this.moving = false; } });
    const extra = words.length ? select(typeof value === "string" ? value : "number", [...words, "number"], (own) => put(own === "number" ? Number(slider.value) : own), { "aria-label": `${attributes["aria-label"]}: rule` })
      : optional ? h("input", { type: "checkbox", checked: value !== null, "aria-label": `${attributes["aria-label"]}: on`, onchange: (event) => put(event.target.checked ? Number(slider.value) : null) }) : null;
    return h("span", { class: "slider-row" }, extra, slider, output);
  }

  chips(name, value, stored, put, attributes) {
    const on = value === "stored" ? stored : Array.isArray(value) ? value : [];
    return h("span", { class: "chips", role: "group", "aria-label": attributes["aria-label"] },
      stored.map((own) => button(String(own), () => {
        const next = on.includes(own) ? on.filter((each) => each !== own) : [...on, own].sort((a, b) => a - b);
        if (next.length) put(next);
      }, { class: "chip", "aria-pressed": on.includes(own), "aria-label": `${name} ${own}`, "data-option": `${name}.${own}` })),
      name !== "layers" ? "" : button("best", () => put(value === "best" ? "stored" : "best"), { class: "chip", "aria-pressed": value === "best", "aria-label": "layers best by the scores", title: "The best one by the scores", "data-option": "layers.best" }));
  }

  put(path, value) {
    change(() => {
      const next = structuredClone(chosen(this.pane.page));
      let place = next;
      for (const key of path.slice(0, -1)) {
        if (typeof place[key] !== "object" || place[key] === null) place[key] = {};
        place = place[key];
      }
      if (value === undefined) delete place[path.at(-1)];
      else place[path.at(-1)] = value;
      for (const key of path.slice(0, -1)) if (Object.keys(next[key]).length === 0) delete next[key];
      state.tracking = next;
    }, `track.${path.join(".")}`);
  }

  ask(store) {
    const options = chosen(this.pane.page);
    const common = { store: store.name, clip: state.clip, options };
    const points = state.points.filter(({ frame }) => frame >= 0).map(({ frame, x, y }) => [frame, x, y]);
    this.newest.run(async () => {
      try {
        this.tracks = points.length ? (await ask("track", { ...common, points })).tracks : null;
        this.say("");
      } catch (error) {
        this.tracks = null;
        this.say(error.message);
      }
      this.pane.page.drawMarks();
      this.pane.page.tracked += 1;
    });
    this.scoring.run(async () => {
      try {
        this.scores = await ask("score", common);
      } catch { this.scores = null; }
      this.drawScores();
    });
  }

  say(text) {
    if (!this.problem) return;
    this.problem.textContent = text;
    this.problem.hidden = !text;
  }

  drawScores() {
    if (!this.metrics) return;
    const found = this.scores?.scores;
    if (!found) { this.metrics.replaceChildren(h("span", { class: "quiet small" }, this.scores ? `No scores: ${this.scores.reason}` : "")); return; }
    const figure = (name, value) => h("span", { class: "figure" }, h("strong", {}, value === null ? "—" : number(100 * value, 1)), h("span", {}, name));
    this.metrics.replaceChildren(figure("δ_avg %", found.delta_avg), figure("AJ %", found.average_jaccard), figure("OA %", found.occlusion_accuracy), h("span", { class: "quiet small" }, `${found.num_points} points of this clip; truth: ${found.truth}`));
  }
}

/** The setting as the section of a params.yaml. */
export function snippet(options) {
  const scalar = (value) => (Array.isArray(value) ? `[${value.map(scalar).join(", ")}]` : value === null ? "null" : String(value));
  const lines = (own, indent) => Object.entries(own).flatMap(([name, value]) => {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) {
      const inner = Object.entries(value);
      if (["heads", "head_weights"].includes(name)) return [`${indent}${name}: {${inner.map(([key, part]) => `${key}: ${scalar(part)}`).join(", ")}}`];
      return [`${indent}${name}:`, ...lines(value, `${indent}  `)];
    }
    return [`${indent}${name}: ${scalar(value)}`];
  });
  const body = lines(options, "  ");
  return body.length ? `track:\n${body.join("\n")}\n` : "track: {}\n";
}
