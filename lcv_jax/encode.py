"""Encodes a manifest's clips ahead of training: `python -m lcv_jax.encode MANIFEST CHECKPOINT OUT ...`.

    python -m lcv_jax.encode clips.jsonl weights encoded --sizes 17,64,64 --fps 8
    python -m lcv_jax.encode clips.parquet weights encoded --resolutions 480p 720p --num-frames 93 --shard 3/64

Killed at any time, the same command goes on where it was. The folder is described in data/encoded.py.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lcv_jax.array_types import Array
from lcv_jax.bounds import Bounds, Fps, FrameCount, Pixels, TextTokens, check_fields
from lcv_jax.checkpoint.store import content_identity
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.data.clips import TooShortError
from lcv_jax.data.config import Size, as_text, bucket_groups
from lcv_jax.data.degrade import VERSION as DEGRADATIONS
from lcv_jax.data.degrade import parse_refinement
from lcv_jax.data.encoded import pack_record
from lcv_jax.data.encoding import (
    Clip,
    Job,
    PartState,
    check_config,
    check_files,
    check_manifest,
    locked,
    read_ahead,
    write_index,
)
from lcv_jax.data.frames import to_uint8
from lcv_jax.data.manifest import Entry, read_manifest
from lcv_jax.data.media_writer import write_image
from lcv_jax.data.preview import beside, decibels, poor_round_trips, too_short_clips, unknown_words
from lcv_jax.own_files import write_whole
from lcv_jax.pipeline import load_pipeline
from lcv_jax.sampling.denoise import decode_latents, encode_frames, upsample_clip
from lcv_jax.training.samples import grid, label, widened

LOG_SECONDS = 30
"""Between two lines of progress, where there is no terminal for a live bar."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Encode clips and captions ahead of training. Killed at any time, the same command goes on where it was."""

    manifest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MANIFEST")]
    """Clips and captions, .jsonl, .csv or .parquet: columns path, caption, and others of manifest.py."""
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Folder that convert_torch_weights.py wrote: its autoencoder, text encoder and tokenizer are used."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write, or to go on with."""
    sizes: tuple[str, ...] = ()
    """Buckets, each FRAMES,HEIGHT,WIDTH."""
    resolutions: tuple[str, ...] = ()
    """Or the published buckets of 480p, 720p or both."""
    num_frames: tuple[FrameCount, ...] = (93,)
    """Frames of clips in the buckets of `resolutions`."""
    granularity: Pixels = 32
    """Heights and widths of `resolutions` are multiples of this many pixels."""
    fps: Fps = 15.0
    """Frames a second that clips are resampled to."""
    images_from_clips: Annotated[int, Bounds(least=0, most=65536)] = 0
    """Also take this many single frames of every clip, at even distances, to train text to image. 1: its first."""
    refine: tuple[str, ...] = ()
    """Also encode a smaller version, upsampled, to train refinement: HEIGHT,WIDTH,FPS or RESOLUTION,FPS of that
    version. Of several, each clip gets one."""
    refine_from: Literal["degraded", "autoencoded"] = "degraded"
    """The smaller version is blurred, made noisy and compressed, as the report has it; or it only goes through the
    autoencoder, as what a model makes comes out of one: nearer to the truth, if that is all that will be refined."""
    negative_prompt: str = ""
    """The general one that guidance is distilled with; its embedding is stored."""
    max_sequence_length: TextTokens = 512
    """Tokens of a caption; longer ones are cut."""
    latents_dtype: Literal["float32", "bfloat16"] = "float32"
    """What latents are stored as."""
    text_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What embeddings of captions are stored as."""
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"
    """What the networks compute in; "stored" is what the checkpoint was converted to."""
    vae_tiles: bool = False
    """Encode in overlapping tiles: less memory, nearly the same result."""
    records_per_shard: Annotated[int, Bounds(least=1, most=2**20)] = 64
    """Clips of a file: what is lost, of each bucket, when the run is killed."""
    shard: str = "0/1"
    """Which part of the clips this process takes, PART/PARTS, from 0. The last to end writes the index."""
    preview: Annotated[int, Bounds(least=0, most=64)] = 3
    """Clips whose reconstructions are written to OUT/preview.png; 0: none."""
    readers: Annotated[int, Bounds(least=1, most=1024)] = 2
    """Threads that decode clips."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.encode") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    config = (tyro.conf.FlagCreatePairsOff,)
    with mistakes_in_one_line("interrupted; the same command goes on"):
        encode(parse_arguments(Arguments, arguments, prog=prog, config=config))


