// Colour maps as 256 steps between anchors, and the colours of points.

const ANCHORS = {
  inferno: ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"],
  viridis: ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725"],
  magma: ["#000004", "#180f3e", "#451077", "#721f81", "#9f2f7f", "#cd4071", "#f1605d", "#fd9567", "#feca8d", "#fcfdbf"],
  cividis: ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"],
  grey: ["#000000", "#ffffff"],
};

export const MAPS = Object.keys(ANCHORS);

/** Okabe and Ito's colours, distinguishable with any colour vision. */
export const POINTS = ["#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#0072b2"];
export const TRUTH = "#39ff6a";
export const OTHER = "#ffffff";

export const pointColor = (index) => POINTS[index % POINTS.length];

const parse = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const tables = new Map();

/** 256 colours as one array of r, g, b. */
export function table(name) {
  if (tables.has(name)) return tables.get(name);
  const anchors = (ANCHORS[name] || ANCHORS.inferno).map(parse);
  const colors = new Uint8ClampedArray(256 * 3);
  for (let step = 0; step < 256; step += 1) {
    const at = (step / 255) * (anchors.length - 1);
    const low = Math.min(Math.floor(at), anchors.length - 2);
    for (let channel = 0; channel < 3; channel += 1) {
      colors[3 * step + channel] = anchors[low][channel] + (at - low) * (anchors[low + 1][channel] - anchors[low][channel]);
    }
  }
  tables.set(name, colors);
  return colors;
}

/** CSS colour of a value between 0 and 1, and the ink that reads on it. */
export function colorOf(value, name) {
  const colors = table(name);
  const step = Math.round(255 * Math.min(1, Math.max(0, value)));
  const [r, g, b] = colors.slice(3 * step, 3 * step + 3);
  const light = [r, g, b].map((part) => { const own = part / 255; return own <= 0.04045 ? own / 12.92 : ((own + 0.055) / 1.055) ** 2.4; });
  const luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
  return { background: `rgb(${r}, ${g}, ${b})`, ink: luminance > 0.179 ? "#000000" : "#ffffff" };
}

export const DECADES = 4;

/** Position on the colour scale of a share of the largest value. */
export function scaled(share, log) {
  if (!log) return share;
  return share <= 0 ? 0 : Math.max(0, 1 + Math.log10(share) / DECADES);
}
