"""What an autoencoder makes of real clips that it never saw, in decibels, film by film.

    python examples/real_scores.py CHECKPOINT outputs/real/test.jsonl benchmarks/results/toy/real.json docs/toy/real.png

CHECKPOINT is a converted folder, the clips are those of examples/real_clips.py. The picture has the first clip of each
film beside its reconstruction.
"""

import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from lcv_jax.data.manifest import read_manifest
from lcv_jax.data.media_reader import read_video
from lcv_jax.data.media_writer import write_image
from lcv_jax.own_files import write_json
from lcv_jax.pipeline import load_pipeline
from lcv_jax.toy.measures import average, psnr
from lcv_jax.toy.reports import Report, table_of
from lcv_jax.toy.score import Arguments, Model
from lcv_jax.toy.sheets import rows_of_clips

FILMS = ("a face in a car", "bicycles", "a tree")
"""The clips take turns, in the order of real_clips.py."""


def main(checkpoint: Path, manifest: Path, json: Path, sheet: Path) -> None:
    """Encodes and decodes every clip, prints the table, and writes both files."""
    model = Model(load_pipeline(checkpoint), Arguments(checkpoint=checkpoint))
    clips, found = [], []
    for entry in read_manifest(manifest):
        clip_THWC = read_video(entry.path)[0]
        back_THWC = model.autoencoded(clip_THWC)
        found.append(psnr(back_THWC, clip_THWC))
        clips.append(np.concatenate([clip_THWC, back_THWC], axis=2))
    by_film = {film: average(found[number :: len(FILMS)]) for number, film in enumerate(FILMS)}
    report = Report(measured={"all": average(found), **by_film}, clips=clips[: len(FILMS)])
    Console().print(table_of("real clips through the autoencoder, PSNR in dB", report))
    write_json(json, {"clips": len(found), **report.to_json()})
    write_image(sheet, rows_of_clips(report.clips, 4))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