def encode(arguments: Arguments) -> None:
    """Does what the command line asks for.

    Raises:
        ValueError: a user's mistake, or no clip that can be used.
        OSError: a file that cannot be read or written.
    """
    job = _check(arguments)
    entries = read_manifest(arguments.manifest)
    networks = Networks(arguments)
    networks.check(job)
    config = _config(arguments, job, networks.content)
    folder = arguments.out
    with locked(folder, job):
        check_config(folder, config)
        check_manifest(folder, entries)
        state = PartState(folder, job)
        mine = entries[job.part :: job.parts]
        check_files(folder, state, mine)
        if not state.done_file.is_file():
            captions = [caption for entry in mine for caption in entry.captions]
            if told := unknown_words(*networks.unknown(captions), str(arguments.checkpoint)):
                warnings.warn(told, stacklevel=2)
            preview = Preview(arguments, networks)
            _encode_part(job, networks, state, mine, arguments.readers, preview)
            preview.write()
            if state.encoded:  # else no network was needed, and the index says why there is nothing
                _write_special_captions(folder, arguments.negative_prompt, networks)
            state.finish(len(mine))
        write_index(folder, job, config, networks.provenance, arguments.negative_prompt)
        # After the index, which says it all where no clip is left.
        if told := too_short_clips(job.groups, state.left_out["too_short"], job.fps):
            warnings.warn(told, stacklevel=2)
        print(state.summary())


def _check(arguments: Arguments) -> Job:
    sizes = []
    for text in arguments.sizes:
        try:
            frames, height, width = map(int, text.split(","))
        except ValueError:
            raise ValueError(f"sizes are FRAMES,HEIGHT,WIDTH such as 93,480,832; got {text!r}") from None
        sizes.append((frames, height, width))
    if not sizes and not arguments.resolutions:
        raise ValueError("give --sizes FRAMES,HEIGHT,WIDTH ... or --resolutions 480p ...")
    groups = bucket_groups(tuple(sizes), arguments.resolutions, arguments.num_frames, arguments.granularity)
    if arguments.refine_from != "degraded" and not arguments.refine:
        raise ValueError("refine_from says how the smaller versions of --refine are made: give --refine too")
    refinements = tuple(map(parse_refinement, arguments.refine))
    for refinement in refinements:
        for size in (size for group in groups for size in group):
            refinement.stride(size, arguments.fps)
    try:
        part, parts = map(int, arguments.shard.split("/"))
    except ValueError:
        raise ValueError(f"shard is PART/PARTS such as 0/8, got {arguments.shard!r}") from None
    if not 0 <= part < parts:
        raise ValueError(f"shard: parts are numbered from 0 to PARTS - 1, got {arguments.shard}")
    return Job(
        groups=groups,
        fps=arguments.fps,
        images_from_clips=arguments.images_from_clips,
        refinements=refinements,
        degraded=arguments.refine_from == "degraded",
        records_per_shard=arguments.records_per_shard,
        part=part,
        parts=parts,
    )


