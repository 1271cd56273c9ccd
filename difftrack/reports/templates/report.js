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
// Play a video only while it is on screen.
(() => {
  const watch = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
    if (isIntersecting) target.play().catch(() => {}); else target.pause();
  }), { rootMargin: "200px" });
  document.querySelectorAll("video").forEach((video) => watch.observe(video));
})();
