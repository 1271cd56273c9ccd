// Frames, overlays and marks on canvases.

import { getPicture } from "./api.js";
import { OTHER, TRUTH, pointColor, scaled, table } from "./colors.js";

const pictures = new Map();

/** A frame's picture, from a cache of a few hundred. */
export function picture(clip, frame) {
  const key = `${clip} ${frame}`;
  if (!pictures.has(key)) {
    const loading = getPicture(`frame?clip=${encodeURIComponent(clip)}&frame=${frame}`);
    loading.catch(() => pictures.delete(key));
    pictures.set(key, loading);
    if (pictures.size > 400) pictures.delete(pictures.keys().next().value);
  }
  return pictures.get(key);
}

export const forgetPictures = () => pictures.clear();

/** Set a canvas to its displayed size, rounded up to a whole number of pixels per pixel of the clip. */
export function fit(canvas, width, height) {
  const shown = (canvas.clientWidth || 240) * Math.min(2, window.devicePixelRatio || 1);
  const factor = Math.max(1, Math.ceil(shown / width));
  if (canvas.width !== width * factor || canvas.height !== height * factor) {
    canvas.width = width * factor;
    canvas.height = height * factor;
  }
  return factor;
}

const layer = typeof OffscreenCanvas === "undefined" ? document.createElement("canvas") : new OffscreenCanvas(1, 1);

/** Brightness of a frame below an opaque overlay. */
const GROUND = 0.5;

/** Paint quantised probabilities over a frame, which is darkened. `full` is the value at the end of the colour scale. */
export function paintOverlay(context, { data, rows, cols, largest, full, display }) {
  layer.width = cols;
  layer.height = rows;
  const inner = layer.getContext("2d");
  const image = inner.createImageData(cols, rows);
  const colors = table(display.map);
  const share = full > 0 ? largest / full / 65535 : 0;
  for (let index = 0; index < rows * cols; index += 1) {
    const value = Math.min(1, scaled(data[index] * share, display.log));
    const step = Math.round(255 * value);
    image.data[4 * index] = colors[3 * step];
    image.data[4 * index + 1] = colors[3 * step + 1];
    image.data[4 * index + 2] = colors[3 * step + 2];
    image.data[4 * index + 3] = 255 * display.opacity * Math.sqrt(value);
  }
  inner.putImageData(image, 0, 0);
  context.fillStyle = `rgba(0, 0, 0, ${(1 - GROUND) * display.opacity})`;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.imageSmoothingEnabled = display.smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
  context.imageSmoothingEnabled = false;
}

function outlined(context, color, width, path) {
  context.beginPath();
  path();
  context.lineJoin = "round";
  context.lineWidth = width + 2.5;
  context.strokeStyle = "rgba(0, 0, 0, .75)";
  context.stroke();
  context.lineWidth = width;
  context.strokeStyle = color;
  context.stroke();
}

/** Marks of points, matches, the truth and other trackers. `unit` is the size of a mark in canvas pixels. */
export const marks = {
  point(context, x, y, unit, index, active) {
    context.beginPath();
    context.arc(x, y, unit * (active ? 1.05 : 0.8), 0, 2 * Math.PI);
    context.fillStyle = pointColor(index);
    context.fill();
    context.lineWidth = unit * 0.32;
    context.strokeStyle = active ? "#fff" : "rgba(0, 0, 0, .8)";
    context.stroke();
    if (active) outlined(context, "#fff", unit * 0.2, () => context.arc(x, y, unit * 1.8, 0, 2 * Math.PI));
  },
  match(context, x, y, unit, index, active) {
    outlined(context, pointColor(index), unit * (active ? 0.42 : 0.3), () => context.arc(x, y, unit * (active ? 1.35 : 1), 0, 2 * Math.PI));
  },
  top(context, x, y, unit, index) {
    outlined(context, pointColor(index), unit * 0.22, () => context.rect(x - unit * 0.6, y - unit * 0.6, unit * 1.2, unit * 1.2));
  },
  truth(context, x, y, unit) {
    outlined(context, TRUTH, unit * 0.34, () => {
      context.moveTo(x - unit, y); context.lineTo(x + unit, y);
      context.moveTo(x, y - unit); context.lineTo(x, y + unit);
    });
  },
  other(context, x, y, unit) {
    outlined(context, OTHER, unit * 0.24, () => {
      context.moveTo(x, y - unit * 0.9); context.lineTo(x + unit * 0.9, y + unit * 0.7); context.lineTo(x - unit * 0.9, y + unit * 0.7); context.closePath();
    });
  },
  track(context, x, y, unit, index, visible) {
    context.beginPath();
    context.moveTo(x, y - unit); context.lineTo(x + unit, y); context.lineTo(x, y + unit); context.lineTo(x - unit, y); context.closePath();
    context.lineWidth = unit * 0.3;
    context.strokeStyle = "rgba(0, 0, 0, .8)";
    context.stroke();
    if (visible) { context.fillStyle = pointColor(index); context.fill(); } else outlined(context, pointColor(index), unit * 0.2, () => {
      context.moveTo(x, y - unit); context.lineTo(x + unit, y); context.lineTo(x, y + unit); context.lineTo(x - unit, y); context.closePath();
    });
  },
};

/** A track as a line that breaks where the point is not seen. */
export function trail(context, xy, visible, factor, color, width) {
  outlined(context, color, width, () => {
    let drawing = false;
    xy.forEach((place, frame) => {
      if (!visible[frame] || !Number.isFinite(place[0])) { drawing = false; return; }
      if (drawing) context.lineTo(place[0] * factor, place[1] * factor);
      else context.moveTo(place[0] * factor, place[1] * factor);
      drawing = true;
    });
  });
}

/** The legend of a colour map, as a canvas. */
export function legend(canvas, display) {
  canvas.width = 256;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  const colors = table(display.map);
  for (let step = 0; step < 256; step += 1) image.data.set([colors[3 * step], colors[3 * step + 1], colors[3 * step + 2], 255], 4 * step);
  context.putImageData(image, 0, 0);
}
