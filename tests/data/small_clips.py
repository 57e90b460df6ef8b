"""Small clips that tell who they are by their brightness, and networks that pass it on."""

import json

import numpy as np

from lcv_jax import encode
from lcv_jax.data.media_writer import VideoWriter, write_image

STEP = 9
"""Levels of brightness from one clip to the next."""


def number_of(array):
    """The number of the clip that latents or frames were made of."""
    scale = 1 if array.dtype == np.uint8 else 255
    return round(float(array.astype(np.float64).mean()) * scale / STEP)


def write_manifest(folder, rows, name="clips.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_clips(folder, lengths, size=(16, 16), fps=8, first=0):
    """Clips of so many frames; their rows in a manifest."""
    rows = []
    for number, length in enumerate(lengths, first):
        name = f"{number}.mp4" if length > 1 else f"{number}.png"
        frames = np.full((length, *size, 3), number * STEP, np.uint8)
        if length > 1:
            with VideoWriter(folder / name, fps=fps, height=size[0], width=size[1], crf=0) as video:
                video.write(frames)
        else:
            write_image(folder / name, frames[0])
        rows.append({"id": f"c{number}", "path": name, "caption": "word " * number + "end", "weight": number})
    return rows


class StubNetworks(encode.Networks):
    """Latents are the mean of 8 x 8 pixels of every fourth frame, text is one row a word and one for the end."""

    provenance = {"components": {"vae": "stub", "text_encoder": "stub"}}
    content = {"vae": "stub", "text_encoder": "stub"}

    def __init__(self, arguments):
        self.arguments = arguments

    def check(self, groups):
        pass

    def text(self, caption):
        length = len(caption.split()) + 1
        return np.full((length, 6), len(caption), self.arguments.text_dtype)

    def latents(self, video_THWC):
        _, H, W, C = video_THWC.shape
        pooled = (np.asarray(video_THWC, np.float32)[::4] / 255).reshape(-1, H // 8, 8, W // 8, 8, C).mean((2, 4))
        return pooled.astype(self.arguments.latents_dtype)

    def unknown(self, captions):
        return [], len(captions)

    def decoded(self, latents_THWC):
        frames = latents_THWC.astype(np.float32).repeat(8, 1).repeat(8, 2).repeat(4, 0)[3:]
        return np.rint(frames * 255).astype(np.uint8)

    def upsampled_latents(self, small_THWC, size):
        T, H, W = size
        mean = np.float32(small_THWC.mean() / 255)
        return np.full(((T - 1) // 4 + 1, H // 8, W // 8, 3), mean, self.arguments.latents_dtype)
