"""The tasks of the command line: what each is given, what it checks before weights load, and what it makes.

A task is a frozen dataclass. Its fields are its flags, its keys in a file of prompts, and its identity in a sidecar. Of
several processes the first alone checks it; `run` is called by all.
"""

import dataclasses
import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Fixed

from lcv_jax.bounds import Bounds, Fps, FrameCount, NoiseLevel, Pixels, check_fields
from lcv_jax.data.media_reader import read_image, read_video
from lcv_jax.generation import long_video
from lcv_jax.generation.json_values import from_json
from lcv_jax.generation.long_video import Segments
from lcv_jax.generation.results import FPS, Listeners, Result
from lcv_jax.generation.stream_video import StreamVideo
from lcv_jax.own_files import file_sha256
from lcv_jax.parallel.broadcast import from_first
from lcv_jax.pipeline import Frames, Pipeline
from lcv_jax.sampling.options import SamplingOptions, check_condition, check_refinement, check_size, whole_frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToVideo:
    """Make videos of prompts."""

    prompt: tuple[str, ...]
    """What to show. Several prompts make several videos at once."""
    height: Pixels = 480
    """Pixels, a multiple of 16."""
    width: Pixels = 832
    """Pixels, a multiple of 16."""
    num_frames: FrameCount = 93
    """A multiple of 4 plus 1. More than 93 were never trained."""
    fps: Fps = FPS
    """Frames a second; the model was trained at 15."""
    options: Fixed[SamplingOptions] = SamplingOptions()

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Raises ValueError for what can be seen to be wrong without a model."""
        _check_sampling(self, self.prompt, (self.height, self.width))
        whole_frames(self.num_frames)

    def run(self, pipeline: Pipeline, folder: Path, listeners: Listeners) -> Iterator[Result]:
        """The videos, one a prompt."""
        size = _fields(self, "height", "width", "num_frames")
        yield from _one_each(pipeline.text_to_video(list(self.prompt), **size, **_sampling(self, listeners)), self.fps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageToVideo:
    """Let an image move."""

    image: Path
    """The first frame: png, jpg, webp, ..."""
    prompt: tuple[str, ...] = ("",)
    """What happens. Several prompts make several videos from the same image."""
    resolution: Literal["480p", "720p"] = "480p"
    """The aspect-ratio bucket nearest to the image's is taken from this table."""
    size: tuple[Pixels, Pixels] | None = None
    """Height and width, multiples of 16. None: the bucket nearest to it."""
    fit: Literal["crop", "stretch"] = "crop"
    """How the image gets that shape: by cropping its centre, or stretched as the published code does."""
    num_frames: FrameCount = 93
    """A multiple of 4 plus 1, the image included."""
    fps: Fps = FPS
    """Frames a second; the model was trained at 15."""
    options: Fixed[SamplingOptions] = SamplingOptions()

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Raises ValueError for what can be seen to be wrong without a model, OSError for an unreadable image."""
        _check_sampling(self, self.prompt, self.size)
        whole_frames(self.num_frames)
        read_image(self.image)

    def run(self, pipeline: Pipeline, folder: Path, listeners: Listeners) -> Iterator[Result]:
        """The videos, one a prompt."""
        given = _fields(self, "resolution", "size", "fit", "num_frames")
        image = from_first(lambda: read_image(self.image))
        yield from _one_each(
            pipeline.image_to_video(image, list(self.prompt), **given, **_sampling(self, listeners)), self.fps
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinueVideo:
    """Go on from the end of a clip."""

    video: Path
    """The clip: mp4, webm, mkv, ... of any frame rate."""
    prompt: tuple[str, ...] = ("",)
    """What happens next. Several prompts make several videos from the same clip."""
    num_cond_frames: FrameCount = 13
    """Last frames of the clip to go on from, a multiple of 4 plus 1. They are the first of the result."""
    resolution: Literal["480p", "720p"] = "480p"
    """The aspect-ratio bucket nearest to the clip's is taken from this table."""
    size: tuple[Pixels, Pixels] | None = None
    """Height and width, multiples of 16. None: the bucket nearest to it."""
    fit: Literal["crop", "stretch"] = "crop"
    """How frames get that shape: by cropping their centre, or stretched as the published code does."""
    num_frames: FrameCount = 93
    """A multiple of 4 plus 1, the given frames included."""
    fps: Fps = FPS
    """Frames a second that the clip is read and the video written at; the model was trained at 15."""
    options: Fixed[SamplingOptions] = SamplingOptions()

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Raises ValueError for what can be seen to be wrong without a model, such as a clip that is too short."""
        _check_sampling(self, self.prompt, self.size)
        check_condition(self.num_cond_frames, whole_frames(self.num_frames))
        check_condition(self.num_cond_frames, self.num_frames, len(self._clip()))

    def _clip(self) -> Frames:
        return read_video(self.video, self.fps, last=self.num_cond_frames)[0]

    def run(self, pipeline: Pipeline, folder: Path, listeners: Listeners) -> Iterator[Result]:
        """The videos, one a prompt."""
        given = _fields(self, "num_cond_frames", "resolution", "size", "fit", "num_frames")
        clip = from_first(self._clip)
        videos = pipeline.continue_video(clip, list(self.prompt), **given, **_sampling(self, listeners))
        yield from _one_each(videos, self.fps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refine:
    """Make any video larger, sharper and smoother: 480p at 15 frames a second becomes 720p at 30.

    Long videos are refined segment by segment, and a killed run goes on where it was.
    """

    video: Path
    """The video: mp4, webm, mkv, ..."""
    prompt: str = ""
    """What it shows; may be left out."""
    input_fps: Fps | None = None
    """Read it at this frame rate. None: its own."""
    spatial_only: bool = False
    """Keep the frame rate."""
    size: tuple[Pixels, Pixels] | None = None
    """Height and width, multiples of 64. None: the 720p bucket nearest to the video's aspect ratio."""
    t_thresh: NoiseLevel | None = None
    """Noise level to start from: the higher, the more is made anew. None: the checkpoint's, 0.5 of the released one."""
    segment_frames: FrameCount = 93
    """Frames refined at once."""
    overlap: FrameCount = 13
    """Frames of a segment that the next one sees again."""
    options: Fixed[SamplingOptions] = SamplingOptions()

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Raises ValueError for what can be seen to be wrong without a model."""
        if self.size:
            check_size(*self.size, 64)
        own = self.options
        if not isinstance(own.seed, int):
            raise ValueError(f"refinement takes one seed, got {len(own.seed)}")
        check_refinement(own)
        if not 0 < self.overlap < self.segment_frames:
            raise ValueError(f"overlap must lie in 1..{self.segment_frames - 1}, got {self.overlap}")
        own.schedule(1.0, t_thresh=self.t_thresh or 1.0)
        read_video(self.video, last=1)

    def run(self, pipeline: Pipeline, folder: Path, listeners: Listeners) -> Iterator[Result]:
        """The one video."""
        clip, fps = from_first(lambda: read_video(self.video, self.input_fps))
        segments = from_first(lambda: Segments.open(folder, request_of(self, pipeline)))
        pieces = long_video.cut(clip, self.segment_frames, self.overlap)
        refined = long_video.refine(
            pipeline,
            segments,
            iter(pieces),
            len(pieces),
            overlap=self.overlap,
            spatial_only=self.spatial_only,
            prompt=self.prompt,
            size=self.size,
            t_thresh=self.t_thresh,
            on_segment=listeners.on_segment,
            **_sampling(self, listeners),
        )
        times = 1 if self.spatial_only else 2
        yield Result(pieces=refined, num_frames=times * len(clip), fps=times * fps, finish=segments.remove)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Segmented:
    """What long and interactive videos share."""

    image: Path | None = None
    """Begin with this image. None: with the prompt alone, or a clip."""
    video: Path | None = None
    """Begin with the end of this clip. None: with the prompt alone, or an image."""
    size: tuple[Pixels, Pixels] | None = None
    """Height and width, multiples of 16. None: 480 x 832, or the bucket nearest to the image or clip."""
    resolution: Literal["480p", "720p"] = "480p"
    """Of the aspect-ratio bucket nearest to the image's or clip's, where no size is given."""
    num_frames: FrameCount = 93
    """Frames of a segment, those it goes on from included; a multiple of 4 plus 1."""
    num_cond_frames: FrameCount = 13
    """Last frames of a segment that the next goes on from; a multiple of 4 plus 1."""
    fps: Fps = FPS
    """Frames a second of the draft, and that a clip is read at; the model was trained at 15."""
    refine: bool = False
    """Refine it to 720p and twice the frame rate, segment by segment, with the released refinement's own settings. The
    draft is kept beside it as NAME_draft.mp4."""
    refine_size: tuple[Pixels, Pixels] | None = None
    """Height and width of the refined video, multiples of 64. None: the 720p bucket nearest to the draft."""
    options: Fixed[SamplingOptions] = SamplingOptions()

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def prompts(self) -> tuple[str, ...]:
        """One a segment."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises ValueError for what can be seen to be wrong without a model."""
        if self.image and self.video:
            raise ValueError("give an image or a video to begin with, not both")
        if not self.prompts:
            raise ValueError("a video has at least one segment, got none")
        if not isinstance(self.options.seed, int):
            raise ValueError(f"a video of several segments takes one seed, got {len(self.options.seed)}")
        if self.resolution != "480p" and not (self.image or self.video):
            raise ValueError("resolution chooses the size for an image or a clip; without one, give the size itself")
        if self.refine_size and not self.refine:
            raise ValueError("refine_size is the size of the refined video: add refine, or leave it out")
        _check_sampling(self, self.prompts[:1], self.size)  # segments are sampled one by one
        if self.refine_size:
            check_size(*self.refine_size, 64)
        check_condition(self.num_cond_frames, whole_frames(self.num_frames))
        start = self._start()
        if start is not None and self.video:
            check_condition(self.num_cond_frames, self.num_frames, len(start))

    def _start(self) -> Frames | None:
        if self.image:
            return read_image(self.image)[None]
        return read_video(self.video, self.fps, last=self.num_cond_frames)[0] if self.video else None

    def run(self, pipeline: Pipeline, folder: Path, listeners: Listeners) -> Iterator[Result]:
        """The video; or its draft, and then the refined one."""
        segments = from_first(lambda: Segments.open(folder, request_of(self, pipeline)))

        def drafts() -> Iterator[Frames]:
            given = _fields(self, "size", "resolution", "num_frames", "num_cond_frames")
            return long_video.draft(
                pipeline,
                segments,
                self.prompts,
                start=from_first(self._start),
                on_segment=listeners.on_segment,
                **given,
                **_sampling(self, listeners),
            )

        count, whole = len(self.prompts), whole_frames(self.num_frames)
        total = whole + (count - 1) * (whole - self.num_cond_frames)
        if not self.refine:
            yield Result(pieces=drafts(), num_frames=total, fps=self.fps, finish=segments.remove)
            return
        yield Result(pieces=drafts(), num_frames=total, fps=self.fps, name="draft")
        refined = long_video.refine(
            pipeline,
            segments,
            drafts(),
            count,
            overlap=self.num_cond_frames,
            size=self.refine_size,
            seed=self.options.first_seed,
            max_sequence_length=self.options.max_sequence_length,
            posterior=self.options.posterior,
            on_segment=listeners.on_segment,
            on_step=listeners.on_step,
        )
        yield Result(pieces=refined, num_frames=2 * total, fps=2 * self.fps, finish=segments.remove)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongVideo(_Segmented):
    """Make minutes of video from one prompt, segment by segment. A killed run goes on at the first missing segment."""

    prompt: str
    """What to show."""
    num_segments: Annotated[int, Bounds(least=1, most=10000)] = 12
    """Of 93 frames each, 13 of them the last of the segment before: 12 are 65 seconds."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The same for every segment."""
        return (self.prompt,) * self.num_segments