class Networks:
    """The autoencoder and the text encoder of a checkpoint; parameters load when they are first used."""

    def __init__(self, arguments: Arguments):
        self._arguments = arguments
        dtype = None if arguments.dtype == "stored" else arguments.dtype
        self._pipeline = load_pipeline(arguments.checkpoint, dtype=dtype, vae_tiles=arguments.vae_tiles)
        self.provenance: dict[str, Any] = self._pipeline.provenance
        self.content = content_identity(arguments.checkpoint)

    def check(self, job: Job) -> None:
        """Raises ValueError for sizes that the autoencoder cannot encode to whole latents, or an unfit tokenizer."""
        self._pipeline.tokenizer.tokenize([""], self._arguments.max_sequence_length)
        factor = self._pipeline.vae.cfg.spatial_factor
        for size in (size for group in job.groups for size in group):
            if size[1] % factor or size[2] % factor:
                raise ValueError(f"sizes: height and width must be multiples of {factor}, got {as_text(size)}")
            for small in () if job.degraded else (each.small_shape(size) for each in job.refinements):
                if small[0] % factor or small[1] % factor:
                    raise ValueError(
                        f"refine: height and width must be multiples of {factor} where the small version goes through "
                        f"the autoencoder, got {small[0]}x{small[1]}"
                    )

    @functools.lru_cache(maxsize=16)  # noqa: B019  (a clip and single frames of it have the same captions)
    def text(self, caption: str) -> np.ndarray:
        """The embedding L D of a caption, as long as its tokens."""
        text_1LD, mask_1L = self._pipeline.encode_text([caption], self._arguments.max_sequence_length)
        length = int(np.asarray(mask_1L).sum())
        return np.asarray(text_1LD)[0, :length].astype(np.dtype(self._arguments.text_dtype))

    def latents(self, video_THWC: np.ndarray | Array) -> np.ndarray:
        """Normalised latents of a clip in [0, 1] or 0..255: the posterior's mode."""
        video = jnp.asarray(video_THWC, jnp.float32) / (255 if video_THWC.dtype == np.uint8 else 1)
        method = "tiled_encode" if self._arguments.vae_tiles else "encode"
        vae, params = self._pipeline.vae, self._pipeline.params("vae")
        return np.asarray(encode_frames(vae, params, video[None], None, method))[0].astype(
            self._arguments.latents_dtype
        )

    def unknown(self, captions: Sequence[str]) -> tuple[list[str], int]:
        """Words of captions that the tokenizer does not know; and the number of all tokens."""
        return self._pipeline.tokenizer.unknown(captions)

    def decoded(self, latents_THWC: np.ndarray) -> np.ndarray:
        """The clip of its latents, uint8."""
        method = "tiled_decode" if self._arguments.vae_tiles else "decode"
        vae, params = self._pipeline.vae, self._pipeline.params("vae")
        return to_uint8(np.asarray(decode_latents(vae, params, jnp.asarray(latents_THWC)[None], method)))[0]

    def round_trip(self, video_THWC: np.ndarray) -> np.ndarray:
        """A clip encoded and decoded, uint8, with all of its frames: the last fills the last latent frame."""
        count = len(video_THWC)
        behind = -(count - 1) % self._pipeline.vae.cfg.temporal_factor
        return self.decoded(self.latents(np.concatenate([video_THWC, video_THWC[-1:].repeat(behind, 0)])))[:count]

    def upsampled_latents(self, small_THWC: np.ndarray, size: Size) -> np.ndarray:
        """Latents of a small clip, upsampled as refinement does it."""
        if self._arguments.refine_from == "autoencoded":
            small_THWC = self.round_trip(small_THWC)
        return self.latents(upsample_clip(jnp.asarray(small_THWC, jnp.float32) / 255, *size))


class Preview:
    """The first clips of this process beside what the autoencoder makes of them."""

    def __init__(self, arguments: Arguments, networks: Networks):
        part = "" if arguments.shard.endswith("/1") else f"-{arguments.shard.split('/')[0]}"
        self._path = arguments.out / f"preview{part}.png"
        self._count, self._checkpoint, self._networks = arguments.preview, str(arguments.checkpoint), networks
        self._rows: dict[str, np.ndarray] = {}
        self._measured: dict[str, float] = {}

    def add(self, entry: Entry, clip: Clip, latents_THWC: np.ndarray) -> None:
        """Takes a clip in, if more are wanted."""
        if len(self._rows) == self._count or clip.size[0] == 1:
            return
        back = self._networks.decoded(latents_THWC)
        value = self._measured[entry.id] = decibels(clip.video_THWC, back)
        pairs = beside(clip.video_THWC, back)
        self._rows[f"{entry.id}: {value:.1f} dB, original beside reconstruction"] = grid(pairs[None], shown=3)

    def write(self) -> None:
        """Writes the picture, and warns of clips that are not reproduced well."""
        if not self._rows:
            return
        width = max(row.shape[1] for row in self._rows.values())
        rows = [part for text, row in self._rows.items() for part in (label(text, width), widened(row, width))]
        write_image(self._path, np.concatenate(rows))
        values = ", ".join(f"{name} {value:.1f} dB" for name, value in self._measured.items())
        print(f"wrote {self._path}: {values}", file=sys.stderr)
        if told := poor_round_trips(self._measured, self._checkpoint, str(self._path)):
            warnings.warn(told, stacklevel=2)


