"""Perceptual hashes and colours of a source's frames, for the stage duplicates; curation/fingerprints.py says how."""

import dataclasses
from pathlib import Path

from lcv_jax.curation.fingerprints import fingerprint
from lcv_jax.curation.stage import Cost, Row, Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """None."""


def run(row: Row, settings: Settings) -> Row:
    """The fingerprint of a film, 64 bytes a second; of a file that could be probed."""
    return {"fingerprint": fingerprint(row["path"])}


STAGE = Stage(
    name="fingerprint",
    version=2,
    run=run,
    settings=Settings(),
    of="source",
    reads={"path": Path, "source_frames": int},
    writes={"fingerprint": bytes},
    cost=Cost(timeout=86400.0),
)
