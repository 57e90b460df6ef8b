// The live view: frames are shown at their rate as they arrive, and acknowledged when they are shown; a pause is no more
// than that no frame is shown. Frames that were shown are kept here to look back at; the server goes on from its own.

import { socket as open } from "./api.js";

const $ = (id) => document.getElementById(id);
const MOST_KEPT = 4800; // frames to look back at
let stream = null;

export function setUp() {
  $("live-form").addEventListener("submit", (event) => { event.preventDefault(); stream ? tell() : go(); });
  $("live-prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    $("live-form").requestSubmit();
  });
  $("live-pause").addEventListener("click", () => pause(!stream.paused));
  $("live-stop").addEventListener("click", () => stream.socket.close());
  $("live-save").addEventListener("click", () => { $("live-save").disabled = true; send("save"); });
  $("live-moment").addEventListener("input", () => { pause(true); look(Number($("live-moment").value)); });
  $("live-back").addEventListener("click", goBack);
}

const send = (type, fields = {}) => stream.socket.send(JSON.stringify({ type, ...fields }));
const say = (text) => { $("live-state").textContent = text; };

function problem(message) {
  $("live-problem").hidden = !message;
  $("live-problem").textContent = message ?? "";
}

function go() {
  const prompt = $("live-prompt").value.trim();
  problem(prompt ? null : "Say what to show.");
  if (!prompt) return $("live-prompt").focus();
  stream = {
    socket: open("/v1/live"), fps: 8, next: [], shown: [], first: 0, paused: false, returning: false, begun: false,
    timer: null, due: 0, told: null,
  };
  const own = stream;
  own.socket.onopen = () => send("start", { prompt });
  own.socket.onmessage = ({ data }) => { if (own === stream) receive(data); };
  own.socket.onclose = () => { if (own === stream) over(); };
  show("waiting", "Connecting ...");
}

function tell() {
  const prompt = $("live-prompt").value.trim();
  problem(null);
  send("prompt", { prompt });
  if (stream.paused) pause(false);
}

function show(state, text) {
  const playing = state === "playing";
  $("live").dataset.state = state;
  for (const id of ["live-pause", "live-save", "live-moments"]) $(id).hidden = !playing;
  $("live-stop").hidden = state === "idle";
  $("live-go").textContent = playing ? "Tell" : "Go";
  $("live-go").disabled = state === "waiting";
  $("live-prompt-label").textContent = playing ? "What happens next" : "Prompt";
  say(text);
}

function receive(data) {
  if (typeof data === "string") return hear(JSON.parse(data));
  const length = new DataView(data).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const file = new Blob([new Uint8Array(data, 4 + length)], { type: header.format });
  if (header.type === "video") return download(file);
  if (stream.returning) return undefined; // made before the server went back
  stream.next.push({ frame: header.frame, picture: createImageBitmap(file), file });
  return stream.timer ?? play();
}

function hear(message) {
  if (message.type === "queued") {
    show("waiting", `Waiting for a free device: place ${message.place} in the queue.`);
  } else if (message.type === "begun") {
    Object.assign(stream, { begun: true, fps: message.fps });
    Object.assign($("live-screen"), { width: message.width, height: message.height });
    $("live-warning").textContent = message.warnings.join(" ");
    $("live-warning").hidden = !message.warnings.length;
    show("playing", "The first frames are being made ...");
  } else if (message.type === "prompt") {
    stream.told = message; // shown with the first frame that follows it
    say(`Heard: ${message.prompt}`);
  } else if (message.type === "back") {
    Object.assign(stream, { returning: false, told: null });
    stream.shown.length = Math.max(0, message.frame - stream.first);
    stream.first = Math.min(stream.first, message.frame);
    $("live").dataset.frame = message.frame - 1;
    $("live-prompt").value = message.prompt;
    pause(false);
    say(`Back at ${seconds(message.frame)}.`);
  } else if (message.type === "error") {
    problem(message.error.message);
    $("live-save").disabled = false;
    if (!stream.begun) stream.socket.close();
  } else if (message.type === "ended") {
    if (message.error) problem(message.error.message);
  }
}

async function play() {
  const own = stream;
  own.timer = null;
  if (own.paused || !own.next.length) return;
  // From when this frame was due, not from when it came: timers are late, and lateness would add up.
  own.due = Math.max(own.due, performance.now() - 500 / own.fps) + 1000 / own.fps;
  own.timer = setTimeout(() => own === stream && play(), own.due - performance.now());
  const { frame, picture, file } = own.next[0];
  const drawn = await picture;
  if (own !== stream || own.paused || own.returning || own.next[0]?.frame !== frame) return;
  if (own.socket.readyState !== WebSocket.OPEN) return;
  own.next.shift();
  draw(frame, drawn);
  send("ack", { frame });
  own.shown.push(file);
  if (own.shown.length > MOST_KEPT) { own.shown.shift(); own.first += 1; }
  Object.assign($("live-moment"), { min: own.first, max: frame });
  $("live-moment").value = frame;
  showMoment(frame);
  $("live").dataset.frame = frame;
  if (own.told && frame >= own.told.frame) { say(`Now: ${own.told.prompt}`); own.told = null; }
  if ($("live-state").textContent.startsWith("The first")) say("Playing. Type what happens next.");
}

function draw(frame, picture) {
  $("live-screen").getContext("2d").drawImage(picture, 0, 0);
  $("live").dataset.shown = frame;
}

// Shows an earlier frame; where the slider has moved on meanwhile, that one is shown instead.
async function look(frame) {
  showMoment(frame);
  const own = stream, file = own.shown[frame - own.first];
  if (!file) return;
  const picture = await createImageBitmap(file);
  if (own === stream && own.paused && Number($("live-moment").value) === frame) draw(frame, picture);
}

function showMoment(frame) {
  $("live-moment").setAttribute("aria-valuetext", seconds(frame));
  $("live-moment-label").textContent = `Moment: ${seconds(frame)}`;
}

const seconds = (frame) => `${(frame / stream.fps).toFixed(1)} s`;

function pause(paused) {
  stream.paused = paused;
  $("live-pause").textContent = paused ? "Continue" : "Pause";
  if (paused) say("Paused.");
  else {
    if ($("live-state").textContent === "Paused.") say("Playing. Type what happens next.");
    stream.timer ?? play();
  }
}

function goBack() {
  stream.returning = true;
  stream.next = [];
  send("back", { frame: Number($("live-moment").value) });
}

function download(file) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: "stream.mp4" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  $("live-save").disabled = false;
  say(`Saved: ${link.download}, ${Math.ceil(file.size / 1000)} kB.`);
  $("live").dataset.saved = file.size;
}

function over() {
  clearTimeout(stream.timer);
  if (!stream.begun && $("live-problem").hidden) problem("The server cannot be reached.");
  stream = null;
  $("live-save").disabled = false;
  $("live-pause").textContent = "Pause";
  show("idle", "The stream has ended.");
}