def _encode_part(
    job: Job, networks: Networks, state: PartState, entries: list[Entry], readers: int, preview: Preview
) -> None:
    skipped = state.skipped
    left = [
        entry for entry in entries if entry.id not in skipped and not state.encoded.issuperset(job.record_ids(entry))
    ]
    if len(left) < len(entries):
        print(f"going on: {len(entries) - len(left)} of {len(entries)} clips are done")
    with _progress(len(left)) as advance:
        for entry, future in read_ahead(job.read, left, readers):
            try:
                clips = future.result()
            except TooShortError as error:
                state.leave_out("too_short", entry.id, error.num_frames)
            except (OSError, ValueError) as error:
                state.leave_out("corrupt", entry.id, " ".join(str(error).split()))
            else:
                for identity, clip in clips.items():
                    if identity not in state.encoded:
                        latents_THWC = networks.latents(clip.video_THWC)
                        preview.add(entry, clip, latents_THWC)
                        record = _record(networks, entry, identity, clip, latents_THWC)
                        state.add(clip.size, record, id=identity, **_facts(networks, entry, clip))
            advance()


def _record(networks: Networks, entry: Entry, identity: str, clip: Clip, latents_THWC: np.ndarray) -> bytes:
    arrays = {"latents_THWC": latents_THWC}
    if clip.small_THWC is not None:
        arrays["upsampled_THWC"] = networks.upsampled_latents(clip.small_THWC, clip.size)
    arrays |= {f"text_{number}_LD": networks.text(caption) for number, caption in enumerate(entry.captions)}
    return pack_record(arrays, id=identity, captions=entry.captions, **_late(clip))


def _facts(networks: Networks, entry: Entry, clip: Clip) -> dict[str, Any]:
    """What the file beside a shard tells about a record."""
    longest = max(len(networks.text(caption)) for caption in entry.captions)
    facts = {"numbers": entry.numbers, "text": longest, "refine": clip.small_THWC is not None}
    return facts | {"captions": entry.captions, **_late(clip), **clip.file}


def _late(clip: Clip) -> dict[str, int]:
    """The latent frame at which captions begin, where that is not the first."""
    return {"caption_start": clip.caption_start} if clip.caption_start else {}


def _config(arguments: Arguments, job: Job, content: Mapping[str, str]) -> dict[str, Any]:
    """All that decides what is written, and nothing else; what is read counts by its content."""
    fields = (
        "fps", "images_from_clips", "refine", "negative_prompt", "max_sequence_length", "latents_dtype", "text_dtype",
        "dtype", "vae_tiles", "records_per_shard",
    )  # fmt: skip
    config = {
        **{f"checkpoint.{name}": content.get(name) for name in ("vae", "text_encoder", "tokenizer")},
        "buckets": job.groups,
        "parts": job.parts,
        **{name: getattr(arguments, name) for name in fields},
        **({"degradations": _degradations(arguments)} if arguments.refine else {}),
    }
    return json.loads(json.dumps(config))


def _degradations(arguments: Arguments) -> int | str:
    return DEGRADATIONS if arguments.refine_from == "degraded" else arguments.refine_from


def _write_special_captions(folder: Path, negative_prompt: str, networks: Networks) -> None:
    captions = {"empty": networks.text(""), "negative": networks.text(negative_prompt)}
    write_whole(folder / "captions.bin", pack_record(captions))


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A live bar, or a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(total)
        return
    columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.update(task, advance=1)


def _lines(total: int) -> Any:
    began = shown = time.monotonic()
    count = 0

    def advance() -> None:
        nonlocal shown, count
        count += 1
        now = time.monotonic()
        if now - shown > LOG_SECONDS:
            shown = now
            left = (now - began) / count * (total - count)
            print(f"{count} of {total} clips, about {left:.0f} s left", file=sys.stderr)

    return advance


if __name__ == "__main__":
    main()
