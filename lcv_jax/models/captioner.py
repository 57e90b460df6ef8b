"""Qwen2-VL as it is published (arXiv 2409.12191): both towers and the head that gives the next token of a text.

The head is the embedding table again in the smaller published models, and a table of its own in the larger ones.
"""

import flax.linen as nn
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, DTypeLike, Float, Int, UInt8
from lcv_jax.config import Qwen2VLConfig
from lcv_jax.models.judges import normalised
from lcv_jax.models.layers import Linear, matmul_precision
from lcv_jax.models.qwen2_vl import Branches, Cached, Qwen2VL


class Captioner(nn.Module):
    """Pictures and a text to logits of the token that follows. Attributes are those of `Qwen2VL`.

    As published, the rotary frequencies are exact here: only the reward models round them.
    """

    cfg: Qwen2VLConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        cfg, types = self.cfg, (self.dtype, self.param_dtype)
        self.qwen2_vl = Qwen2VL(cfg, cfg.vocab_size, *types, self.implementation, exact_frequencies=True)
        nn.share_scope(self, self.qwen2_vl)
        if not cfg.tie_word_embeddings:
            self.lm_head = Linear(cfg.vocab_size, False, *types)

    def __call__(
        self,
        patches_BTSC: UInt8[Array, "B T S C"],
        cells_BS2: Int[Array, "B S 2"],
        mask_BTS: Bool[Array, "B T S"],
        ids_BL: Int[Array, "B L"],
        visual_BL: Int[Array, "B L"],
        positions_BL3: Int[Array, "B L 3"],
    ) -> Float[Array, "B L V"]:
        """Logits of the token after each of a sequence's, all at once; for training. See `JudgeNetwork`."""
        visual_BVD = self.qwen2_vl.encode(normalised(patches_BTSC), cells_BS2, mask_BTS)
        whole = Branches(begun_BP=jnp.ones(ids_BL.shape, bool), num_ends=0)
        return self.logits(self.qwen2_vl(ids_BL, visual_BVD, visual_BL, positions_BL3, whole))

    def begin(
        self,
        patches_BTSC: UInt8[Array, "B T S C"],
        cells_BS2: Int[Array, "B S 2"],
        mask_BTS: Bool[Array, "B T S"],
        ids_BL: Int[Array, "B L"],
        visual_BL: Int[Array, "B L"],
        positions_BL3: Int[Array, "B L 3"],
        length_B: Int[Array, " B"],
        room: int,
    ) -> Float[Array, "B V"]:
        """Logits of the first token after each prompt; fills the collection "cache", which is to be mutable.

        Args:
            length_B: tokens of each prompt without padding, which is at the end.
            room: places of the cache for the tokens to come.
        """
        B, L = ids_BL.shape
        visual_BVD = self.qwen2_vl.encode(normalised(patches_BTSC), cells_BS2, mask_BTS)
        cached = Cached(at=jnp.zeros((), jnp.int32), seen_BM=jnp.zeros((B, L + room), bool))
        hidden_BLD = self.qwen2_vl(ids_BL, visual_BVD, visual_BL, positions_BL3, cached)
        last_B1D = jnp.take_along_axis(hidden_BLD, (length_B - 1)[:, None, None], axis=1)
        return self.logits(last_B1D)[:, 0]

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
