"""A server under load that is killed on the way: `python -m benchmarks.serving CHECKPOINT`.

Clients send text, images, clips and interactive videos, cancel some, and repeat what may have been lost, each with a
key of its own. Then every answer is checked: one job a request, no finished video lost or changed, no job that left a
final state. It prints times, memory, and what the server adds to a call of the pipeline.
"""

import argparse
import base64
import collections
import contextlib
import hashlib
import http.client
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROMPTS = ["a red circle moves quickly to the right", "a blue square turns slowly", "a green ring grows"]
_GONE = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class Server:
    """A server that can be killed and started again at the same address."""

    def __init__(self, checkpoint: str, folder: Path, port: int, flags: list[str]):
        self.address = f"http://127.0.0.1:{port}"
        self._command = [
            sys.executable,
            "-m",
            "lcv_jax.serve",
            checkpoint,
            "--port",
            str(port),
            "--folder",
            str(folder),
        ]
        self._command += [*flags, "--max-jobs-per-key", "1000", "--max-queue", "1000"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if not self.process.stdout.readline().startswith("serving"):
            raise RuntimeError("the server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def memory(self) -> float:
        """Megabytes of the server and its children."""
        pids, total = [self.process.pid], 0.0
        for pid in pids:
            with contextlib.suppress(OSError):
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                total += pages * 4096 / 1e6
        return total

    def ask(self, path: str, body: Any = None, method: str | None = None, key: str = "") -> Any:
        headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            content = reply.read()
            return json.loads(content) if reply.headers["content-type"] == "application/json" else content

    def ask_until(self, *arguments: Any, seconds: float = 120, **keywords: Any) -> Any:
        """`ask`, repeated while the server is away."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.ask(*arguments, **keywords)
            except urllib.error.HTTPError:
                raise
            except _GONE:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)


class Load:
    """What clients did and saw."""

    def __init__(self, server: Server, size: int, steps: int):
        self.server, self.size, self.steps = server, size, steps
        self.states: dict[str, str] = {}
        self.keys: dict[str, set[str]] = collections.defaultdict(set)
        self.digests: dict[str, str] = {}
        self.times: list[float] = []
        self.problems: list[str] = []
        self.done = 0
        self._lock = threading.Lock()

    def request(self, number: int) -> dict[str, Any]:
        """The fields of a request."""
        rng = random.Random(number)
        fields: dict[str, Any] = {"seed": number, "num_inference_steps": self.steps, "enhance_hf": False}
        kind = number % 4
        finished = sorted(self.digests)
        if kind == 3:
            return {**fields, "prompts": PROMPTS[:2]}
        fields["prompt"] = rng.choice(PROMPTS)
        if kind == 1:
            levels = np.random.default_rng(number).integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(levels).save(file, "png")
            url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
            return {**fields, "input_reference": {"image_url": url}}
        if kind == 2 and finished:
            return {**fields, "video": {"id": rng.choice(finished)}}
        return fields

    def client(self, number: int) -> None:
        """One request, from its creation to its end."""
        key, began = f"request-{number}", time.monotonic()
        try:
            fields = self.request(number)
            video = self.server.ask_until("/v1/videos", fields, key=key)
            self.keys[key].add(video["id"])
            cancels = number % 10 == 7
            while video["status"] in ("queued", "in_progress"):
                if cancels and video["status"] == "in_progress":
                    video = self.server.ask_until(f"/v1/videos/{video['id']}/cancel", method="POST")
                    continue
                time.sleep(0.1)
                video = self.server.ask_until(f"/v1/videos/{video['id']}")
            self.keys[key].add(self.server.ask_until("/v1/videos", fields, key=key)["id"])
            with self._lock:
                self.states[video["id"]] = video["status"]
            if video["status"] == "completed":
                content = self.server.ask_until(f"/v1/videos/{video['id']}/content")
                with self._lock:
                    self.digests[video["id"]] = hashlib.sha256(content).hexdigest()
                    self.times.append(time.monotonic() - began)
            elif video["error"]["code"] not in ("cancelled", "interrupted"):
                self.problems.append(f"{key}: {video['error']}")
        except Exception as error:
            self.problems.append(f"{key}: {type(error).__name__}: {error}")
        with self._lock:
            self.done += 1

    def check(self) -> None:
        """Compares what the server says at the end with what clients saw."""
        for key, ids in self.keys.items():
            if len(ids) != 1:
                self.problems.append(f"{key} was answered with {len(ids)} jobs")
        listed: dict[str, str] = {}
        after = ""
        while True:
            page = self.server.ask(f"/v1/videos?limit=100{after}")
            listed.update((video["id"], video["status"]) for video in page["data"])
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        if len(listed) != len(self.keys):
            self.problems.append(f"{len(listed)} jobs for {len(self.keys)} requests")
        for job, state in self.states.items():
            if listed.get(job) != state:
                self.problems.append(f"{job} was {state}, is {listed.get(job)}")
        for job, digest in self.digests.items():
            if hashlib.sha256(self.server.ask(f"/v1/videos/{job}/content")).hexdigest() != digest:
                self.problems.append(f"{job} has changed")


def run(
    checkpoint: str, *, requests: int, clients: int, kills: int, size: int = 64, frames: int = 17, steps: int = 4,
    condition: int = 9,
) -> dict[str, Any]:  # fmt: skip
    """The whole of it; numbers to print, and `problems`, which should be none."""
    flags = ["--size", str(size), str(size), "--num-frames", str(frames), "--fps", "8", "--max-sequence-length", "32"]
    flags += ["--num-cond-frames", str(condition), "--num-steps", str(steps)]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(checkpoint, Path(folder), _free_port(), flags)
        load, memory = Load(server, size, steps), list[tuple[int, float]]()
        try:
            with ThreadPoolExecutor(clients) as pool:
                for number in range(requests):
                    pool.submit(load.client, number)
                for kill in range(kills):
                    _wait(load, requests * (kill + 1) // (2 * kills + 2) if kills else 0)
                    server.kill()
                    server.start()
                since = load.done
                while load.done < requests:
                    memory.append((load.done - since, server.memory()))
                    time.sleep(0.5)
            load.check()
            warm = [one for done, one in memory if done >= 20]
            return {
                "requests": requests, "clients": clients, "kills": kills,
                "completed": len(load.digests),
                "cancelled or interrupted": sum(state == "failed" for state in load.states.values()),
                "megabytes after 20": warm[0] if warm else None,
                "megabytes at the end": warm[-1] if warm else None,
                "added seconds a video": _overhead(server, checkpoint, size, frames, steps),
                "problems": load.problems,
            }  # fmt: skip
        finally:
            server.kill()


def _overhead(server: Server, checkpoint: str, size: int, frames: int, steps: int, repeats: int = 15) -> float:
    """Median seconds of a request for a text's video, less those of the same call and the same file written here."""
    from lcv_jax.data.media_writer import VideoWriter
    from lcv_jax.pipeline import load_pipeline

    body = {"prompt": PROMPTS[0], "num_inference_steps": steps, "seed": 0}
    pipeline, served, own = load_pipeline(checkpoint), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats + 1):
            began = time.perf_counter()
            server.ask("/v1/videos/sync", body)
            served.append(time.perf_counter() - began)
            began = time.perf_counter()
            video = pipeline.text_to_video(
                PROMPTS[0], height=size, width=size, num_frames=frames, num_steps=steps, max_sequence_length=32,
                on_step=lambda *_: None,
            )[0]  # fmt: skip
            with VideoWriter(Path(folder) / "video.mp4", fps=8, height=size, width=size) as file:
                file.write(video)
            own.append(time.perf_counter() - began)
    return statistics.median(served[1:]) - statistics.median(own[1:])


def _wait(load: Load, done: int) -> None:
    while load.done < done:
        time.sleep(0.1)


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def main() -> None:
    """Runs it and prints what was found; the exit status is 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--kills", type=int, default=2)
    chosen = parser.parse_args()
    began = time.monotonic()
    found = run(chosen.checkpoint, requests=chosen.requests, clients=chosen.clients, kills=chosen.kills)
    for name, value in {**found, "seconds in all": time.monotonic() - began}.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    sys.exit(bool(found["problems"]))


if __name__ == "__main__":
    main()
