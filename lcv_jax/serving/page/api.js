// Requests to the server this page is from. The key, if one is needed, stays in this tab.

const KEY = "lcv_jax key";

export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered with status ${status}`);
    this.status = status;
    this.param = error?.param ?? null;
  }
}

export const key = () => sessionStorage.getItem(KEY);
export const setKey = (value) => sessionStorage.setItem(KEY, value);

async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key()) headers.set("Authorization", `Bearer ${key()}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch {
    throw new ApiError(0, { message: "the server cannot be reached" });
  }
  if (response.ok) return response;
  let body = null;
  try {
    body = await response.json();
  } catch { /* not ours */ }
  throw new ApiError(response.status, body?.error);
}

export const get = async (path) => (await send(path)).json();
export const text = async (path) => (await send(path)).text();
export const remove = (path) => send(path, { method: "DELETE" });
export const post = async (path, body) => (await send(path, { method: "POST", body })).json();

// A WebSocket; it can send no header, so the key is one of its subprotocols.
export function socket(path) {
  const protocols = ["lcv.live"];
  if (key()) {
    const text = btoa(String.fromCharCode(...new TextEncoder().encode(key())));
    protocols.push(`lcv.key.${text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`);
  }
  const opened = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`, protocols);
  opened.binaryType = "arraybuffer";
  return opened;
}

const blobs = new Map();

// An address for <video> and <a download>: with a key the content has to be fetched, for they send no header.
export async function address(path) {
  if (!key()) return path;
  if (!blobs.has(path)) blobs.set(path, URL.createObjectURL(await (await send(path)).blob()));
  return blobs.get(path);
}

export function forget(path) {
  if (blobs.has(path)) URL.revokeObjectURL(blobs.get(path));
  blobs.delete(path);
}
