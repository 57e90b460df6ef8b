// The form: what is shown for which mode, and what is sent.

import { post } from "./api.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["seed", "num_inference_steps", "guidance_scale", "num_frames", "fps", "num_cond_frames"];
const MEDIA = { image: "Image", clip: "Clip to continue", refine: "Clip to refine", long: "Begin with an image or a clip (may be left out)" };
let reference = null; // a video of the gallery instead of a file

export const mode = () => document.querySelector("input[name=mode]:checked").value;

export function setUp(model, onMade) {
  const { defaults, limits, sizes } = model;
  for (const size of sizes) {
    const [width, height] = size.split("x").map(Number);
    $("size").add(new Option(`${width} x ${height} (${shape(width, height)})`, size));
  }
  $("num_frames").placeholder = defaults.num_frames;
  $("num_frames").max = limits.max_frames;
  $("fps").placeholder = defaults.fps;
  $("num_cond_frames").placeholder = defaults.num_cond_frames;
  $("num_inference_steps").max = limits.max_steps;
  $("num_inference_steps").placeholder = defaults.num_steps ?? (defaults.distilled ? 16 : 50);
  addSegment();
  addSegment();
  for (const radio of document.querySelectorAll("input[name=mode]")) radio.addEventListener("change", showMode);
  $("add-segment").addEventListener("click", () => addSegment().focus());
  $("drop-reference").addEventListener("click", () => setReference(null));
  $("file").addEventListener("change", () => { setReference(null); preview(); });
  acceptDrops();
  $("make").addEventListener("submit", (event) => { event.preventDefault(); submit(onMade); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(onMade);
  });
  showMode();
}

function shape(width, height) {
  const ratios = [["16:9", 16 / 9], ["4:3", 4 / 3], ["square", 1], ["3:4", 3 / 4], ["9:16", 9 / 16]];
  const near = ratios.find(([, ratio]) => Math.abs(width / height / ratio - 1) < 0.06);
  return near ? near[0] : (width / height).toFixed(2);
}

function showMode() {
  const now = mode();
  $("media").hidden = now === "text";
  $("file-label").textContent = MEDIA[now] ?? "";
  $("file").accept = now === "image" ? "image/*" : now === "long" ? "image/*,video/*" : "video/*,image/gif,image/webp";
  $("one-prompt").hidden = now === "long";
  $("segments").hidden = now !== "long";
  $("refine-field").hidden = now === "refine";
  for (const option of $("size").querySelectorAll("option[value='']")) option.remove();
  if (now !== "text") $("size").add(new Option(now === "refine" ? "default" : "the default for its shape", ""), 0);
  if (now === "text" && $("size").selectedIndex < 0) $("size").selectedIndex = 0;
  if (now !== "text") $("size").value = "";
  problem(null);
}

function addSegment(text = "") {
  const item = document.createElement("li");
  const number = $("segment-list").children.length + 1;
  const label = Object.assign(document.createElement("label"), { className: "unseen", htmlFor: `segment-${number}` });
  label.textContent = `Prompt of segment ${number}`;
  const line = Object.assign(document.createElement("div"), { className: "line" });
  const area = Object.assign(document.createElement("textarea"), { id: `segment-${number}`, rows: 2, value: text });
  area.placeholder = number === 1 ? "What happens first" : "What happens next";
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Remove" });
  button.setAttribute("aria-label", `Remove segment ${number}`);
  button.addEventListener("click", () => {
    const texts = segmentTexts();
    texts.splice([...$("segment-list").children].indexOf(item), 1);
    setSegments(texts.length ? texts : [""]);
    $("add-segment").focus();
  });
  line.append(area, button);
  item.append(label, line);
  $("segment-list").append(item);
  return area;
}

const segmentTexts = () => [...document.querySelectorAll("#segment-list textarea")].map((area) => area.value);

function setSegments(texts) {
  $("segment-list").replaceChildren();
  texts.forEach((text) => addSegment(text));
}

