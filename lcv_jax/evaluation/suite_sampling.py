"""A suite through a pipeline: every video with its own recorded seed, in a folder that can be resumed.

The seed of a video is a function of the run's seed, the item's id and the sample's number alone: two models get the
same noise, whatever the order, the batch size or the part of the suite.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from lcv_jax.bounds import Bounds, Count, Positive, check_fields
from lcv_jax.data.buckets import nearest_bucket
from lcv_jax.data.frames import to_uint8
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.evaluation.runs import check_same
from lcv_jax.evaluation.suites import BUNDLED_IMAGES, Item, Suite, write_suite
from lcv_jax.own_files import write_json
from lcv_jax.parallel.broadcast import from_first, is_first
from lcv_jax.sampling.options import SamplingOptions, check_size
from lcv_jax.user_files import read_json

Clip = np.ndarray
"""T H W 3, uint8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run's videos have in common.

    Raises:
        ValueError: a value out of range.
    """

    size: tuple[int, int] | None = None
    """Height and width, multiples of 16. None: the bucket nearest to the item's aspect ratio, or to its image's."""
    resolution: str = "480p"
    """Of the buckets: 480p or 720p."""
    num_frames: Count = 93
    """A multiple of 4 plus 1."""
    fps: Positive = 15.0
    """Frames a second."""
    language: str = "en"
    """Of the prompts: en, or a translation that the items have, such as zh."""
    num_samples: Annotated[int | None, Bounds(least=1)] = None
    """Videos of each prompt. None: as many as the suite wants."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.size is not None:
            check_size(*self.size, 16)

    def size_of(self, item: Item) -> tuple[int, int] | None:
        """Height and width; None where the image decides."""
        if self.size is not None:
            return self.size
        if item.image and not item.aspect_ratio:
            return None
        width, height = map(int, (item.aspect_ratio or "26:15").split(":"))  # 480 x 832
        return nearest_bucket(64 * height, 64 * width, self.resolution)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wanted:
    item: Item
    sample: int
    seed: int
    prompt: str
    size: tuple[int, int] | None

    @property
    def id(self) -> str:
        return f"{self.item.id}-{self.sample}"

    @property
    def together(self) -> tuple[Any, ...]:
        """Videos with the same one can be sampled in one batch."""
        return self.size, self.item.id if self.item.image else ""


def video_seed(seed: int, item: str, sample: int) -> int:
    """The seed of one video."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item}/{sample}".encode()).digest()[:4], "big")


def sample_suite(
    pipeline: Any,
    suite: Suite,
    folder: Path,
    settings: Settings,
    options: SamplingOptions,
    *,
    batch: int = 1,
    part: tuple[int, int] = (0, 1),
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Samples the videos that the folder lacks.

    Args:
        pipeline: a `Pipeline`, or whatever has its `text_to_video`, `image_to_video` and `provenance`.
        suite: the prompts.
        folder: the run; one that was begun with the same arguments is resumed.
        settings: of all videos.
        options: sampling options; their seed is the run's, from which each video's follows.
        batch: videos at once.
        part: (i, n) samples every n-th item from the i-th on, for n machines that share the folder.
        on_video: progress callback: videos that are done, and all of this part.

    Returns:
        How many videos were sampled.

    Raises:
        ValueError: the folder was begun with other arguments, an item has no prompt in this language, options that the
            pipeline refuses.
        OSError: an image cannot be read, a file cannot be written.
    """
    if batch < 1 or not 0 <= part[0] < part[1]:
        raise ValueError(f"batch must be at least 1 and part i of n with 0 <= i < n, got {batch} and {part}")
    options.check_batch(batch)
    wanted = list(_all_wanted(suite, settings, options.first_seed, part))

    def begin() -> list[str]:
        for item in suite.items[part[0] :: part[1]]:
            if item.image:
                suite.image(item)
        _begin(folder, suite, settings, _fields(options), pipeline.provenance)
        return [one.id for one in wanted if not _is_done(folder, one)]

    missing = set(from_first(begin))
    todo = [one for one in wanted if one.id in missing]
    done = len(wanted) - len(todo)
    on_video(done, len(wanted))
    for chunk in _batches(todo, batch):
        clips = _sample(pipeline, suite, settings, options, chunk, batch)
        for one, clip in zip(chunk, clips, strict=True):
            if is_first():
                _write(folder, settings, one, clip)
            done += 1
            on_video(done, len(wanted))
    return len(todo)


