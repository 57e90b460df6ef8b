"""Qwen2-VL's rotary embeddings (arXiv 2409.12191): angles of text positions and of patches, and the rotation.

The published reward models round the frequencies to bfloat16, because they cast the whole module, buffers included;
their weights were trained with the rounded ones. `exact` frequencies are those of the formula.
"""

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from lcv_jax.array_types import Array, Float, Int
from lcv_jax.config import Qwen2VLConfig

Rotation = tuple[Float[Array, "B S half"], Float[Array, "B S half"]]
"""Cosines and sines of half a head's width, float32."""


def frequencies(width: int, base: float, *, exact: bool) -> Float[np.ndarray, " half"]:
    """base^(-2i / width), in float32 as published, and rounded to bfloat16 unless exact."""
    exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    frequency = np.float32(1) / np.float32(base) ** exponent
    return frequency if exact else frequency.astype(ml_dtypes.bfloat16).astype(np.float32)


def text_rotation(positions: Int[Array, "B L"] | Int[Array, "B L 3"], cfg: Qwen2VLConfig, *, exact: bool) -> Rotation:
    """The rotation of text tokens.

    Args:
        positions: plain ones, as the reward models have them; or time, row and column of `grid_positions`, each for
            its section of the frequencies.
        cfg: of the network.
        exact: see `frequencies`.
    """
    frequency = frequencies(cfg.head_dim, cfg.rope_theta, exact=exact)
    if positions.ndim == 2:
        positions_BLH = positions[..., None]
    else:
        positions_BLH = positions[..., np.repeat(np.arange(3), cfg.mrope_section)]
    angle_BLH = positions_BLH.astype(jnp.float32) * frequency
    return jnp.cos(angle_BLH), jnp.sin(angle_BLH)


def patch_rotation(cells_BS2: Int[Array, "B S 2"], head_dim: int, *, exact: bool) -> Rotation:
    """The rotation of patches from their rows and columns: a quarter of the head's width of frequencies for each."""
    frequency = frequencies(head_dim // 2, 10000.0, exact=exact)
    angle_BS2F = cells_BS2[..., None].astype(jnp.float32) * frequency
    angle_BSH = angle_BS2F.reshape(*cells_BS2.shape[:2], -1)
    return jnp.cos(angle_BSH), jnp.sin(angle_BSH)


def rotate(x_BSNK: Float[Array, "B S N K"], rotation: Rotation) -> Float[Array, "B S N K"]:
    """Turns the pairs (x_i, x_(i + K/2)), in float32."""
    cos_BS1H, sin_BS1H = (part[:, :, None, :] for part in rotation)
    first, second = jnp.split(x_BSNK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos_BS1H - second * sin_BS1H, second * cos_BS1H + first * sin_BS1H], axis=-1)
    return turned.astype(x_BSNK.dtype)


def grid_positions(
    ids_L: Int[np.ndarray, " L"], grids_G3: Int[np.ndarray, "G 3"], cfg: Qwen2VLConfig
) -> Int[np.ndarray, "L 3"]:
    """The M-RoPE positions of a sequence: text counts up, the tokens of a picture or video lie on a grid.

    The reward models do not use them; Qwen2-VL as a captioner does.

    Args:
        ids_L: token ids, one visual token a merged patch.
        grids_G3: temporal patches, rows and columns of patches of each picture or video, in order.
        cfg: of the network.

    Raises:
        ValueError: the visual tokens are not those of the grids.
    """
    is_visual = np.isin(ids_L, (cfg.image_token_id, cfg.video_token_id))
    positions = np.empty((len(ids_L), 3), np.int32)
    at, following = 0, 0
    for t, h, w in np.asarray(grids_G3) // (1, 2, 2):
        rest = np.flatnonzero(is_visual[at:])
        start = at + (int(rest[0]) if len(rest) else len(ids_L))
        end = start + int(t * h * w)
        if end > len(ids_L) or not is_visual[start:end].all():
            raise ValueError(f"the sequence has no {t * h * w} visual tokens in a row for the grid {(t, h, w)}")
        positions[at:start] = following + np.arange(start - at)[:, None]
        following += start - at
        positions[start:end] = following + np.stack(np.unravel_index(np.arange(end - start), (t, h, w)), axis=-1)
        following = int(positions[start:end].max()) + 1
        at = end
    if is_visual[at:].any():
        raise ValueError(f"the sequence has {int(is_visual.sum())} visual tokens, more than its {len(grids_G3)} grids")
    positions[at:] = following + np.arange(len(ids_L) - at)[:, None]
    return positions
