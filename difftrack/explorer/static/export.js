// Saves the view as files: a PNG of the pictures, a CSV of the numbers.

import { TRUTH } from "./colors.js";
import { notice, save } from "./dom.js";
import { state } from "./state.js";

const quoted = (value) => {
  if (value === null || value === undefined) return "";
  const text = String(value);
  const plain = typeof value === "number" ? text : text.replace(/^([=+@-])/, "'$1");
  return /[",\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
};

/** Text of a CSV file; cells that a spreadsheet would read as formulas are marked as text. */
export function csv(rows) {
  if (!rows.length) return "";
  const names = Object.keys(rows[0]);
  return [names.join(","), ...rows.map((row) => names.map((name) => quoted(row[name])).join(","))].join("\n") + "\n";
}

export function saveCsv(page) {
  const rows = page.panes.flatMap((pane) => pane.rows());
  if (!rows.length) { notice("There are no matches to save: place a point, and show frames."); return; }
  save(new Blob([csv(rows)], { type: "text/csv" }), `${state.clip}-matches.csv`);
  const tracks = page.panes.flatMap((pane) => (pane.tracking.tracks || []).flatMap((track, point) => track.xy.map(([x, y], frame) => ({ view: "AB"[pane.index], point, frame, x_px: x, y_px: y, visible: track.visible[frame], confidence: track.confidence[frame] }))));
  if (tracks.length && state.tab === "tracks") save(new Blob([csv(tracks)], { type: "text/csv" }), `${state.clip}-tracks.csv`);
}

/** Compose the source frame and all tiles with their captions on one canvas. */
export function compose(page) {
  const style = getComputedStyle(document.documentElement);
  const [paper, ink, muted] = ["--paper", "--ink", "--muted"].map((name) => style.getPropertyValue(name).trim());
  const { width, height } = page.size;
  const tile = Math.max(240, Math.min(480, width));
  const tall = Math.round((tile * height) / width);
  const [gap, top, caption] = [14, 34, 22];
  const rows = page.panes.map((pane) => [...pane.tiles.children]);
  const columns = Math.min(6, Math.max(1, ...rows.map((tiles) => tiles.length)));
  const lines = rows.reduce((sum, tiles) => sum + Math.max(1, Math.ceil(tiles.length / columns)), 0);
  const canvas = document.createElement("canvas");
  canvas.width = gap + (columns + 1) * (tile + gap);
  canvas.height = gap + 2 * top + Math.max(1, lines) * (tall + caption + gap) + rows.length * top;
  const context = canvas.getContext("2d");
  const font = style.getPropertyValue("--sans");
  context.fillStyle = paper;
  context.fillRect(0, 0, canvas.width, canvas.height);
  const write = (text, x, y, color, size, weight = 400) => { context.font = `${weight} ${size}px ${font}`; context.fillStyle = color; context.fillText(text, x, y, canvas.width - x - gap); };
  write(state.clip, gap, gap + 16, ink, 17, 650);
  write(page.info.prompt || "", gap, gap + 38, muted, 13);
  let y = gap + 2 * top - 8;
  context.drawImage(page.canvas, gap, y + top, tile, tall);
  write(`source, frame ${state.frame}`, gap, y + top + tall + 16, muted, 13);
  page.panes.forEach((pane, at) => {
    const { lens } = pane;
    const heads = lens.heads === "all" ? "mean of all heads" : `head ${lens.heads.join(", ")}`;
    write(`${lens.store} · step ${lens.step} · layer ${lens.layer} · ${lens.kind.replaceAll("_", "–")} · ${heads} · ${lens.direction}`, gap + tile + gap, y + 20, ink, 14, 600);
    y += top;
    rows[at].forEach((element, index) => {
      const x = gap + (1 + (index % columns)) * (tile + gap);
      const line = y + Math.floor(index / columns) * (tall + caption + gap);
      context.drawImage(element.firstChild, x, line, tile, tall);
      write(`${element.children[1].textContent}   ${element.children[2].textContent}`, x, line + tall + 16, muted, 13);
    });
    y += Math.max(1, Math.ceil(rows[at].length / columns)) * (tall + caption + gap);
  });
  if (page.truth[state.active]) write("+ true position", gap, canvas.height - gap, document.documentElement.dataset.scheme === "dark" ? TRUTH : "#1a7f37", 13, 600);
  return canvas;
}

export function savePng(page) {
  compose(page).toBlob((blob) => save(blob, `${state.clip}.png`), "image/png");
}
