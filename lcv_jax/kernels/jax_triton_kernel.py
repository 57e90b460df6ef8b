"""Attention over lists of key blocks in Triton's own language. Imports Triton: nothing but the door may import this.

The algorithm, the grid and the numerics are those of kernels/flash_forward.py; kernels/jax_triton_forward.py calls it.
"""

from typing import no_type_check

import triton
import triton.language as tl


# Triton compiles the source of the very function: jaxtyping, under pytest, may put none of its own around it.
@triton.jit
@no_type_check
def block_sparse_forward(
    q_ptr,
    k_ptr,
    v_ptr,
    indices_ptr,
    counts_ptr,
    out_ptr,
    lse_ptr,
    NUM_QUERIES: tl.constexpr,
    NUM_KEYS: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_K: tl.constexpr,
    TILE_WIDTH: tl.constexpr,
    TO_BASE_2: tl.constexpr,
    FROM_BASE_2: tl.constexpr,
):
    """One tile of one query block, of head program_id(1) of video program_id(2).

    Args:
        q_ptr, out_ptr: B S N K; k_ptr, v_ptr: B M N K; lse_ptr: B N S.
        indices_ptr: B N I R; counts_ptr: B N I.
        NUM_QUERIES, NUM_KEYS, ROOM: the lengths I, J and R.
        TILE_Q, TILE_K, TILE_WIDTH: powers of two; what overhangs a block or a head is masked.
        TO_BASE_2: the scale times log2(e); FROM_BASE_2: ln(2).
    """
    TILES_Q: tl.constexpr = (BLOCK_Q + TILE_Q - 1) // TILE_Q
    TILES_K: tl.constexpr = (BLOCK_K + TILE_K - 1) // TILE_K
    TOKEN: tl.constexpr = HEADS * WIDTH
    query_block = tl.program_id(0) // TILES_Q
    query_start = tl.program_id(0) % TILES_Q * TILE_Q
    head = tl.program_id(1)
    # Long videos in batches have more elements than 32 bits count: whatever moves by blocks or more is 64-bit.
    video = tl.program_id(2).to(tl.int64)

    in_tile_X = tl.arange(0, TILE_Q)
    in_tile_Y = tl.arange(0, TILE_K)
    column_K = tl.arange(0, TILE_WIDTH)
    q_start = query_block.to(tl.int64) * BLOCK_Q + query_start
    q_offset = (video * (NUM_QUERIES * BLOCK_Q) + q_start) * TOKEN + head * WIDTH
    q_offset_XK = in_tile_X[:, None] * TOKEN + column_K[None, :]
    k_offset = video * (NUM_KEYS * BLOCK_K) * TOKEN + head * WIDTH
    k_offset_YK = in_tile_Y[:, None] * TOKEN + column_K[None, :]
    valid_X = query_start + in_tile_X < BLOCK_Q
    valid_XK = valid_X[:, None] & (column_K < WIDTH)[None, :]
    list_index = (video * HEADS + head) * NUM_QUERIES + query_block

    q_XK = tl.load(q_ptr + q_offset + q_offset_XK, mask=valid_XK, other=0.0)
    sum_XK = tl.full([TILE_Q, TILE_WIDTH], 0.0, tl.float32)
    top_X = tl.full([TILE_Q], float("-inf"), tl.float32)
    total_X = tl.full([TILE_Q], 0.0, tl.float32)

    # The next block's index is read a step ahead, so that no tile's address waits for a load of its own step.
    key_block = tl.load(indices_ptr + list_index * ROOM)
    for step in range(tl.load(counts_ptr + list_index) * TILES_K):
        key_start = step % TILES_K * TILE_K
        tile_offset = k_offset + (key_block.to(tl.int64) * BLOCK_K + key_start) * TOKEN
        valid_Y = key_start + in_tile_Y < BLOCK_K
        valid_YK = valid_Y[:, None] & (column_K < WIDTH)[None, :]
        k_YK = tl.load(k_ptr + tile_offset + k_offset_YK, mask=valid_YK, other=0.0)
        v_YK = tl.load(v_ptr + tile_offset + k_offset_YK, mask=valid_YK, other=0.0)
        # "ieee" is about float32 operands alone: they are multiplied as such, not as TF32.
        logits_XY = tl.dot(q_XK, tl.trans(k_YK), input_precision="ieee") * TO_BASE_2
        if BLOCK_K % TILE_K:
            logits_XY = tl.where(valid_Y[None, :], logits_XY, float("-inf"))
        new_top_X = tl.maximum(top_X, tl.max(logits_XY, 1))
        # A row that has seen no key yet: -inf - -inf is NaN, -inf - 0 is a weight of zero.
        base_X = tl.where(new_top_X == float("-inf"), 0.0, new_top_X)
        weights_XY = tl.exp2(logits_XY - base_X[:, None])
        keep_X = tl.exp2(top_X - base_X)
        sum_XK = tl.dot(weights_XY.to(v_YK.dtype), v_YK, sum_XK * keep_X[:, None], input_precision="ieee")
        total_X = total_X * keep_X + tl.sum(weights_XY, 1)
        top_X = new_top_X
        key_block = tl.load(indices_ptr + list_index * ROOM + tl.minimum((step + 1) // TILES_K, ROOM - 1))

    total_X = tl.where(top_X == float("-inf"), 1.0, total_X)
    out_XK = (sum_XK / total_X[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + q_offset + q_offset_XK, out_XK, mask=valid_XK)
    lse_offset = (video * HEADS + head) * (NUM_QUERIES * BLOCK_Q) + q_start
    tl.store(lse_ptr + lse_offset + in_tile_X, (top_X + tl.log2(total_X)) * FROM_BASE_2, mask=valid_X)
