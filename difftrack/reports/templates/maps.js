// Maps of a point in any layer, step and head: their script is loaded when the figure comes near the screen.
const pointMaps = (figure) => {
  const own = window.difftrackMaps[figure.dataset.name], sheet = new Image();
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const maps = bytes(own.maps), colors = bytes(own.colors), [rows, cols] = own.grid, [width, height] = own.size;
  const tiles = [...figure.querySelectorAll("canvas")], targets = own.frames.length - 1;
  const field = (name) => figure.querySelector(`select[name="${name}"]`);
  const ring = (context, x, y, unit, color) => {
    for (const [line, ink] of [[5, "rgba(0,0,0,.8)"], [2, color]]) {
      context.beginPath();
      context.arc(x, y, 1.7 * unit, 0, 2 * Math.PI);
      context.lineWidth = (line * unit) / 5;
      context.strokeStyle = ink;
      context.stroke();
    }
  };
  const path = (context, places, unit, factor, color) => {
    for (const [line, ink] of [[5, "rgba(0,0,0,.8)"], [2.4, color]]) {
      context.beginPath();
      let going = false;
      places.forEach((place) => {
        if (!place) { going = false; return; }
        context[going ? "lineTo" : "moveTo"](place[0] * factor, place[1] * factor);
        going = true;
      });
      context.lineWidth = (line * unit) / 5;
      context.lineJoin = "round";
      context.strokeStyle = ink;
      context.stroke();
    }
  };
  const heat = document.createElement("canvas");
  heat.width = cols;
  heat.height = rows;
  const draw = () => {
    const point = Number(field("point").value), step = own.steps.indexOf(Number(field("step").value)), layer = own.layers.indexOf(Number(field("layer").value));
    const head = field("head").value === "mean" ? 0 : 1 + own.heads.indexOf(Number(field("head").value));
    const best = own.best[step][layer][head][point], truth = own.truth && own.truth[point];
    const first = (((step * own.layers.length + layer) * (1 + own.heads.length) + head) * own.points.length + point) * targets * rows * cols;
    tiles.forEach((canvas, at) => {
      const factor = Math.max(1, Math.ceil((canvas.clientWidth * Math.min(2, devicePixelRatio)) / width));
      canvas.width = width * factor;
      canvas.height = height * factor;
      const context = canvas.getContext("2d"), unit = (5 * canvas.width) / Math.max(120, canvas.clientWidth);
      context.drawImage(sheet, at * width, 0, width, height, 0, 0, canvas.width, canvas.height);
      const said = canvas.parentElement.querySelector(".said");
      if (!at) {
        path(context, [own.points[point], ...best.map(([x, y]) => [x, y])], unit, factor, "#ffd43b");
        if (truth) path(context, truth, unit, factor, "#39ff6a");
        ring(context, own.points[point][0] * factor, own.points[point][1] * factor, unit, "#fff");
        said.textContent = truth ? `yellow: matches, green: ${figure.dataset.truth}` : "yellow: matches";
        return;
      }
      const image = heat.getContext("2d").createImageData(cols, rows), begin = first + (at - 1) * rows * cols;
      for (let token = 0; token < rows * cols; token += 1) {
        const value = maps[begin + token];
        image.data.set([colors[3 * value], colors[3 * value + 1], colors[3 * value + 2], 230 * Math.sqrt(value / 255)], 4 * token);
      }
      heat.getContext("2d").putImageData(image, 0, 0);
      context.fillStyle = "rgba(0,0,0,.45)";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.imageSmoothingEnabled = false;
      context.drawImage(heat, 0, 0, canvas.width, canvas.height);
      const [x, y, probability] = best[at - 1], right = truth && truth[at];
      ring(context, x * factor, y * factor, unit, "#fff");
      if (right) path(context, [[right[0] - unit / factor, right[1]], [right[0] + unit / factor, right[1]], null, [right[0], right[1] - unit / factor], [right[0], right[1] + unit / factor]], unit, factor, "#39ff6a");
      said.textContent = `p ${probability.toFixed(2)}${right ? `, ${Math.hypot(x - right[0], y - right[1]).toFixed(1)} px off` : ""}`;
    });
    figure.dataset.drawn = [point, own.layers[layer], own.steps[step], head].join();
  };
  figure.querySelectorAll("select").forEach((each) => each.addEventListener("change", draw));
  sheet.onload = draw;
  sheet.src = figure.dataset.frames;
  addEventListener("resize", draw);
};
(() => {
  const watch = new IntersectionObserver((entries) => entries.filter(({ isIntersecting }) => isIntersecting).forEach(({ target }) => {
    watch.unobserve(target);
    const script = document.createElement("script");
    script.onload = () => pointMaps(target);
    script.src = target.dataset.script;
    document.head.append(script);
  }), { rootMargin: "600px" });
  document.querySelectorAll("figure.maps").forEach((figure) => watch.observe(figure));
})();
