"""A server as people start it, over the tiny checkpoint, and a client that knows nothing but HTTP."""

import io
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid

import numpy as np
from PIL import Image

SIZES = ("--size", "32", "48", "--refine-size", "64", "64", "--num-frames", "5", "--num-cond-frames", "1", "--fps", "8")
STEPS = ("--num-steps", "2", "--max-sequence-length", "16", "--max-steps", "9000")
LIVE = ("--live-chunk", "1", "--live-sink", "1", "--live-ring", "2")
# Never finished on any machine before a test has seen what it looks for and cancels it.
LONG = {"prompt": "a cat", "num_inference_steps": 9000, "num_frames": 21}


class ServedModel:
    def __init__(self, checkpoint, folder, *flags, file_kilobytes=None, module="lcv_jax.serve"):
        self.command = [sys.executable, "-m", module, str(checkpoint), "--port", "0", "--folder", str(folder)]
        self.command += [*SIZES, *STEPS, *LIVE, *flags]
        if file_kilobytes:
            self.command = ["bash", "-c", f'ulimit -f {file_kilobytes}; exec "$@"', "--", *self.command]
        self.key = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("serving "), line
        self.address = line.split()[-1]

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def end(self):
        self.process.terminate()
        status = self.process.wait(30)
        self.process.stdout.close()
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()

    def ask(self, path, body=None, method=None, headers=(), raw=False):
        """The status and what was answered: JSON, or bytes with headers."""
        headers = {**({"Authorization": f"Bearer {self.key}"} if self.key else {}), **dict(headers)}
        if isinstance(body, dict | list):
            headers, body = {"Content-Type": "application/json", **headers}, json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                content = reply.read()
                is_json = not raw and reply.headers["content-type"].startswith("application/json")
                return reply.status, json.loads(content) if is_json else (content, reply.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def form(self, path, fields, files=()):
        """Posts a form; files are (field, name, bytes, type)."""
        edge = uuid.uuid4().hex
        parts = [
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields
        ]
        for field, name, content, kind in files:
            head = f'--{edge}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
            parts.append(f"{head}Content-Type: {kind}\r\n\r\n".encode() + content + b"\r\n")
        body = b"".join(parts) + f"--{edge}--\r\n".encode()
        return self.ask(path, body, headers={"Content-Type": f"multipart/form-data; boundary={edge}"})

    def create(self, **fields):
        status, video = self.ask("/v1/videos", fields)
        assert status == 200, video
        return video

    def wait(self, video, until=("completed", "failed"), seconds=180):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status, now = self.ask(f"/v1/videos/{video['id']}")
            assert status == 200, now
            if now["status"] in until:
                return now
            time.sleep(0.03)
        raise AssertionError(f"still {now}")

    def wait_until(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError("it did not happen")


def picture(height=32, width=48, seed=0, kind="png"):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, kind)
    return file.getvalue()


def lost_and_kept(server, videos):
    """Of two videos that run, the one whose worker was killed, once the server says so, and the other."""

    def now():
        return sorted((server.ask(f"/v1/videos/{video['id']}")[1] for video in videos), key=lambda v: v["status"])

    lost, kept = server.wait_until(lambda: [v["status"] for v in now()] == ["failed", "in_progress"] and now())
    return lost, kept
