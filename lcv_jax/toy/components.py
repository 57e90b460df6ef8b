"""An autoencoder that begins with the principal components of clips, for `lcv_jax.toy.start --clips`.

A random one is a blur, and what it keeps of films beyond that grows over thousands of steps. Without its residual
branches, which add nothing at first, it is a chain of convolutions that resample, and those can be solved for. Going
down, every level keeps the components of its 2 x 2 blocks that vary most, and where frames are halved the means of
pairs and the components of their differences. Going up, every convolution is the least squares fit of what the encoder
had at that level. Each half ends in a norm and SiLU; signals pass as pairs of opposite sign, since silu(x) - silu(-x)
is x, beside a constant that is large enough to be what the norm divides by.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lcv_jax.array_types import Float, Params
from lcv_jax.config import VAEConfig

LOG_VARIANCE = -6.0
"""Of latents at first: their deviation is 1, and the last component would drown in more noise."""
_CONSTANT = 3.0
"""What goes beside the signals before a norm, in units of their own norm."""
_MIDDLE = (1, 1)  # height and width of the middle of a 3 x 3 kernel


def begin_with_components(params: Params, cfg: VAEConfig, clips_BTHWC: Float[np.ndarray, "B T H W C"]) -> None:
    """Sets the linear path of a random autoencoder, in place; its residual branches must add nothing.

    Args:
        params: of lcv_jax.toy.start.random_autoencoder.
        cfg: theirs; three colours.
        clips_BTHWC: in -1..1, of a multiple of 4 plus 1 frames and sides that are whole latents.

    Raises:
        ValueError: a network that is too narrow to hold the components of its latents.
    """
    _check(cfg)
    levels = _set_encoder(params["encoder"], cfg, clips_BTHWC)
    latents = _set_last(params["encoder"]["conv_out"], cfg, levels, clips_BTHWC)
    _set_decoder(params["decoder"], cfg, levels, latents, clips_BTHWC)
    turn = params["quant_conv"]
    turn["kernel"][...] = np.eye(2 * cfg.z_dim) * (np.arange(2 * cfg.z_dim) < cfg.z_dim)
    turn["bias"][...] = np.where(np.arange(2 * cfg.z_dim) < cfg.z_dim, 0, LOG_VARIANCE)
    params["post_quant_conv"]["kernel"][...] = np.eye(cfg.z_dim)
    params["post_quant_conv"]["bias"][...] = 0


def _check(cfg: VAEConfig) -> None:
    widths = [cfg.base_dim * multiple for multiple in cfg.dim_mult]
    pairs = 2 * cfg.in_channels + 1
    if widths[-2] < 2 * cfg.z_dim + 1 or widths[1] // 2 < pairs or widths[0] < pairs:
        raise ValueError(
            f"an autoencoder that begins with components needs {2 * cfg.z_dim + 1} channels before its latents and "
            f"{pairs} at its pixels, got {widths[-2]} and {min(widths[0], widths[1] // 2)}: take a larger size"
        )
    if widths[-1] != widths[-2] or cfg.in_channels != cfg.out_channels:
        raise ValueError("an autoencoder that begins with components has equally many channels at its last two levels")


class _Level:
    """What the encoder keeps between a level and the next: components of blocks, then of pairs of frames."""

    def __init__(self, features: np.ndarray, room: int, *, over_time: bool) -> None:
        """features: at the level, B T H W C; room: channels that may be kept."""
        self.features = features
        blocks = _blocks(features)
        num_means = max(room * 5 // 8, room - blocks.shape[-1]) if over_time else room
        self.spatial_KC = _components(blocks, min(num_means, blocks.shape[-1]), 0.5)
        self.means = blocks @ self.spatial_KC.T
        self.changes_DK = np.zeros((0, len(self.spatial_KC)))
        self.kept = self.means
        if over_time:
            first, second = _pairs(self.means)
            self.changes_DK = _components((second - first) / 2, min(room - num_means, num_means), 1.0)
            later = np.concatenate([(first + second) / 2, (second - first) / 2 @ self.changes_DK.T], axis=-1)
            still = np.zeros((*self.means[:, :1].shape[:-1], len(self.changes_DK)))
            alone = np.concatenate([self.means[:, :1], still], axis=-1)
            self.kept = np.concatenate([alone, later], axis=1)


def _set_encoder(params: Params, cfg: VAEConfig, clips_BTHWC: np.ndarray) -> list[_Level]:
    """All convolutions but the last one; returns what they keep between the levels."""
    levels, last = list[_Level](), len(cfg.temperal_downsample) - 1
    features, C = clips_BTHWC, cfg.in_channels
    enter = params["conv_in"]
    enter["kernel"][..., :C] = 0
    enter["kernel"][-1, *_MIDDLE, :C, :C] = np.eye(C)
    enter["bias"][:C] = 0
    block = 0
    for number, over_time in enumerate(cfg.temperal_downsample):
        _pass_on(params[f"down_blocks_{block}"], features.shape[-1])
        block += cfg.num_res_blocks
        width = cfg.base_dim * cfg.dim_mult[number]
        room = (width - 1) // 2 if number == last else width
        level = _Level(features, room, over_time=over_time)
        levels.append(level)
        down = params[f"down_blocks_{block}"]
        if number == last:
            _set_down(down, level, signs=(1, -1), constant=_constant_beside(level.kept))
        else:
            _set_down(down, level)
        features, block = level.kept, block + 1
    return levels


def _constant_beside(kept: np.ndarray) -> float:
    """What goes beside signals of both signs."""
    return float(_CONSTANT * np.sqrt(2 * np.mean(np.sum(kept**2, axis=-1))))


def _set_last(conv: Params, cfg: VAEConfig, levels: Sequence[_Level], clips_BTHWC: np.ndarray) -> np.ndarray:
    """The encoder's last convolution: of all components those that pixels need most, each with a deviation of 1.

    Returns the latents.
    """
    kept = levels[-1].kept
    Z, K, constant = cfg.z_dim, kept.shape[-1], _constant_beside(kept)
    norms = np.sqrt(constant**2 + 2 * np.sum(kept**2, axis=-1, keepdims=True))
    passed = kept * np.sqrt(cfg.base_dim * cfg.dim_mult[-1]) / norms
    rows = _rows(passed[:, 1:])
    covariance_KK = np.cov(rows.T) + 1e-9 * np.eye(K)
    # What a component is worth: the pixels that it explains.
    first = clips_BTHWC[:, 1:]
    factor = first.shape[1] // (passed.shape[1] - 1), first.shape[2] // passed.shape[2]
    worth_KP = _fit([(passed[:, 1:], _pieces(first, *factor))])[0]
    root = np.linalg.cholesky(covariance_KK)
    values, turned = np.linalg.eigh(root.T @ worth_KP @ worth_KP.T @ root)
    chosen_ZK = np.linalg.solve(root.T, turned[:, np.argsort(-values)[:Z]]).T
    bias = -(rows.mean(axis=0) @ chosen_ZK.T)
    kernel = conv["kernel"]
    kernel[..., :Z] = 0
    kernel[-1, *_MIDDLE, : 2 * K, :Z] = np.concatenate([chosen_ZK, -chosen_ZK], axis=1).T
    conv["bias"][:Z] = bias
    return passed @ chosen_ZK.T + bias


def _set_decoder(
    params: Params, cfg: VAEConfig, levels: Sequence[_Level], latents: np.ndarray, clips_BTHWC: np.ndarray
) -> None:
    """All convolutions, each the fit of what the encoder had there."""
    C = cfg.out_channels
    enter = params["conv_in"]
    kernel_ZK, bias = _fit([(latents, levels[-1].kept)])
    enter["kernel"][..., : kernel_ZK.shape[1]] = 0
    enter["kernel"][-1, *_MIDDLE, : len(kernel_ZK), : kernel_ZK.shape[1]] = kernel_ZK
    enter["bias"][: kernel_ZK.shape[1]] = bias
    features = latents @ kernel_ZK + bias
    num_means = levels[-1].means.shape[-1]
    for number, level in reversed(list(enumerate(levels))):
        block = params[f"up_blocks_{len(levels) - 1 - number}"]
        _pass_on(block["resnets_0"], features.shape[-1])
        up = block["upsamplers_0"]
        if cfg.temperal_downsample[number]:
            features = _set_up_time(up["time_conv"], features, level.means[..., :num_means])
        if number:
            below, width = levels[number - 1], up["resample_1"]["kernel"].shape[-1]
            num_means = min(below.means.shape[-1], width * 2 // 3 if len(below.changes_DK) else width)
            num_changes = min(len(below.changes_DK), width - num_means)
            start = below.means.shape[-1]
            parts = (level.features[..., :num_means], level.features[..., start : start + num_changes])
            features = _set_up_space(up["resample_1"], features, np.concatenate(parts, axis=-1))
    target = np.concatenate([clips_BTHWC, -clips_BTHWC], axis=-1)
    features = _set_up_space(up["resample_1"], features, target)
    constant = _CONSTANT * np.sqrt(np.mean(np.sum(target**2, axis=-1)))
    up["resample_1"]["kernel"][..., 2 * C] = 0
    up["resample_1"]["bias"][2 * C] = constant
    up["resample_1"]["kernel"][..., 2 * C + 1 :] *= 0.1  # more would be in the norm
    norms = np.sqrt(constant**2 + np.sum(features**2, axis=-1, keepdims=True))
    kernel_CC, bias = _fit([(features[..., :C] * np.sqrt(cfg.base_dim) / norms, clips_BTHWC)])
    leave = params["conv_out"]
    leave["kernel"][...] = 0
    leave["kernel"][-1, *_MIDDLE, : 2 * C] = np.concatenate([kernel_CC, -kernel_CC])
    leave["bias"][...] = bias


def _pass_on(block: Params, count: int) -> None:
    """The first channels of a residual block's input are those of its output."""
    if "conv_shortcut" in block:
        kernel = block["conv_shortcut"]["kernel"]
        kernel[..., :count] = 0
        kernel[..., :count, :count] = np.eye(count)
        block["conv_shortcut"]["bias"][:count] = 0