@dataclasses.dataclass(frozen=True, kw_only=True)
class InteractiveVideo(_Segmented):
    """Make a long video that is told what happens next: one prompt a segment."""

    prompt: tuple[str, ...]
    """What happens in each segment, in order."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """One a segment."""
        return self.prompt


Task = TextToVideo | ImageToVideo | ContinueVideo | Refine | LongVideo | InteractiveVideo | StreamVideo
TASKS: dict[str, type] = {
    "text-to-video": TextToVideo,
    "image-to-video": ImageToVideo,
    "continue-video": ContinueVideo,
    "refine": Refine,
    "long-video": LongVideo,
    "interactive-video": InteractiveVideo,
    "stream": StreamVideo,
}


def _fields(task: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(task, name) for name in names}


def _sampling(task: Any, listeners: Listeners) -> dict[str, Any]:
    """The options and the listener as keywords of the pipeline's methods."""
    names = [field.name for field in dataclasses.fields(task.options)]
    return {**_fields(task.options, *names), "on_step": listeners.on_step}


def _one_each(videos_BTHWC: np.ndarray, fps: float) -> Iterator[Result]:
    for number, video in enumerate(videos_BTHWC):
        name = str(number) if len(videos_BTHWC) > 1 else ""
        yield Result(pieces=[video], num_frames=len(video), fps=fps, name=name)


