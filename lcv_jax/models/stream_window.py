"""What a chunk of a stream sees of the frames before it (sampling/streaming.py)."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Int
from lcv_jax.bounds import Bounds, Count, Whole, check_fields
from lcv_jax.models.dit import Cache, CachedFrames


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamWindow:
    """What a chunk sees, in latent frames. The defaults add up to 24, which the released model was trained on.

    Raises:
        ValueError: a value out of range, a sink larger than the ring, or a ring shorter than a chunk.
    """

    chunk: Annotated[int, Bounds(least=1, most=4)] = 3
    """Latent frames that are denoised together."""
    sink: Whole = 3
    """First latent frames of the stream, kept for good."""
    ring: Count = 18
    """Last latent frames that are kept."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.sink > self.ring:
            raise ValueError(f"sink must not exceed ring, got sink={self.sink} and ring={self.ring} latent frames")
        if self.ring < self.chunk:
            raise ValueError(f"ring must hold a chunk at least, got ring={self.ring} and chunk={self.chunk}")

    @property
    def size(self) -> int:
        """Latent frames in the cache."""
        return self.sink + self.ring

    def check_blocks(self, frames: int) -> None:
        """Raises ValueError unless all parts are whole blocks of so many latent frames (block-sparse attention)."""
        for name in ("chunk", "sink", "ring"):
            if getattr(self, name) % frames:
                raise ValueError(
                    f"block-sparse attention needs {name} in multiples of {frames} latent frames, "
                    f"got {getattr(self, name)}: use dense attention, or another {name}"
                )

    def slots(self, num_frames: Int[Array, ""]) -> Int[Array, " c"]:
        """Where in the cache the next chunk goes, after so many frames of the stream."""
        index = num_frames + jnp.arange(self.chunk)
        return jnp.where(index < self.sink, index, self.sink + (index - self.sink) % self.ring)

    def cached_frames(self, num_frames: Int[Array, ""]) -> CachedFrames:
        """Where the cache's frames are in the window, after so many frames of the stream; absent ones anywhere."""
        slot = jnp.arange(self.size)
        # The last frame that was written to a ring slot: the largest index below num_frames that leads there.
        last = num_frames - 1 - (num_frames - 1 - slot) % self.ring
        index = jnp.where(slot < self.sink, slot, last)
        dropped = jnp.maximum(num_frames - self.size, 0)
        return CachedFrames(
            positions_T=jnp.where(slot < self.sink, slot, index - dropped),
            next_position=num_frames - dropped,
            present_T=slot < num_frames,
        )

    def history(self, num_frames: Int[Array, ""], length: int) -> CachedFrames:
        """The same of a cache that keeps all frames in order, of which the next chunk sees what the ring would hold.

        Args:
            num_frames: of the stream so far.
            length: frames that the cache has room for.
        """
        index = jnp.arange(length)
        dropped = jnp.maximum(num_frames - self.size, 0)
        in_window = (index < self.sink) | (index >= num_frames - self.ring)
        return CachedFrames(
            positions_T=jnp.where(index < self.sink, index, index - dropped),
            next_position=num_frames - dropped,
            present_T=in_window & (index < num_frames),
        )


def write_frames(cache: Cache, own: dict[str, Array], slots_c: Int[Array, " c"]) -> Cache:
    """The cache with keys and values of c new frames in these slots; those of slots past its end are left out."""
    (c,) = slots_c.shape

    def put(cached_PBMNK: Array, own_PBSNK: Array) -> Array:
        P, B, S, N, K = own_PBSNK.shape
        by_frame = cached_PBMNK.reshape(P, B, -1, S // c, N, K)
        new = own_PBSNK.reshape(P, B, c, S // c, N, K).astype(by_frame.dtype)
        return by_frame.at[:, :, slots_c].set(new, mode="drop").reshape(cached_PBMNK.shape)

    return jax.tree.map(put, cache, own)
