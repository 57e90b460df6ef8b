"""The Wan2.1 video autoencoder: 4 x 8 x 8 pixels to a latent (report, section 2; Wan, arXiv 2503.20314).

The first frame alone makes the first latent frame, every 4 frames after it one more. `encode` and `decode` walk over
time in chunks, with the frames that causal convolutions look back on as the carry, so that memory beyond input and
output does not grow with the length of the clip. Layers live in vae_layers.py, the cutting into tiles in vae_tiling.py.
"""

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, DTypeLike, Float, PRNGKeyArray, PyTree
from lcv_jax.config import VAEConfig
from lcv_jax.models.vae_layers import (
    Caches,
    CausalConv,
    ChannelNorm,
    Downsample,
    Layer,
    MiddleBlock,
    Pointwise,
    ResidualBlock,
    Upsample,
)
from lcv_jax.models.vae_tiling import Size, over_tiles


class Encoder(Layer, kw_only=True):
    """Pixels to twice `z_dim` channels: what means and variances are made of."""

    cfg: VAEConfig

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"], cache: PyTree = None) -> tuple[Array, PyTree]:
        cfg, caches = self.cfg, Caches(cache)
        names = (f"down_blocks_{block}" for block in itertools.count())
        x_BTHWC = caches.run(CausalConv(features=cfg.base_dim, name="conv_in", **self.shared), x_BTHWC)
        for level, multiple in enumerate(cfg.dim_mult):
            for _ in range(cfg.num_res_blocks):
                residual = ResidualBlock(features=cfg.base_dim * multiple, name=next(names), **self.shared)
                x_BTHWC = caches.run(residual, x_BTHWC)
            if level < len(cfg.temperal_downsample):
                down = Downsample(over_time=cfg.temperal_downsample[level], name=next(names), **self.shared)
                x_BTHWC = caches.run(down, x_BTHWC)
        x_BTHWC = caches.run(MiddleBlock(name="mid_block", **self.shared), x_BTHWC)
        x_BTHWC = nn.silu(ChannelNorm(name="norm_out", **self.shared)(x_BTHWC))
        x_BTHWC = caches.run(CausalConv(features=2 * cfg.z_dim, name="conv_out", **self.shared), x_BTHWC)
        return x_BTHWC, caches.new


class UpBlock(Layer, kw_only=True):
    """One level of the decoder: residual blocks and, but for the last level, an upsampling."""

    features: int
    num_res_blocks: int
    over_time: bool | None
    """Whether the upsampling doubles time too; None: there is none."""

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"], cache: PyTree = None) -> tuple[Array, PyTree]:
        caches = Caches(cache)
        for i in range(self.num_res_blocks):
            x_BTHWC = caches.run(ResidualBlock(features=self.features, name=f"resnets_{i}", **self.shared), x_BTHWC)
        if self.over_time is not None:
            x_BTHWC = caches.run(Upsample(over_time=self.over_time, name="upsamplers_0", **self.shared), x_BTHWC)
        return x_BTHWC, caches.new


class Decoder(Layer, kw_only=True):
    """Latents to pixels."""

    cfg: VAEConfig

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"], cache: PyTree = None) -> tuple[Array, PyTree]:
        cfg, caches = self.cfg, Caches(cache)
        widths = [cfg.base_dim * multiple for multiple in reversed(cfg.dim_mult)]
        x_BTHWC = caches.run(CausalConv(features=widths[0], name="conv_in", **self.shared), x_BTHWC)
        x_BTHWC = caches.run(MiddleBlock(name="mid_block", **self.shared), x_BTHWC)
        for level, over_time in enumerate((*reversed(cfg.temperal_downsample), None)):
            block = UpBlock(
                features=widths[level],
                num_res_blocks=cfg.num_res_blocks + 1,
                over_time=over_time,
                name=f"up_blocks_{level}",
                **self.shared,
            )
            x_BTHWC = caches.run(block, x_BTHWC)
        x_BTHWC = nn.silu(ChannelNorm(name="norm_out", **self.shared)(x_BTHWC))
        x_BTHWC = caches.run(CausalConv(features=cfg.out_channels, name="conv_out", **self.shared), x_BTHWC)
        return x_BTHWC, caches.new


