"""Qwen2-VL as it is published (arXiv 2409.12191): both towers and the head that gives the next token of a text.

The head is the embedding table again in the smaller published models, and a table of its own in the larger ones.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from lcv_jax.array_types import Array, DTypeLike, Float, Int
from lcv_jax.config import Qwen2VLConfig
from lcv_jax.models.judges import normalised
from lcv_jax.models.layers import Linear, matmul_precision
from lcv_jax.models.qwen2_vl import Branches, Cached, Qwen2VL


class Asked(NamedTuple):
    """A batch of clips with the tokens around them, as `JudgeNetwork` takes them."""

    patches_BTSC: Any
    """Pixels of patches, uint8."""
    cells_BS2: Any
    mask_BTS: Any
    ids_BL: Any
    """Padding is at the end."""
    visual_BL: Any
    positions_BL3: Any
    """Of models/qwen2_rope.py: `grid_positions`."""


class Captioner(nn.Module):
    """Pictures and a text to logits of the token that follows. Attributes are those of `Qwen2VL`.

    As published, the rotary frequencies are exact here: only the reward models round them.
    """

    cfg: Qwen2VLConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"
    remat: str = "none"

    def setup(self) -> None:
        cfg, types = self.cfg, (self.dtype, self.param_dtype)
        self.qwen2_vl = Qwen2VL(
            cfg, cfg.vocab_size, *types, self.implementation, exact_frequencies=True, remat=self.remat
        )  # fmt: skip
        nn.share_scope(self, self.qwen2_vl)
        if not cfg.tie_word_embeddings:
            self.lm_head = Linear(cfg.vocab_size, False, *types)

    def __call__(self, asked: Asked, places_BA: Int[Array, "B A"]) -> Float[Array, "B A V"]:
        """Logits of the token after each of some places of a sequence, all at once; for training."""
        whole = Branches(begun_BP=jnp.ones(asked.ids_BL.shape, bool), num_ends=0)
        return self._after(asked, places_BA, whole)

    def begin(self, asked: Asked, length_B: Int[Array, " B"], room: int) -> Float[Array, "B V"]:
        """Logits of the first token after each prompt; fills the collection "cache", which is to be mutable.

        Args:
            asked: the prompts.
            length_B: tokens of each prompt without padding.
            room: places of the cache for the tokens to come.
        """
        B, L = asked.ids_BL.shape
        cached = Cached(at=jnp.zeros((), jnp.int32), seen_BM=jnp.zeros((B, L + room), bool))
        return self._after(asked, (length_B - 1)[:, None], cached)[:, 0]

    def _after(self, asked: Asked, places_BA: Int[Array, "B A"], others: Branches | Cached) -> Float[Array, "B A V"]:
        visual_BVD = self.qwen2_vl.encode(normalised(asked.patches_BTSC), asked.cells_BS2, asked.mask_BTS)
        hidden_BLD = self.qwen2_vl(asked.ids_BL, visual_BVD, asked.visual_BL, asked.positions_BL3, others)
        return self.logits(jnp.take_along_axis(hidden_BLD, places_BA[..., None], axis=1))

    def go_on(
        self,
        ids_B: Int[Array, " B"],
        position_B: Int[Array, " B"],
        cached: Cached,
    ) -> Float[Array, "B V"]:
        """Logits of the token after the one that is given, which the cache takes in.

        Args:
            ids_B: the newest tokens.
            position_B: their positions, of which a text's time, row and column are equal.
        """
        (B,) = ids_B.shape
        none_BVD = jnp.zeros((B, 1, self.cfg.hidden_size), self.dtype or self.param_dtype)
        positions_BL3 = jnp.broadcast_to(position_B[:, None, None], (B, 1, 3))
        no_visual_BL = jnp.full((B, 1), -1)
        return self.logits(self.qwen2_vl(ids_B[:, None], none_BVD, no_visual_BL, positions_BL3, cached))[:, 0]

    def logits(self, hidden_BLD: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Of the next token, float32."""
        if not self.cfg.tie_word_embeddings:
            return self.lm_head(hidden_BLD).astype(jnp.float32)
        table_VD = self.variables["params"]["model"]["embed_tokens"]["weight"].astype(hidden_BLD.dtype)
        return jnp.matmul(hidden_BLD, table_VD.T, precision=matmul_precision(hidden_BLD.dtype)).astype(jnp.float32)
