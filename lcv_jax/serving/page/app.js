// Puts the page together: asks for the model and a key if need be, and keeps the gallery up to date.

import { ApiError, get, setKey } from "./api.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as live from "./live.js";

const $ = (id) => document.getElementById(id);
const BUSY = 500, IDLE = 5000, MOST = 100; // milliseconds between two looks; videos listed at once
let limit = 24, timer = null;

const actions = {
  announce(message, isProblem = false) {
    $("announce").textContent = message;
    if (isProblem) $("server").textContent = message;
  },
  refresh,
  useSettings: form.useSettings,
  useVideo: form.useVideo,
};

async function refresh() {
  clearTimeout(timer);
  let pause = IDLE;
  try {
    const found = await gallery.load(limit);
    gallery.show(found.data, actions);
    $("older").hidden = !found.has_more || limit >= MOST;
    const open = found.data.filter((video) => video.status === "queued" || video.status === "in_progress");
    if (open.length) pause = BUSY;
    document.body.dataset.open = open.length;
    if (!model.device) describe(model = await connect());
  } catch (error) {
    actions.announce(error.message, true);
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, document.hidden ? IDLE : pause);
}

async function connect() {
  for (;;) {
    try {
      return (await get("/v1/models")).data[0];
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) {
        $("server").textContent = error.message;
        await new Promise((resolve) => setTimeout(resolve, 2000));
        continue;
      }
      await askKey();
    }
  }
}

function askKey() {
  return new Promise((resolve) => {
    $("ask-key").addEventListener("close", () => { setKey($("key").value); resolve(); }, { once: true });
    $("ask-key").showModal();
  });
}

function describe(model) {
  const { device, replicas } = model;
  $("server").textContent = `${model.id}${replicas > 1 ? `, ${replicas} workers` : ""}`;
  $("memory").textContent = device ? `Memory: ${memoryOf(model)}.` : "Memory: the worker is loading its weights.";
}

// The preset, what it costs, and how the weights are held.
function memoryOf({ device, dtype, fold_adapters, memory_preset }) {
  const { weights, keep_text_encoder, vae_tiles, gigabytes } = device.memory;
  const where = { device: "on the device", host: "in host memory between uses", disk: "read from disk for each use" };
  const cost = gigabytes === null ? null : `about ${gigabytes.toFixed(1)} GB`;
  return [
    memory_preset ? `preset ${memory_preset === "auto" ? "auto" : `${memory_preset} GB`}` : "no preset",
    ...(cost === null ? [] : [`${cost} for a video of the default size`]),
    `${device.num_devices} x ${device.device}`,
    `weights ${dtype === "stored" ? "as stored" : `in ${dtype}`}`,
    weights === "stream" ? "layers in host memory, two at a time on the device" : "all layers on the device",
    `text encoder ${where[keep_text_encoder]}`,
    `autoencoder ${vae_tiles ? "in tiles (less memory, a little slower)" : "whole"}`,
    fold_adapters ? "adapters folded into a copy of the weights" : "adapters added at each step (no copy, slower)",
  ].join("; ");
}

let model = await connect();
describe(model);
form.setUp(model, refresh);
live.setUp();
$("older").addEventListener("click", () => { limit = Math.min(MOST, limit + 24); refresh(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
await refresh();
document.body.dataset.ready = "true";