function acceptDrops() {
  const zone = document.body;
  zone.addEventListener("dragover", (event) => { event.preventDefault(); $("media").classList.add("over"); });
  zone.addEventListener("dragleave", () => $("media").classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    $("media").classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (!file) return;
    if (mode() === "text") choose(file.type.startsWith("image/") ? "image" : "clip");
    const files = new DataTransfer();
    files.items.add(file);
    $("file").files = files.files;
    setReference(null);
    preview();
  });
}

function preview() {
  const [file] = $("file").files;
  const isImage = file?.type.startsWith("image/");
  if ($("preview").src) URL.revokeObjectURL($("preview").src);
  $("preview").hidden = !isImage;
  if (isImage) {
    $("preview").src = URL.createObjectURL(file);
    $("preview").alt = `Preview of ${file.name}`;
  }
}

function choose(name) {
  document.querySelector(`input[name=mode][value=${name}]`).checked = true;
  showMode();
}

function setReference(video) {
  reference = video;
  $("reference").hidden = !video;
  $("file").hidden = $("file-hint").hidden = Boolean(video);
  if (video) {
    $("file").value = "";
    $("preview").hidden = true;
    $("reference-text").textContent = `The video "${(video.prompt ?? video.fields.prompts?.[0] ?? video.id).slice(0, 80)}"`;
  }
}

export function useVideo(video, name) {
  choose(name);
  setReference(video);
  $("prompt").value = name === "refine" ? video.prompt ?? "" : "";
  $("prompt").focus();
}

// Fills the form with a video's request. Its image or clip is not sent to the page again: `remix` has it.
export function useSettings(video) {
  const { fields } = video;
  choose(fields.prompts ? "long" : "text");
  if (fields.prompts) setSegments(fields.prompts);
  $("prompt").value = fields.prompt ?? "";
  for (const id of NUMBERS) $(id).value = fields[id] ?? "";
  $("negative_prompt").value = fields.negative_prompt ?? "";
  $("distilled").checked = Boolean(fields.distilled);
  $("refine").checked = Boolean(fields.refine);
  if (fields.size && [...$("size").options].some((option) => option.value === fields.size)) $("size").value = fields.size;
  $("more").open = true;
  (fields.prompts ? $("segment-1") : $("prompt")).focus();
}

function problem(message, field = null) {
  $("problem").hidden = !message;
  $("problem").textContent = message ?? "";
  for (const marked of document.querySelectorAll("[aria-invalid]")) marked.removeAttribute("aria-invalid");
  const place = { input_reference: "file", video: "file", prompts: "segment-1" }[field] ?? field;
  if (message && place && $(place)) {
    if (NUMBERS.includes(place)) $("more").open = true;
    $(place).setAttribute("aria-invalid", "true");
    $(place).focus();
  }
}

function body() {
  const form = new FormData();
  const now = mode();
  if (now === "long") for (const text of segmentTexts()) form.append("prompts[]", text);
  else if ($("prompt").value || now === "text") form.set("prompt", $("prompt").value);
  if (now === "refine") form.set("task", "refine");
  if (now !== "text") {
    if (reference) form.set("video", JSON.stringify({ id: reference.id }));
    else if ($("file").files.length) form.set("input_reference", $("file").files[0]);
    else if (now !== "long") throw Object.assign(new Error("Choose a file first."), { param: "input_reference" });
  }
  if ($("size").value) form.set("size", $("size").value);
  const clip = now === "clip" || now === "long";
  for (const id of NUMBERS) {
    const used = now === "refine" ? ["seed", "num_inference_steps"].includes(id) : id !== "num_cond_frames" || clip;
    if ($(id).value !== "" && used) form.set(id, $(id).value);
  }
  if (now !== "refine") {
    if ($("negative_prompt").value) form.set("negative_prompt", $("negative_prompt").value);
    if ($("distilled").checked) form.set("distilled", "true");
    if ($("refine").checked) form.set("refine", "true");
  }
  return form;
}

async function submit(onMade) {
  if ($("submit").disabled) return;
  problem(null);
  $("submit").disabled = true;
  try {
    if (mode() === "text" && !$("prompt").value.trim()) {
      throw Object.assign(new Error("Say what to show."), { param: "prompt" });
    }
    onMade(await post("/v1/videos", body()));
  } catch (error) {
    problem(error.message, error.param);
  } finally {
    $("submit").disabled = false;
  }
}

