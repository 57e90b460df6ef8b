"""Settings of data that are read from a manifest as they are, clip by clip: pairs and ratings, clips with captions."""

import dataclasses
from pathlib import Path
from typing import Annotated, TypeVar

from lcv_jax.bounds import Bounds, check_fields

ConfigT = TypeVar("ConfigT", bound="ManifestConfig")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestConfig:
    """A manifest, what of it is held out, and how it is read ahead."""

    path: Path
    """The manifest."""
    held_out: Annotated[float, Bounds(least=0, below=1)] = 0.0
    """Share of the manifest that is not trained on but kept for `validation`: at least one, chosen by a hash."""
    workers: Annotated[int, Bounds(least=0, most=1024)] = 0
    """Processes that read ahead. 0: threads of this one."""
    threads: Annotated[int, Bounds(least=0, most=1024)] = 4
    """Threads that read, in each worker. 0 reads nothing ahead."""
    prefetch: Annotated[int, Bounds(least=1, most=2**16)] = 4
    """Batches that each worker reads ahead."""

    def __post_init__(self) -> None:
        check_fields(self)

    def for_validation(self: ConfigT, path: Path | None) -> ConfigT:
        """The held-out lines, or those of another manifest."""
        return self if path is None else dataclasses.replace(self, path=path, held_out=0.0)
