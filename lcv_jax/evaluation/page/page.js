"use strict";
const rater = new URLSearchParams(location.search).get("rater") || "";
const at = (id) => document.getElementById(id);
let item = null, current = 0, pending = Promise.resolve(), failed = false;

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const reply = await fetch(path, options);
  const content = await reply.json();
  if (!reply.ok) throw new Error(content.error || `the server replied ${reply.status}`);
  return content;
}

function fail(error) {
  failed = true;
  at("message").textContent = `${error.message}. Your earlier answers are stored; reload the page to go on.`;
}

async function show(path) {
  try {
    item = await ask(`${path}?${new URLSearchParams({ rater, item: item?.item || "" })}`);
  } catch (error) { at("main").hidden = true; return fail(error); }
  failed = false;
  at("message").textContent = item.finished ? thanks() : "";
  at("main").hidden = Boolean(item.finished);
  at("progress").max = item.total || 1;
  at("progress").value = item.done;
  at("count").textContent = `${item.done} of ${item.total}`;
  document.body.dataset.item = item.finished ? "finished" : item.item;
  if (item.finished) return;
  at("training").hidden = !item.training;
  at("prompt").textContent = item.prompt || "(no prompt: the image alone was given)";
  at("feedback").textContent = "";
  at("keys").textContent = `Keys: 1 to ${item.dimensions[0].choices.length} answer, arrow up and down change the question.`;
  at("media").replaceChildren(...media());
  at("questions").replaceChildren(...item.dimensions.map(question));
  at("questions").inert = false;
  item.answered = new Set(Object.keys(item.scores)); // some of them not yet stored
  goOn(0);
  play();
}

function thanks() {
  const missing = item.missing ? ` ${item.missing} items could not be shown, because their clips are gone.` : "";
  return `That was all. Thank you!${missing}`;
}

// Whoever sees no clip rates nothing.
function cannotPlay() {
  item.broken = true;
  at("questions").inert = true;
  at("message").textContent =
    "This clip cannot be played, and so it cannot be rated. Next skips it; reload the page to try again.";
  mark();
}

async function goToNext() {
  try {
    if (item.broken && !isComplete()) await ask("/api/skip", { rater, item: item.item });
  } catch (error) { return fail(error); }
  show("/api/next");
}

const isComplete = () => item.dimensions.every((one) => one.id in item.scores);

function media() {
  const shown = item;
  const figures = item.videos.map((source, place) => {
    const video = Object.assign(document.createElement("video"), { src: source, muted: true, playsInline: true });
    video.preload = "auto";
    if (item.videos.length === 1) video.controls = true;
    video.addEventListener("ended", restart);
    return figure(video, item.videos.length > 1 ? ["Left", "Right"][place] : "");
  });
  if (item.image) figures.unshift(figure(Object.assign(new Image(), { src: item.image }), "Reference image"));
  for (const one of figures) {
    one.firstChild.addEventListener("error", () => { if (item === shown) cannotPlay(); });
  }
  return figures;
}

function figure(content, caption) {
  const element = document.createElement("figure");
  element.append(content);
  if (caption) element.append(Object.assign(document.createElement("figcaption"), { textContent: caption }));
  return element;
}

const players = () => [...document.querySelectorAll("video")];

// Players start together, and again when the longest has ended.
function play() {
  const videos = players();
  const ready = videos.map((video) => video.readyState >= 3 ? null : new Promise((done) => {
    video.addEventListener("canplay", done, { once: true });
  }));
  Promise.all(ready).then(() => {
    for (const video of videos) { video.currentTime = 0; video.play().catch(() => {}); }
  });
}

function restart() { if (players().every((video) => video.ended)) play(); }

// Decoders drift: the second follows the first.
setInterval(() => {
  const [first, second] = players();
  if (first && second && !first.ended && !second.ended && Math.abs(first.currentTime - second.currentTime) > 0.08) {
    second.currentTime = first.currentTime;
  }
}, 250);

function question(dimension, place) {
  const set = document.createElement("fieldset");
  set.append(Object.assign(document.createElement("legend"), { textContent: dimension.title }));
  set.append(Object.assign(document.createElement("p"), { textContent: dimension.question }));
  const choices = Object.assign(document.createElement("div"), { className: "choices" });
  dimension.choices.forEach((choice, number) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), {
      type: "radio", name: dimension.id, value: choice.score, checked: item.scores[dimension.id] === choice.score,
    });
    input.addEventListener("change", () => answer(place, number));
    label.append(input, ` ${item.kind === "absolute" ? choice.score : number + 1}: ${choice.text}`);
    choices.append(label);
  });
  set.append(choices);
  return set;
}

// To the first question without an answer, or stays at a place.
function goOn(place) {
  const open = item.dimensions.findIndex((one) => !item.answered.has(one.id));
  current = open < 0 ? place : open;
  mark();
}

function mark() {
  [...at("questions").children].forEach((set, place) => set.classList.toggle("current", place === current));
  at("questions").children[current]?.scrollIntoView({ block: "nearest" });
  at("next").disabled = failed || !(item.broken || isComplete());
}

function answer(place, number) {
  const shown = item, dimension = item.dimensions[place], choice = dimension.choices[number];
  if (!choice || item.broken) return;
  at("questions").children[place].querySelectorAll("input")[number].checked = true;
  // The next key may come before the reply: it answers the next question.
  item.answered.add(dimension.id);
  goOn(place);
  // Answers go one after the other, each stored before the next.
  pending = pending.then(() => ask("/api/rate", { rater, item: shown.item, dimension: dimension.id, score: choice.score }))
    .then((reply) => {
      shown.scores[dimension.id] = choice.score;
      if (item !== shown) return;
      if (reply.feedback) at("feedback").textContent = `${reply.feedback.right ? "Right." : "Look again."} ${reply.feedback.text}`;
      mark();
    }).catch(fail);
}

at("next").addEventListener("click", goToNext);
at("previous").addEventListener("click", () => show("/api/previous"));
at("replay").addEventListener("click", play);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !item || item.finished) return;
  const keys = {
    ArrowDown: () => { current = Math.min(current + 1, item.dimensions.length - 1); mark(); },
    ArrowUp: () => { current = Math.max(current - 1, 0); mark(); },
    Enter: () => pending.then(() => at("next").disabled || goToNext()),
    Backspace: () => show("/api/previous"),
    " ": play,
  };
  const act = /^[1-9]$/.test(event.key) ? () => answer(current, Number(event.key) - 1) : keys[event.key];
  if (act) { event.preventDefault(); act(); }
});

show("/api/next");
