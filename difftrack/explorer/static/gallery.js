// The first page: all clips, a search, and a place to drop a video.

import { Refusal, getJson, getPicture, upload } from "./api.js";
import { button, h, notice } from "./dom.js";

/** Draw the gallery into `main`; `open(clip)` shows a clip. */
export function gallery(main, library, open, reload) {
  const stores = new Map();
  for (const { name, clips } of library.stores) for (const clip of clips) stores.set(clip, [...(stores.get(clip) || []), name]);
  const cards = library.clips.map((clip) => card(clip, stores.get(clip.name) || [], open));
  const count = h("p", { class: "quiet", role: "status" });
  const grid = h("div", { class: "cards" }, cards.map(({ element }) => element));
  const show = (text) => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { element, text: own } of cards) {
      element.hidden = !words.every((word) => own.includes(word));
      shown += element.hidden ? 0 : 1;
    }
    count.textContent = shown === 1 ? "1 clip" : `${shown} clips`;
  };
  const search = h("input", { type: "search", placeholder: "Search names, prompts, sources, stores", "aria-label": "Search clips", oninput: (event) => show(event.target.value) });
  main.replaceChildren(
    h("section", { class: "gallery", "aria-label": "Clips" },
      h("div", { class: "intro" },
        h("h1", {}, "Click a point; see where every layer, head and step finds it"),
        h("p", { class: "quiet" }, library.clips.length ? `${library.title}: ${library.stores.length} ${library.stores.length === 1 ? "store" : "stores"} of stored queries and keys.` : "Drop a video to begin."),
      ),
      h("div", { class: "tools" }, search, count),
      problems(library.problems),
      dropZone(library, reload, open),
      grid,
    ),
  );
  show("");
}

function card(clip, stores, open) {
  const image = h("canvas", { class: "thumb", width: 3, height: 2, "aria-hidden": "true" });
  const text = [clip.name, clip.prompt, clip.source, ...stores].join(" ").toLowerCase();
  const known = [clip.source, clip.num_frames ? `${clip.num_frames} frames` : ""].filter(Boolean).join(" · ");
  const element = h("button", { type: "button", class: "card", disabled: !stores.length, onclick: () => open(clip.name) },
    image,
    h("span", { class: "card-name" }, clip.name),
    h("span", { class: "card-prompt" }, clip.prompt || (clip.problem ? "" : "no prompt")),
    clip.problem ? h("span", { class: "bad" }, clip.problem) : null,
    h("span", { class: "quiet small" }, known),
    h("span", { class: "tags" }, stores.length ? stores.map((name) => h("span", { class: "tag" }, name)) : h("span", { class: "tag" }, "nothing stored")),
  );
  if (!clip.num_frames) image.classList.add("absent");
  else new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    getPicture(`thumbnail?clip=${encodeURIComponent(clip.name)}`).then((bitmap) => {
      image.width = bitmap.width;
      image.height = bitmap.height;
      image.getContext("2d").drawImage(bitmap, 0, 0);
    }).catch(() => image.classList.add("absent"));
  }, { rootMargin: "300px" }).observe(image);
  return { element, text };
}

function problems(found) {
  if (!found.length) return null;
  return h("div", { class: "problem", role: "alert" }, h("strong", {}, "Cannot be opened"), h("ul", {}, found.map(({ name, error }) => h("li", {}, `${name}: ${error}`))));
}

function dropZone(library, reload, open) {
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Extraction" });
  const said = h("span", { class: "quiet small", role: "status" }, `Extracted by ${library.backbone}, into a temporary folder.`);
  const file = h("input", { type: "file", accept: "video/*,.mkv,.avi", "aria-label": "Video to extract", class: "offscreen", onchange: () => file.files[0] && send(file.files[0]) });
  const watch = (id) => watchJob(id, bar, said).then(async (job) => { await reload(); open(job.clip); }).catch((error) => { bar.hidden = true; said.textContent = error.message; said.classList.add("bad"); });
  const send = async (video) => {
    said.classList.remove("bad");
    if (video.size > library.most_upload_bytes) {
      said.textContent = `${video.name} is larger than ${Math.round(library.most_upload_bytes / 2 ** 20)} MB`;
      said.classList.add("bad");
      return;
    }
    bar.hidden = false;
    said.textContent = `Sending ${video.name} …`;
    try {
      watch((await upload(video, (fraction) => { bar.value = fraction; })).id);
    } catch (error) {
      bar.hidden = true;
      said.textContent = error instanceof Refusal ? error.message : String(error);
      said.classList.add("bad");
    }
  };
  const zone = h("div", { class: "drop" }, h("span", {}, "Drop a video here, or ", button("choose one", () => file.click(), { class: "linklike" })), file, bar, said);
  for (const type of ["dragover", "dragenter"]) zone.addEventListener(type, (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
  });
  const running = library.jobs.find((job) => job.stage !== "done" && job.stage !== "failed");
  const failed = library.jobs.filter((job) => job.stage === "failed").at(-1);
  if (running) watch(running.id);
  else if (failed) { said.textContent = failed.error; said.classList.add("bad"); }
  return zone;
}

async function watchJob(id, bar, said) {
  bar.hidden = false;
  for (;;) {
    const job = await getJson(`jobs?id=${encodeURIComponent(id)}`);
    bar.value = job.fraction;
    said.textContent = `${job.clip}: ${job.stage}${job.fraction ? `, ${Math.round(100 * job.fraction)} %` : ""}`;
    if (job.stage === "failed") throw new Error(job.error);
    if (job.stage === "done") {
      notice(`${job.clip} is ready.`);
      return job;
    }
    await new Promise((resolve) => { setTimeout(resolve, 400); });
  }
}
