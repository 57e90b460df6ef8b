"""Container facts of a source, from its packets and one decoded frame."""

import dataclasses
from pathlib import Path

from lcv_jax.curation.stage import Row, Stage
from lcv_jax.data.media_reader import probe_video
from lcv_jax.data.video_file import open_stream, timeline_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """None."""


def probe(row: Row, settings: Settings) -> Row:
    """Facts of a file; one that is cut off, has no video or cannot be decoded is a fault.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no video that can be used.
    """
    path: Path = row["path"]
    timeline = timeline_of(path)
    height, width, seconds = probe_video(path)
    container, stream = open_stream(path)
    with container:
        codec, pixels = stream.codec_context.name, stream.codec_context.pix_fmt
    return {
        "source_height": height,
        "source_width": width,
        "source_seconds": seconds,
        "source_frames": len(timeline),
        "source_fps": float(timeline.rate),
        "source_constant_rate": timeline.is_constant,
        "source_codec": codec,
        "source_pixel_format": pixels,
        "source_bit_rate": 8 * path.stat().st_size / seconds,
    }


STAGE = Stage(
    name="probe",
    version=1,
    run=probe,
    settings=Settings(),
    of="source",
    reads={"path": Path},
    writes={
        "source_height": int,
        "source_width": int,
        "source_seconds": float,
        "source_frames": int,
        "source_fps": float,
        "source_constant_rate": bool,
        "source_codec": str,
        "source_pixel_format": str,
        "source_bit_rate": float,
    },
)