def is_segmented(task: Task) -> bool:
    """Whether a task keeps finished segments in a folder, to resume from."""
    return isinstance(task, Refine | _Segmented)


def result_names(task: Task) -> list[str]:
    """The names of a task's results, in their order."""
    if isinstance(task, TextToVideo | ImageToVideo | ContinueVideo):
        return [str(number) for number in range(len(task.prompt))] if len(task.prompt) > 1 else [""]
    return ["draft", ""] if isinstance(task, _Segmented) and task.refine else [""]


def _check_sampling(task: Any, prompts: Sequence[str], size: tuple[int, int] | None) -> None:
    """What tasks that make a video have in common."""
    options = task.options
    if not prompts:
        raise ValueError("give at least one prompt; it may be empty")
    options.check_batch(len(prompts))
    if options.negative_prompt and options.scale == 1:
        warnings.warn("negative_prompt is not used: without guidance there is nothing to steer away", stacklevel=3)
    if size:
        check_size(*size, 64 if options.sparse else 16)


def check_against(task: Task, pipeline: Pipeline) -> None:
    """What a checkpoint's small files tell: raises for adapters that do not fit, warns of prompts that do not."""
    pipeline.tokenizer.tokenize(captions_of(task), task.options.max_sequence_length)
    if isinstance(task, Refine):
        pipeline.check_adapters(task.options, refining=True)
        return
    pipeline.check_adapters(task.options, streaming=isinstance(task, StreamVideo))
    if isinstance(task, _Segmented) and task.refine:
        pipeline.check_adapters(SamplingOptions(), refining=True)


