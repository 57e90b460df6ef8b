"""Writes docs/moving.webp, the moving picture of the README: `python docs/moving.py`, after `make demo`.

Frames are enlarged by whole pixels, so that the picture shows what the small model made and nothing else.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lcv_jax.data.media_reader import read_video

DEMO = Path("outputs/demo")
SIDE = 128
LABEL = 22
PANELS = (
    ("text to video", "text.mp4"),
    ("image to video", "image.mp4"),
    ("continuation", "continued.mp4"),
    ("right, then down", "interactive.mp4"),
    ("text to video, refined", "refined.mp4"),
)
FPS = 8


def panel(video_THWC: np.ndarray, label: str, num_frames: int) -> list[Image.Image]:
    """A clip at FPS with a label above, repeated or cut to the number of frames."""
    font = ImageFont.load_default(11)
    frames = []
    for index in range(num_frames):
        picture = Image.new("RGB", (SIDE, SIDE + LABEL), "white")
        ImageDraw.Draw(picture).text((SIDE / 2, LABEL / 2), label, fill="black", font=font, anchor="mm")
        frame = Image.fromarray(video_THWC[min(index, len(video_THWC) - 1)])
        picture.paste(frame.resize((SIDE, SIDE), Image.Resampling.NEAREST), (0, LABEL))
        frames.append(picture)
    return frames


def main() -> None:
    """Reads the demo's videos and writes the picture."""
    clips = [(label, read_video(DEMO / name, fps=FPS)[0]) for label, name in PANELS]
    length = max(len(clip) for _, clip in clips)
    columns = [panel(clip, label, length) for label, clip in clips]
    gap = 8
    size = (len(columns) * (SIDE + gap) - gap, SIDE + LABEL)
    pages = []
    for row in zip(*columns, strict=True):
        page = Image.new("RGB", size, "white")
        for index, picture in enumerate(row):
            page.paste(picture, (index * (SIDE + gap), 0))
        pages.append(page)
    target = Path(__file__).with_name("moving.webp")
    pages[0].save(target, save_all=True, append_images=pages[1:], duration=1000 // FPS, loop=0, quality=80, method=6)
    print(f"wrote {target}: {len(pages)} frames, {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
