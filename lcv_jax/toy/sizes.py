"""Sizes of the networks that learn the procedural world: their configs, by name."""

import dataclasses

from lcv_jax.config import BlockSparseConfig, DiTConfig, SchedulerConfig, UMT5Config, VAEConfig

TEXT_WIDTH = 128
OFFSETS = (-4, -3, -2, -1, 1, 2, 3, 4)
"""Where the heads of the text encoder look, in words from their own."""


def _transformer(hidden_size: int, depth: int, num_heads: int, time_width: int) -> DiTConfig:
    return DiTConfig(
        hidden_size=hidden_size,
        depth=depth,
        num_heads=num_heads,
        caption_channels=TEXT_WIDTH,
        adaln_tembed_dim=time_width,
        frequency_embedding_size=64,
        # Attending to padding would make a video depend on how many tokens a caption is padded to.
        text_tokens_zero_pad=False,
        # 128 x 128 x 33 pixels are 9 x 8 x 8 tokens: odd numbers of latent frames want blocks of one, and few tokens
        # small ones. Of 144 blocks, 9 are kept.
        bsa_params=BlockSparseConfig(sparsity=0.9375, chunk_3d_shape_q=(1, 2, 2), chunk_3d_shape_k=(1, 2, 2)),
    )


def _autoencoder(base_dim: int, num_res_blocks: int) -> VAEConfig:
    """Statistics of latents are those of no training at all; training writes its own."""
    return VAEConfig(
        latents_mean=(0.0,) * 16,
        latents_std=(1.0,) * 16,
        base_dim=base_dim,
        dim_mult=(1, 2, 3, 3),
        num_res_blocks=num_res_blocks,
    )


_TEXT_ENCODER = UMT5Config(
    vocab_size=64,
    d_model=TEXT_WIDTH,
    d_kv=TEXT_WIDTH // len(OFFSETS),
    d_ff=2 * TEXT_WIDTH,
    num_layers=1,
    num_heads=len(OFFSETS),
)
# A clip is 80 tokens; 12 is for tens of thousands. Half noise, as in the report, hides from a small model what the
# upsampled clip shows, and it makes up details of its own.
_SCHEDULER = SchedulerConfig(shift=1.0, t_thresh=0.3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToySize:
    """The configs of one checkpoint."""

    dit: DiTConfig
    vae: VAEConfig
    text_encoder: UMT5Config = _TEXT_ENCODER
    scheduler: SchedulerConfig = _SCHEDULER


SIZES = {
    "tiny": ToySize(dit=_transformer(64, 2, 2, 32), vae=_autoencoder(4, 1)),
    "small": ToySize(dit=_transformer(128, 6, 4, 64), vae=_autoencoder(16, 1)),
}
"""tiny is for tests; small is 6 million parameters, 12 MB in bfloat16."""
