"use strict";
// With several backbones, show one at a time; without this script all of them are shown.
(() => {
  const buttons = [...document.querySelectorAll("nav button")];
  const parts = [...document.querySelectorAll("section[data-group], nav a[data-group]")];
  const show = (group) => {
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.group === group)));
    parts.forEach((part) => { part.hidden = part.dataset.group !== group; });
  };
  buttons.forEach((button) => button.addEventListener("click", () => show(button.dataset.group)));
  if (buttons.length) show(buttons[0].dataset.group);
})();
// Open a figure, the rows of a strip or a video in a window of its own; without this script a figure's file opens.
const enlarge = (content, fits) => {
  const dialog = document.getElementById("large"), place = dialog.querySelector(".content");
  place.classList.toggle("fits", fits);
  place.replaceChildren(content);
  dialog.showModal();
};
document.getElementById("large").addEventListener("close", (event) => event.target.querySelector(".content").replaceChildren());
document.querySelectorAll("a.open").forEach((link) => link.addEventListener("click", (event) => {
  if (event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  enlarge((link.closest(".strip-rows") || link.firstElementChild).cloneNode(true), false);
}));
// Give a video buttons to pause, to step frame by frame and to enlarge; without this script it has the browser's.
const player = (video, enlargeable) => {
  const bar = document.createElement("div"), fps = Number(video.dataset.fps);
  const button = (text, label, act) => {
    const made = document.createElement("button");
    Object.assign(made, { type: "button", textContent: text, title: label, onclick: act });
    made.setAttribute("aria-label", label);
    bar.append(made);
    return made;
  };
  const count = () => Math.max(Math.round(video.duration * fps) || 1, 1);
  const frame = () => Math.min(Math.floor(video.currentTime * fps + 0.001), count() - 1);
  const go = (to) => { hold(); video.currentTime = (((to % count()) + count()) % count() + 0.5) / fps; };
  const hold = () => { video.dataset.held = "yes"; video.pause(); };
  const start = () => { delete video.dataset.held; video.play().catch(() => {}); };
  bar.className = "player";
  button("\u2212", "one frame back", () => go(frame() - 1));
  const toggle = button("", "", () => (video.paused ? start() : hold()));
  button("+", "one frame on", () => go(frame() + 1));
  const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, value: 0, step: 1 });
  slider.setAttribute("aria-label", "frame");
  slider.addEventListener("input", () => go(Number(slider.value)));
  const text = document.createElement("span");
  bar.append(slider, text);
  if (enlargeable) {
    button("\u2922", "enlarge", () => {
      const large = video.cloneNode(), box = document.createElement("div");
      hold();
      box.append(large);
      player(large, false);
      large.addEventListener("loadedmetadata", () => { large.currentTime = video.currentTime; }, { once: true });
      enlarge(box, true);
      large.play().catch(() => {});
    });
  }
  const tell = () => {
    slider.max = count() - 1;
    slider.value = frame();
    text.textContent = `frame ${frame()}`;
    toggle.textContent = video.paused ? "Play" : "Pause";
    toggle.setAttribute("aria-label", toggle.textContent);
  };
  ["loadedmetadata", "timeupdate", "seeked", "play", "pause"].forEach((name) => video.addEventListener(name, tell));
  tell();
  video.controls = false;
  video.after(bar);
};
document.querySelectorAll("video").forEach((video) => player(video, true));
// Play a video only while it is on screen, unless a person has paused it or asked for less motion.
(() => {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const watch = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
    if (!isIntersecting) target.pause();
    else if (!target.dataset.held && !still.matches) target.play().catch(() => {});
  }), { rootMargin: "200px" });
  document.querySelectorAll(".clip video").forEach((video) => watch.observe(video));
})();
