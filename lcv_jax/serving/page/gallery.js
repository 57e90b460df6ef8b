// The videos: a card each, kept up to date.

import { address, forget, get, post, remove, text } from "./api.js";

const $ = (id) => document.getElementById(id);
const cards = new Map();

export function show(videos, actions) {
  $("empty").hidden = videos.length > 0;
  const known = new Set(videos.map((video) => video.id));
  for (const [id, card] of cards) {
    if (!known.has(id)) {
      card.element.remove();
      cards.delete(id);
    }
  }
  videos.forEach((video, place) => {
    if (!cards.has(video.id)) cards.set(video.id, makeCard(actions));
    const card = cards.get(video.id);
    if ($("gallery").children[place] !== card.element) $("gallery").insertBefore(card.element, $("gallery").children[place] ?? null);
    const state = JSON.stringify(video);
    if (card.state !== state) update(card, video, actions);
    card.state = state;
  });
}

function makeCard() {
  const element = $("card").content.firstElementChild.cloneNode(true);
  return { element, part: (name) => element.querySelector(name), status: null, shown: null };
}

function update(card, video, actions) {
  const title = video.prompt || video.fields.prompts?.join(" / ") || video.task;
  card.element.dataset.id = video.id;
  card.element.dataset.status = video.status;
  card.element.setAttribute("aria-label", title.slice(0, 100));
  card.part("h3").textContent = title;
  card.part(".state").textContent = stateOf(video);
  card.part(".state").className = `state ${video.status}`;
  const bar = card.part("progress");
  bar.hidden = video.status !== "in_progress";
  bar.value = video.progress;
  bar.setAttribute("aria-label", `Progress of ${title.slice(0, 60)}`);
  const facts = [video.task, video.size, video.seconds && `${video.seconds} s`, `seed ${video.seed}`];
  card.part(".facts").textContent = [...facts.filter(Boolean), ...video.warnings].join(" · ");
  const source = video.status === "completed" ? `/v1/videos/${video.id}/content` : video.segments.at(-1) ?? null;
  if (source !== card.shown) play(card, source, title);
  if (video.status !== card.status) {
    if (card.status) actions.announce(`${title.slice(0, 60)}: ${stateOf(video)}`);
    card.status = video.status;
    card.part(".actions").replaceChildren(...buttons(video, actions, title));
    const details = card.part(".sidecar");
    details.hidden = video.status !== "completed";
    details.addEventListener("toggle", async () => {
      if (details.open) card.part("pre").textContent = await text(`/v1/videos/${video.id}/content?variant=sidecar`);
    }, { once: true });
  }
}

function stateOf(video) {
  if (video.status === "queued") return video.queue_position > 1 ? `Number ${video.queue_position} in the queue` : "Next in the queue";
  if (video.status === "completed") return `Finished in ${duration(video.made_in ?? 0)}`;
  if (video.status === "failed") return video.error.code === "cancelled" ? "Cancelled" : `Failed: ${video.error.message}`;
  if (!video.step) return "Loading and compiling ...";
  const segment = video.num_segments > 1 ? `segment ${video.segment} of ${video.num_segments}, ` : "";
  const stage = video.stage === "draft" || video.stage === "refined" ? `${video.stage}, ` : "";
  const left = video.seconds_left === null ? "" : `, ${duration(video.seconds_left)} left`;
  return `${video.progress} %: ${stage}${segment}step ${video.step} of ${video.num_steps}${left}`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

async function play(card, source, title) {
  card.shown = source;
  if (!source) {
    card.part(".screen").replaceChildren();
    return;
  }
  const video = Object.assign(document.createElement("video"), { controls: true, loop: true, muted: true, playsInline: true });
  video.setAttribute("aria-label", `Video: ${title.slice(0, 80)}`);
  video.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  try {
    video.src = await address(source);
  } catch {
    return; // it was deleted meanwhile
  }
  if (card.shown === source) card.part(".screen").replaceChildren(video);
}

function buttons(video, actions, title) {
  const make = (label, call) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: label });
    button.setAttribute("aria-label", `${label}: ${title.slice(0, 60)}`);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await call();
      } catch (error) {
        actions.announce(error.message, true);
      } finally {
        button.disabled = false;
      }
    });
    return button;
  };
  const path = `/v1/videos/${video.id}`;
  if (video.status === "queued" || video.status === "in_progress") {
    return [make("Cancel", async () => { await post(`${path}/cancel`); await actions.refresh(); })];
  }
  const withInput = ["image-to-video", "continue-video", "refine"].includes(video.task);
  const again = withInput
    ? make("Again, another seed", async () => {
      const seed = Math.floor(Math.random() * 2 ** 31);
      await post(`${path}/remix`, new Blob([JSON.stringify({ seed })], { type: "application/json" }));
      await actions.refresh();
    })
    : make("Again with these settings", async () => actions.useSettings(video));
  const gone = make("Delete", async () => { await remove(path); forget(`${path}/content`); await actions.refresh(); });
  if (video.status === "failed") return [again, gone];
  return [
    make("Download", async () => {
      const link = Object.assign(document.createElement("a"), { href: await address(`${path}/content`), download: `${video.id}.mp4` });
      link.click();
    }),
    again,
    make("Continue this", async () => actions.useVideo(video, "clip")),
    make("Refine this", async () => actions.useVideo(video, "refine")),
    gone,
  ];
}

export const load = (limit) => get(`/v1/videos?limit=${limit}`);
