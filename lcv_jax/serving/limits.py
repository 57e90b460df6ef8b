"""What a server accepts, and what it fills in where a request leaves something out."""

import dataclasses
from typing import Annotated

from lcv_jax.bounds import (
    Bounds,
    Count,
    Fps,
    FrameCount,
    Pixels,
    Positive,
    SamplingSteps,
    TextTokens,
    Whole,
    check_fields,
)
from lcv_jax.generation.results import FPS
from lcv_jax.sampling.streaming import StreamWindow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a request gets that does not say it."""

    size: tuple[Pixels, Pixels] | None = None
    """Height and width. None: 480 x 832, or the aspect-ratio bucket of an image or a clip."""
    refine_size: tuple[Pixels, Pixels] | None = None
    """Height and width of refined videos. None: the 720p bucket nearest to the draft."""
    num_frames: FrameCount = 93
    """Of a video, or of a segment of a long one."""
    num_cond_frames: FrameCount = 13
    """Last frames of a clip or a segment that the next goes on from."""
    fps: Fps = FPS
    """Frames a second."""
    num_steps: SamplingSteps | None = None
    """Sampling steps. None: 50, or 16 when distilled."""
    distilled: bool = False
    """Few steps without guidance, with the checkpoint's distilled adapter."""
    max_sequence_length: TextTokens = 512
    """Tokens of a prompt; longer ones are cut."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server accepts."""

    max_queue: Count = 64
    """Jobs that wait; more get status 429."""
    max_jobs_per_key: Count = 32
    """Jobs of one key that wait or run."""
    max_body_megabytes: Count = 64
    """Size of a request, its image or clip included."""
    max_upload_seconds: Positive = 60.0
    """Time for a request to arrive."""
    max_pixels: Count = 1_000_000
    """Height times width of a video."""
    max_frames: FrameCount = 93
    """Of a video, or of a segment of a long one."""
    max_segments: Count = 60
    """Of a long or an interactive video."""
    max_steps: SamplingSteps = 100
    """Sampling steps."""
    max_prompt_characters: Count = 4000
    """Of each prompt."""
    max_job_seconds: Positive = 4 * 3600.0
    """A job that runs for longer is stopped."""
    max_input_pixels: Count = 25_000_000
    """Height times width of an image, or of a frame of a clip."""
    max_decode_seconds: Positive = 30.0
    """Time for an image or a clip to be decoded."""
    max_decode_megabytes: Annotated[int, Bounds(least=256)] = 2048
    """Memory for an image or a clip to be decoded."""
    max_event_streams: Count = 100
    """Event streams that are open at once."""
    keep_hours: Positive = 7 * 24.0
    """Videos are deleted after this time."""
    keep_gigabytes: Positive = 50.0
    """The oldest videos are deleted when all take more."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveStreams:
    """Live streams, one a worker: /v1/live."""

    live_chunk: Annotated[int, Bounds(least=1, most=4)] = 3
    """Latent frames, four frames of video each, that are denoised together."""
    live_sink: Whole = 3
    """First latent frames of a stream, which every chunk sees."""
    live_ring: Count = 18
    """Last latent frames that a chunk sees."""
    live_warm: bool = False
    """Compile the programs of a stream of the default size before the first client comes."""
    live_ahead: Count = 8
    """Frames that may be sent before the client has shown them; it plays them while the next chunk is made."""
    max_live_seconds: Positive = 600.0
    """A stream ends after this time, pauses included."""
    max_live_waiting: Count = 8
    """Streams that wait for a worker; more are refused."""
    max_live_kept_megabytes: Count = 64
    """Frames kept for the mp4 of a stream, as JPEG; the oldest are forgotten first."""
    max_live_state_megabytes: Count = 1024
    """Host memory for the moments that a stream can go back to. A larger state leaves only its beginning."""

    def __post_init__(self) -> None:
        check_fields(self)
        _ = self.window

    @property
    def window(self) -> StreamWindow:
        """What a chunk sees."""
        return StreamWindow(chunk=self.live_chunk, sink=self.live_sink, ring=self.live_ring)