def _all_wanted(suite: Suite, settings: Settings, base: int, part: tuple[int, int]) -> Iterator[_Wanted]:
    for item in suite.items[part[0] :: part[1]]:
        for sample in range(settings.num_samples or item.num_samples):
            seed = video_seed(base, item.id, sample)
            prompt, size = item.text(settings.language), settings.size_of(item)
            yield _Wanted(item=item, sample=sample, seed=seed, prompt=prompt, size=size)


def _fields(options: SamplingOptions) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(SamplingOptions)}


def _begin(folder: Path, suite: Suite, settings: Settings, options: Mapping[str, Any], provenance: Any) -> None:
    if (folder / "study.json").exists():
        raise ValueError(f"{folder} is a study: choose another folder for the run")
    made_by = {"suite": suite.name, "digest": suite.digest, **dataclasses.asdict(settings)}
    check_same(folder / "run.json", {**made_by, "options": dict(options), "provenance": provenance})
    items = folder / "items.jsonl"
    if not items.is_file():
        # Image paths are relative to the suite's folder, from which the run is another.
        moved = (
            dataclasses.replace(item, image=str((suite.folder / item.image).resolve()))
            if item.image and not item.image.startswith(BUNDLED_IMAGES)
            else item
            for item in suite.items
        )
        write_suite(moved, items)


def _is_done(folder: Path, one: _Wanted) -> bool:
    sidecar, video = (folder / "videos" / f"{one.id}{suffix}" for suffix in (".json", ".mp4"))
    if not sidecar.is_file() or not video.is_file() or not video.stat().st_size:
        return False
    return read_json(sidecar).get("seed") == one.seed


def _batches(todo: Sequence[_Wanted], batch: int) -> Iterator[list[_Wanted]]:
    """Videos that can be sampled together, in the suite's order within each kind."""
    for _, group in itertools.groupby(sorted(todo, key=lambda one: str(one.together)), key=lambda one: one.together):
        members = list(group)
        yield from (members[first : first + batch] for first in range(0, len(members), batch))


def _sample(
    pipeline: Any,
    suite: Suite,
    settings: Settings,
    options: SamplingOptions,
    chunk: Sequence[_Wanted],
    batch: int,
) -> list[Clip]:
    """Clips of one batch. A short one is filled up, so that one program serves all."""
    filled = [*chunk, *[chunk[-1]] * (batch - len(chunk))]
    prompts, seeds = [one.prompt for one in filled], tuple(one.seed for one in filled)
    common = {**_fields(options), "num_frames": settings.num_frames, "seed": seeds}
    item, size = chunk[0].item, chunk[0].size
    if item.image:
        image = from_first(lambda: suite.image(item))
        videos = pipeline.image_to_video(image, prompts, size=size, resolution=settings.resolution, **common)
    else:
        assert size is not None
        videos = pipeline.text_to_video(prompts, height=size[0], width=size[1], **common)
    return [to_uint8(video) for video in videos[: len(chunk)]]


def _write(folder: Path, settings: Settings, one: _Wanted, clip: Clip) -> None:
    """The video, and when it is complete what it was made from."""
    path = folder / "videos" / f"{one.id}.mp4"
    T, H, W, _ = clip.shape
    with VideoWriter(path, fps=settings.fps, height=H, width=W, crf=12) as file:
        file.write(clip)
    shape = {"num_frames": T, "height": H, "width": W, "fps": settings.fps}
    made_of = {"item": one.item.id, "sample": one.sample, "seed": one.seed, "prompt": one.prompt}
    write_json(path.with_suffix(".json"), {**made_of, **shape})
