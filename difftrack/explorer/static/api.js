// Questions to the server. Answers are kept, so that a step back costs no request.

import { during, notice } from "./dom.js";

const KEPT = 240;
const kept = new Map();
let token = "";
let waiting = null;
const recovered = new Set();

/** An unsuccessful answer of the server, with the server's message. */
export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function useToken(value) {
  if (value) sessionStorage.setItem("difftrack-token", value);
  token = value || sessionStorage.getItem("difftrack-token") || "";
}

export const currentToken = () => token;

/** Called when the server answers again after a failure. */
export const onRecovery = (callback) => recovered.add(callback);

const request = (path, options = {}) => during(fetched(path, options));

async function fetched(path, options) {
  let response;
  try {
    response = await fetch(`api/${path}`, { ...options, headers: { "x-difftrack": token || "page", ...(options.headers || {}) } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    waitForServer();
    throw new Refusal("the server does not answer", 0);
  }
  if (response.ok) return response;
  let message = response.statusText;
  try { message = (await response.json()).error || message; } catch { /* no JSON: the status text stands */ }
  throw new Refusal(message, response.status);
}

function waitForServer() {
  if (waiting) return;
  notice("The server does not answer. Is `difftrack explore` still running? This page continues when it is back.", { lasting: true, bad: true });
  waiting = setInterval(async () => {
    try {
      await fetch("api/library", { headers: { "x-difftrack": token || "page" } });
    } catch { return; }
    clearInterval(waiting);
    waiting = null;
    kept.clear();
    notice("The server is back.");
    recovered.forEach((callback) => callback());
  }, 1000);
}

export const getJson = async (path) => (await request(path)).json();

export async function getPicture(path) {
  return createImageBitmap(await (await request(path)).blob());
}

export const isKept = (name, question) => kept.has(`${name} ${JSON.stringify(question)}`);

/** Ask; repeated questions are answered from the cache. Binary answers come as {...header, arrays: {name: {data, shape}}}. */
export function ask(name, question) {
  const key = `${name} ${JSON.stringify(question)}`;
  if (kept.has(key)) {
    const answer = kept.get(key);
    kept.delete(key);
    kept.set(key, answer);
    return answer;
  }
  const answer = post(name, question).then(async (response) => {
    if (response.headers.get("content-type").startsWith("application/json")) return response.json();
    return unpack(await response.arrayBuffer());
  });
  answer.catch(() => kept.delete(key));
  kept.set(key, answer);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  return answer;
}

const post = (name, question, signal) =>
  request(name, { method: "POST", body: JSON.stringify(question), signal, headers: { "content-type": "application/json" } });

/** Ask for an answer that comes line by line; stops when the signal says so. */
export const askLines = (name, question, online, signal) => during(lineByLine(name, question, online, signal));

async function lineByLine(name, question, online, signal) {
  const key = `${name} ${JSON.stringify(question)}`;
  if (kept.has(key)) {
    for (const line of kept.get(key)) online(line);
    return;
  }
  const response = await post(name, question, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const lines = [];
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += value || "";
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const part of parts) {
      const line = JSON.parse(part);
      lines.push(line);
      online(line);
    }
    if (done) break;
  }
  kept.set(key, lines);
}

const TYPES = { uint16: Uint16Array, float32: Float32Array, uint8: Uint8Array };

function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const [name, { dtype, shape, offset }] of Object.entries(header.arrays)) {
    const count = shape.reduce((product, side) => product * side, 1);
    arrays[name] = { data: new TYPES[dtype](buffer, 4 + length + offset, count), shape };
  }
  return { ...header, arrays };
}

/** Send a file; `progress` receives the fraction sent. */
export function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `api/videos?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("x-difftrack", token || "page");
    request.responseType = "json";
    request.upload.onprogress = (event) => progress(event.loaded / Math.max(1, event.total));
    request.onload = () => (request.status === 200 ? resolve(request.response) : reject(new Refusal((request.response || {}).error || request.statusText, request.status)));
    request.onerror = () => reject(new Refusal("the upload was cut off", 0));
    request.send(file);
  });
}

/** Runs one task at a time, always the newest; overtaken tasks are dropped. */
export class Newest {
  constructor() {
    this.running = false;
    this.next = null;
  }

  run(task) {
    if (this.running) {
      this.next = task;
      return;
    }
    this.running = true;
    during(Promise.resolve(task())).catch(() => {}).finally(() => {
      this.running = false;
      const { next } = this;
      this.next = null;
      if (next) this.run(next);
    });
  }
}
