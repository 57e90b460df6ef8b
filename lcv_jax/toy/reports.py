"""What a score of the procedural world found: the table that is printed, the file, and the sheet of clips."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lcv_jax.data.manifest import IMAGE_SUFFIXES
from lcv_jax.data.media_writer import write_image
from lcv_jax.own_files import write_json
from lcv_jax.toy.measures import Average, Share, to_json
from lcv_jax.toy.sheets import rows_of_clips
from lcv_jax.user_files import check_writable

Clip = np.ndarray
"""T H W 3, uint8."""


def check_outputs(json: Path | None, sheet: Path | None) -> None:
    """Raises ValueError for files that cannot be written, or a sheet that is no image."""
    for path in (json, sheet):
        if path is not None:
            check_writable(path)
    if sheet is not None and sheet.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"sheet: {sheet} must end with {', '.join(sorted(IMAGE_SUFFIXES))}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a task gave."""

    measured: Mapping[str, Share | Average]
    true: Mapping[str, Share | Average] = dataclasses.field(default_factory=dict)
    """Of true clips through the autoencoder."""
    curves: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    clips: Sequence[Clip] = ()
    """What was made, for the sheet."""

    def to_json(self) -> dict[str, Any]:
        """All but the clips."""
        curves = {name: list(curve) for name, curve in self.curves.items()}
        return {"measured": to_json(self.measured), "true": to_json(self.true), "curves": curves}


def publish(
    arguments: Any, title: str, report: Report, captions: Sequence[str], seconds: float, frames: int = 6
) -> None:
    """Prints the table, and writes the files that are asked for.

    Args:
        arguments: a dataclass with `json`, `sheet` and `sheet_clips`, recorded as a whole.
        title: of the table.
        report: what was found.
        captions: of all clips.
        seconds: that it took.
        frames: of each clip on the sheet.
    """
    Console().print(table_of(title, report))
    print(f"{len(captions)} clips in {seconds:.0f} s")
    if arguments.json is not None:
        given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
        told = {"arguments": given, "captions": list(captions), "seconds": round(seconds, 1)}
        write_json(arguments.json, {**told, **report.to_json()})
    if arguments.sheet is not None:
        write_image(arguments.sheet, rows_of_clips(report.clips[: arguments.sheet_clips], frames))


def table_of(title: str, report: Report) -> Table:
    """The numbers with their intervals."""
    table = Table("", "model", "95 %", "true clips", title=title)
    for name, value in report.measured.items():
        true = report.true.get(name)
        table.add_row(name.replace("_", " "), _number(value), _interval(value), "" if true is None else _number(true))
    return table


def _number(value: Share | Average) -> str:
    return f"{value.percent:.1f} %" if isinstance(value, Share) else f"{value.mean:.3g}"


def _interval(value: Share | Average) -> str:
    numbers = value.to_json()
    return f"{numbers['low']:.3g} to {numbers['high']:.3g}" if "low" in numbers else ""
