// Elements are built from text, never from markup: names and prompts may come from anywhere.

/** Make an element. Attributes that are functions become listeners (`onclick`); `false`, null and undefined are left out (of ARIA, null and undefined). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("aria-")) { element.setAttribute(name, String(value)); continue; }
    if (value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name === "value" || name === "checked" || name === "selected" || name === "disabled" || name === "hidden") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Format a number of any size: 4.0 × 10⁻⁸. */
export function power(value) {
  const [digits, exponent] = value.toExponential(1).split("e");
  const raised = [...exponent.replace("+", "")].map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(sign)])).join("");
  return `${digits} × 10${raised}`;
}

/** A labelled control; the label's text is what screen readers say. */
export function labelled(text, control, { hint } = {}) {
  return h("label", { class: "field", title: hint }, h("span", {}, text), control);
}

/** A drop-down list; `options` are values, or [value, text] pairs. */
export function select(value, options, onchange, attributes = {}) {
  const items = options.map((option) => {
    const [own, text] = Array.isArray(option) ? option : [option, String(option)];
    return h("option", { value: String(own), selected: String(own) === String(value) }, text);
  });
  return h("select", { ...attributes, onchange: (event) => onchange(event.target.value) }, items);
}

/** A slider over positions in a list, which arrow keys move. */
export function stepper(name, value, values, onchange, describe = String) {
  const index = Math.max(0, values.indexOf(value));
  const output = h("output", {}, describe(values[index]));
  const slider = h("input", {
    type: "range", min: 0, max: Math.max(0, values.length - 1), step: 1, value: index,
    "aria-label": name, "aria-valuetext": describe(values[index]), disabled: values.length < 2,
    oninput: (event) => {
      const chosen = values[Number(event.target.value)];
      output.textContent = describe(chosen);
      slider.setAttribute("aria-valuetext", describe(chosen));
      onchange(chosen);
    },
  });
  slider.show = (chosen) => {
    slider.value = Math.max(0, values.indexOf(chosen));
    output.textContent = describe(chosen);
    slider.setAttribute("aria-valuetext", describe(chosen));
  };
  const field = h("label", { class: "field slider" }, h("span", {}, name, output), slider);
  field.slider = slider;
  return field;
}

/** A button with a tooltip that says its key. */
export function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", ...attributes, onclick }, text);
}

/** Count running requests; the line below the bar moves while there are any. */
let underWay = 0;
export function busy(by) {
  underWay += by;
  document.documentElement.dataset.busy = String(underWay);
}

/** Keep the count while a promise is open. */
export async function during(promise) {
  busy(1);
  try { return await promise; } finally { busy(-1); }
}

/** Show text briefly, in a region that screen readers announce. */
let hiding;
export function notice(text, { lasting = false, bad = false } = {}) {
  const box = document.getElementById("notice");
  clearTimeout(hiding);
  box.textContent = text;
  box.hidden = !text;
  box.classList.toggle("bad", bad);
  if (text && !lasting) hiding = setTimeout(() => { box.hidden = true; }, 4500);
}

export function copy(text, said) {
  const done = () => notice(said);
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text).then(done, () => fallback(text, done));
  return fallback(text, done);
}

function fallback(text, done) {
  const area = h("textarea", { class: "offscreen", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  done();
}

/** Offer a file to be saved. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

export const number = (value, digits = 2) => (value === null || value === undefined || Number.isNaN(value) ? "—" : value.toFixed(digits));