def _set_down(block: Params, level: _Level, *, signs: Sequence[int] = (1,), constant: float = 0.0) -> None:
    """A level's components, with each sign; the constant is the last channel.

    Before frames are halved the places of changes are empty, as they stay for the first frame.
    """
    (K, _), D, C = level.spatial_KC.shape, len(level.changes_DK), level.features.shape[-1]
    space = block["resample_1"]
    space["kernel"][..., : len(signs) * (K + D)] = 0
    for number, sign in enumerate(signs):
        at = number * (K + D)
        space["kernel"][:2, :2, :C, at : at + K] = sign * level.spatial_KC.T.reshape(2, 2, C, K)
        space["bias"][at : at + K + D] = 0
    if constant:
        space["kernel"][..., -1] = 0
        space["bias"][-1] = constant
    if not D:
        return
    time = block["time_conv"]
    time["kernel"][...], time["bias"][...] = 0, 0
    time["bias"][-1] += constant
    kernel_3CN = time["kernel"][:, 0, 0]  # the frame before a pair, its first and its second
    for number, sign in enumerate(signs):
        at = number * (K + D)
        for tap, half in ((1, -sign / 2), (2, sign / 2)):
            kernel_3CN[tap, :K, at : at + K] = sign * np.eye(K) / 2
            kernel_3CN[tap, :K, at + K : at + K + D] = half * level.changes_DK.T