def captions_of(task: Task) -> list[str]:
    """What a task's text encoder is given."""
    prompts = [task.prompt] if isinstance(task.prompt, str) else [*task.prompt]
    guided = task.options.scale > 1 and not isinstance(task, Refine)
    of_refinement = [""] if isinstance(task, _Segmented) and task.refine else []
    return [*prompts, *([task.options.negative_prompt] if guided else []), *of_refinement]


def inputs_of(task: Any, pipeline: Pipeline) -> dict[str, Any]:
    """What a result depends on beside the task: hashes of the files it reads, and the weights and how they run."""
    read = {name: getattr(task, name, None) for name in ("image", "video", "resume")}
    adapters = [name for name, _ in task.options.adapters if name.endswith(".safetensors")]
    return {
        **{f"{name}_sha256": file_sha256(path) for name, path in read.items() if path is not None},
        **({"adapters_sha256": [file_sha256(Path(name)) for name in adapters]} if adapters else {}),
        "checkpoint": pipeline.provenance["components"],
        "dtype": "stored" if pipeline.dtype is None else str(pipeline.dtype),
        "fold_adapters": pipeline.fold_adapters,
        "vae_tiles": pipeline.vae_tiles,
    }


def request_of(task: Any, pipeline: Pipeline) -> dict[str, Any]:
    """All that a result depends on: the task, the weights and how they run. Files count by their content."""
    inputs = inputs_of(task, pipeline)
    fields = {name: value for name, value in task_to_json(task).items() if f"{name}_sha256" not in inputs}
    del inputs["checkpoint"]
    return {**fields, **inputs, **pipeline.content(task.options)}


def task_to_json(task: Any) -> dict[str, Any]:
    """A task as one flat JSON object."""
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    options = dataclasses.asdict(fields.pop("options"))
    name = next(name for name, kind in TASKS.items() if isinstance(task, kind))
    written = {key: str(value) if isinstance(value, Path) else value for key, value in fields.items()}
    return {"task": name, **written, **options}


def task_from_json(entry: Mapping[str, Any]) -> Task:
    """The task of a flat JSON object, whose keys are the flags with underscores.

    Raises:
        ValueError: an unknown task or key, named with the nearest known one, a missing key, or a value of another type.
    """
    name = entry.get("task", "text-to-video")
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"unknown task {name!r}: have {', '.join(TASKS)}")
    values = {key: value for key, value in entry.items() if key != "task"}
    own = {field.name for field in dataclasses.fields(TASKS[name])} - {"options"}
    of_options = {field.name for field in dataclasses.fields(SamplingOptions)}
    for key in values.keys() - own - of_options:
        near = difflib.get_close_matches(key, own | of_options, n=1)
        raise ValueError(f"unknown key {key!r} of {name}" + (f"; did you mean {near[0]!r}?" if near else ""))
    options = from_json(SamplingOptions, {key: values[key] for key in values.keys() & of_options})
    return from_json(TASKS[name], {key: values[key] for key in values.keys() & own} | {"options": options})