class WanVAE(nn.Module):
    """The autoencoder. Call its methods: `WanVAE(cfg).apply({"params": params}, video_BTHWC, method="encode")`."""

    cfg: VAEConfig
    chunk: int = 1
    """Latent frames at a time, after the first. Results do not depend on it; memory does, and with few pixels speed."""
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    branches: bool = True
    """Residual blocks and attention. Without them what resamples is left, which is linear but for both ends: a seventh
    of the time, to train that first."""

    def setup(self) -> None:
        cfg = self.cfg
        shared = dict[str, Any](dtype=self.dtype, param_dtype=self.param_dtype, branches=self.branches)
        self.encoder = Encoder(cfg=cfg, **shared)
        self.quant_conv = Pointwise(features=2 * cfg.z_dim, **shared)
        self.post_quant_conv = Pointwise(features=cfg.z_dim, **shared)
        self.decoder = Decoder(cfg=cfg, **shared)

    def __call__(self, video_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B t H W C"]:
        """The video encoded and decoded again, by the mean; for `init`, which makes all parameters so."""
        mean, _ = self.encode(video_BTHWC)
        return self.decode(mean)

    def encode(self, video_BTHWC: Float[Array, "B T H W C"]) -> tuple[Array, Array]:
        """Mean and log-variance of the latents, B (1 + (T - 1) // 4) H/8 W/8 z_dim, float32, not normalised.

        Args:
            video_BTHWC: in -1..1. Frames at the end that do not fill 4 are dropped, as published.
        """
        return _mean_and_logvar(self._encode(video_BTHWC))

    def decode(self, latents_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B t h w c"]:
        """The video in -1..1, B (1 + 4 (T - 1)) 8H 8W 3, float32, of latents that are not normalised."""
        return jnp.clip(self.decode_unclipped(latents_BTHWC), -1, 1)

    def tiled_encode(
        self, video_BTHWC: Float[Array, "B T H W C"], tile: Size = (256, 256), stride: Size = (192, 192)
    ) -> tuple[Array, Array]:
        """`encode` in overlapping tiles: less memory for large frames, nearly the same result.

        Args:
            video_BTHWC: in -1..1.
            tile: height and width of a tile in pixels.
            stride: pixels from one tile to the next.
        """
        return _mean_and_logvar(self._tiled("_encode", video_BTHWC, tile, stride, from_pixels=True))

    def tiled_decode(
        self, latents_BTHWC: Float[Array, "B T H W C"], tile: Size = (256, 256), stride: Size = (192, 192)
    ) -> Float[Array, "B t h w c"]:
        """`decode` in overlapping tiles, whose sizes are in pixels as in `tiled_encode`.

        As published, the result of several tiles is not clamped: it may overshoot -1..1.
        """
        if all(size * self.cfg.spatial_factor <= tile[i] for i, size in enumerate(latents_BTHWC.shape[2:4])):
            return self.decode(latents_BTHWC)
        return self._tiled("decode_unclipped", latents_BTHWC, tile, stride, from_pixels=False)

    def _encode(self, video_BTHWC: Array) -> Array:
        def step(vae: "WanVAE", x: Array, cache: PyTree) -> tuple[Array, PyTree]:
            x, cache = vae.encoder(x, cache)
            return vae.quant_conv(x), cache

        return self._walk(step, video_BTHWC, frames_in=self.cfg.temporal_factor, frames_out=1)

    def decode_unclipped(self, latents_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B t h w c"]:
        """Likewise, for training: what is clipped has no gradient."""

        def step(vae: "WanVAE", x: Array, cache: PyTree) -> tuple[Array, PyTree]:
            return vae.decoder(vae.post_quant_conv(x), cache)

        return self._walk(step, latents_BTHWC, frames_in=1, frames_out=self.cfg.temporal_factor)

    def decode_piece(
        self, latents_BTHWC: Float[Array, "B T H W C"], cache: PyTree = None
    ) -> tuple[Float[Array, "B t h w c"], PyTree]:
        """`decode` of the next latent frames of a clip, and the cache for those after them.

        Args:
            cache: None for a clip's first latent frame, which comes alone and is one frame; every later one is 4.
        """
        video, cache = self.decoder(self.post_quant_conv(latents_BTHWC), cache)
        return jnp.clip(video.astype(jnp.float32), -1, 1), cache

    def _walk(self, step: Callable, x_BTHWC: Array, *, frames_in: int, frames_out: int) -> Array:
        """`step` over the first frame, then over chunks of time; float32.

        Each chunk is written where it belongs in one buffer: stacked results would have to be copied into order.
        """
        count = (x_BTHWC.shape[1] - 1) // frames_in
        y, cache = step(self, x_BTHWC[:, :1], None)
        out = jnp.zeros((y.shape[0], 1 + count * frames_out, *y.shape[2:]), jnp.float32)
        carry = jax.lax.dynamic_update_slice_in_dim(out, y.astype(out.dtype), 0, axis=1), cache

        def advance(vae: "WanVAE", carry: PyTree, start: Array, length: int = self.chunk) -> tuple[PyTree, None]:
            out, cache = carry
            x = jax.lax.dynamic_slice_in_dim(x_BTHWC, 1 + start * frames_in, length * frames_in, axis=1)
            y, cache = step(vae, x, cache)
            out = jax.lax.dynamic_update_slice_in_dim(out, y.astype(out.dtype), 1 + start * frames_out, axis=1)
            return (out, cache), None

        rest = count % self.chunk
        if count > rest:
            loop = nn.scan(advance, variable_broadcast="params", split_rngs={"params": False})
            carry, _ = loop(self, carry, jnp.arange(0, count - rest, self.chunk))
        if rest:
            carry, _ = advance(self, carry, jnp.array(count - rest), rest)
        return carry[0]

    def _tiled(self, method: str, x_BTHWC: Array, tile: Size, stride: Size, *, from_pixels: bool) -> Array:
        factor = self.cfg.spatial_factor
        if any(size % factor for size in (*tile, *stride)) or any(not 0 < stride[i] <= tile[i] for i in range(2)):
            raise ValueError(
                f"tile and stride must be multiples of {factor} with 0 < stride <= tile, got {tile} and {stride}"
            )
        tile_z, stride_z = ((size[0] // factor, size[1] // factor) for size in (tile, stride))
        sizes = (tile, stride, tile_z, stride_z) if from_pixels else (tile_z, stride_z, tile, stride)
        vae, variables = self.unbind()  # as a function of arrays alone, for jax.lax.map

        def run(x_BTHWC: Array) -> Any:
            return vae.apply(variables, x_BTHWC, method=method)

        return over_tiles(run, x_BTHWC, *sizes)


def _mean_and_logvar(moments_BTHWC: Array) -> tuple[Array, Array]:
    mean, logvar = jnp.split(moments_BTHWC, 2, axis=-1)
    return mean, jnp.clip(logvar, -30, 20)  # the published bounds


def sample_posterior(
    mean: Float[Array, "*batch C"], logvar: Float[Array, "*batch C"], key: PRNGKeyArray | None = None
) -> Float[Array, "*batch C"]:
    """Latents drawn from what `encode` gives; without a key their mode, which is the mean."""
    if key is None:
        return mean
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)


def normalise_latents(latents: Float[Array, "*batch C"], cfg: VAEConfig) -> Float[Array, "*batch C"]:
    """Latents as the transformer takes them: the published mean off, in units of the published deviation."""
    return (latents - jnp.array(cfg.latents_mean, latents.dtype)) / jnp.array(cfg.latents_std, latents.dtype)


def denormalise_latents(latents: Float[Array, "*batch C"], cfg: VAEConfig) -> Float[Array, "*batch C"]:
    """Latents as `decode` takes them: the inverse of `normalise_latents`."""
    return latents * jnp.array(cfg.latents_std, latents.dtype) + jnp.array(cfg.latents_mean, latents.dtype)