def _set_up_time(conv: Params, features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """One frame becomes two, from it and the two before; the first stays alone, and later ones do not see it."""
    B, T, H, W, C = features.shape
    N, width = target.shape[-1], conv["kernel"].shape[-1] // 2
    later = np.concatenate([np.zeros_like(features[:, :2]), features[:, 1:]], axis=1)
    taps = np.concatenate([later[:, i : i + T - 1] for i in range(3)], axis=-1)
    weights, bias = _fit([(taps, np.concatenate(_pairs(target), axis=-1))])
    kernel = conv["kernel"].reshape(3, -1, 2, width)  # a view
    kernel[..., :N] = 0
    kernel[:, :C, :, :N] = weights.reshape(3, C, 2, N)
    conv["bias"].reshape(2, width)[:, :N] = bias.reshape(2, N)
    made = np.moveaxis((taps @ weights + bias).reshape(B, T - 1, H, W, 2, N), -2, 2)
    return np.concatenate([features[:, :1, ..., :N], made.reshape(B, 2 * (T - 1), H, W, N)], axis=1)


def _set_up_space(conv: Params, features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Every pixel repeated 2 x 2, then a 3 x 3 convolution."""
    C, N = features.shape[-1], target.shape[-1]

    def taps_of(clip_THWC: np.ndarray) -> np.ndarray:
        doubled = np.pad(clip_THWC.repeat(2, axis=1).repeat(2, axis=2), ((0, 0), (1, 1), (1, 1), (0, 0)))
        _, H, W, _ = doubled.shape
        return np.concatenate([doubled[:, i : H - 2 + i, j : W - 2 + j] for i in range(3) for j in range(3)], axis=-1)

    weights, bias = _fit((taps_of(clip), wanted) for clip, wanted in zip(features, target, strict=True))
    conv["kernel"][..., :N] = 0
    conv["kernel"][:, :, :C, :N] = weights.reshape(3, 3, C, N)
    conv["bias"][:N] = bias
    return np.stack([taps_of(clip) @ weights + bias for clip in features])


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1]).astype(np.float64)


def _blocks(x_BTHWC: np.ndarray) -> np.ndarray:
    """2 x 2 pixels side by side in the channels."""
    return np.concatenate([x_BTHWC[:, :, i::2, j::2] for i in range(2) for j in range(2)], axis=-1)


def _pairs(x_BTHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames after the first: of each two the first, and the second."""
    return x_BTHWC[:, 1::2], x_BTHWC[:, 2::2]


def _pieces(x_BTHWC: np.ndarray, frames: int, side: int) -> np.ndarray:
    """Pixels of each latent side by side in the channels."""
    parts = [x_BTHWC[:, t::frames, i::side, j::side] for t in range(frames) for i in range(side) for j in range(side)]
    return np.concatenate(parts, axis=-1)


def _components(x: np.ndarray, count: int, scale: float) -> np.ndarray:
    """K C: the directions in which rows vary most. What they give deviates by the root of what it would.

    Between the whole and nothing: the first would be all that norms see, or the last as much as the first.
    """
    values, vectors = np.linalg.eigh(np.cov(_rows(x).T))
    chosen = np.argsort(-values)[:count]
    deviations = scale * np.sqrt(np.maximum(values[chosen], 1e-12))
    return vectors[:, chosen].T * (scale / np.sqrt(deviations + 1e-3))[:, None]


def _fit(parts: Iterator[tuple[Any, Any]] | Sequence[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of the least squares fit of second ones by first ones, which may come in parts."""
    left: Any = 0.0
    right: Any = 0.0
    for x, y in parts:
        rows = np.concatenate([_rows(x), np.ones((x[..., :1].size, 1))], axis=1)
        left, right = left + rows.T @ rows, right + rows.T @ _rows(y)
    left[np.diag_indices(len(left))] += 1e-4 * np.trace(left) / len(left)
    solved = np.linalg.solve(left, right)
    return solved[:-1], solved[-1]
