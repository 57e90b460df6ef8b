"""Dense attention of cuDNN: forward and backward, in memory linear in the number of tokens.

The two are called apart, so that whoever differentiates (kernels/implementations.py, a ring) decides which output and
log-sum-exp the backward gets: those of a merged softmax give exact gradients of the keys at hand. JAX has no public
function for that. `jax.nn.dot_product_attention` returns the log-sum-exp in the inputs' dtype, and the function below
it asks this machine's GPU questions while it is traced, which a machine that compiles for a described GPU cannot
answer. So the two primitives underneath are bound here; nothing else of the package touches them. They partition over
batch and heads under automatic sharding.

Accepted: bfloat16 or float16, head width a multiple of 8 and at most 256 (128 on GPUs other than Hopper), any two
lengths but 1 and 1, no mask. Sums are float32, and so is the log-sum-exp: natural logarithm, of scaled scores.

The forward is known to give the same bits in every run. The backward is not, unless the program is compiled with
`xla_gpu_exclude_nondeterministic_ops` or `xla_gpu_deterministic_ops` (in XLA_FLAGS, or in the `compiler_options` of
`jax.jit`): XLA then asks cuDNN for its deterministic algorithm. There is no setting per call.

cuDNN makes its plan, and says what workspace it needs, only where the GPU is: a program compiled for a described GPU
counts none.
"""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, Float
from lcv_jax.kernels.platform import compiling_for, compute_capability, target_platform

AMPERE, HOPPER = 8, 9
"""Major compute capabilities: the first GPUs that have such kernels, and those that have some for heads wider than 128
in both directions."""


def forward(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    key_mask_BM: Bool[Array, "B M"] | None = None,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B N S"]]:
    """Output in the queries' dtype and float32 log-sum-exp.

    Raises:
        NotImplementedError: `why_not` has a reason.
    """
    _refuse(why_not(q_BSNK, k_BMNK, v_BMNK, key_mask_BM))
    from jax._src.cudnn import fused_attention_stablehlo as fused

    # is_training is what makes it return the log-sum-exp.
    out_BSNK, lse_BNS = fused._dot_product_attention_fwd_p_wrapper.bind(
        q_BSNK, k_BMNK, v_BMNK, *_absent(q_BSNK), is_training=True, **_settings(fused, q_BSNK)
    )
    return out_BSNK, lse_BNS


def backward(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    key_mask_BM: Bool[Array, "B M"] | None,
    out_BSNK: Float[Array, "B S N K"],
    lse_BNS: Float[Array, "B N S"],
    d_out_BSNK: Float[Array, "B S N K"],
    d_lse_BNS: Float[Array, "B N S"] | None = None,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B M N K"], Float[Array, "B M N K"]]:
    """Gradients of queries, keys and values in their dtype.

    Args:
        d_lse_BNS: must be None: cuDNN takes no gradient of the log-sum-exp.

    Raises:
        NotImplementedError: `why_not` has a reason, or there is a gradient of the log-sum-exp.
    """
    _refuse(why_not(q_BSNK, k_BMNK, v_BMNK, key_mask_BM))
    if d_lse_BNS is not None:
        _refuse("its backward takes no gradient of the log-sum-exp")
    from jax._src.cudnn import fused_attention_stablehlo as fused

    dq_BSNK, dk_BMNK, dv_BMNK = fused._dot_product_attention_bwd_p_wrapper.bind(
        q_BSNK, k_BMNK, v_BMNK, *_absent(q_BSNK), lse_BNS, out_BSNK, d_out_BSNK, **_settings(fused, q_BSNK)
    )
    return dq_BSNK, dk_BMNK, dv_BMNK


def why_not(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    key_mask_BM: Bool[Array, "B M"] | None = None,
) -> str | None:
    """Why cuDNN cannot take these, forward and backward, or None. Only shapes and dtypes are looked at."""
    _, S, _, K = q_BSNK.shape
    M = k_BMNK.shape[1]
    if lack := _platform_lacks():
        return lack
    if key_mask_BM is not None:
        return "it takes a key mask only as an additive bias of queries x keys"
    dtypes = {x.dtype for x in (q_BSNK, k_BMNK, v_BMNK)}
    if len(dtypes) > 1 or not dtypes <= {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)}:
        return f"it takes bfloat16 or float16, one of them for all, got {', '.join(sorted(map(str, dtypes)))}"
    widest = _max_width()
    if K % 8 or widest < K:
        return f"it takes head widths that are multiples of 8 up to {widest}, got {K}"
    if 0 in (*q_BSNK.shape, M) or S == M == 1:
        return f"it takes no empty arrays, and has no backward for one query and one key; got {S} and {M}"
    return None


def _platform_lacks() -> str | None:
    """What keeps cuDNN off the GPU that is compiled for."""
    platform = target_platform()
    if platform not in ("gpu", "cuda") or not (_far_away() or "cuda" in _client_version()):
        return f"it runs on NVIDIA GPUs, this is compiled for {platform}"
    major, minor = compute_capability()
    if major < AMPERE:
        return f"it needs a GPU of compute capability {AMPERE}.0 or later, got {major}.{minor}"
    return None


def _max_width() -> int:
    return 256 if compute_capability()[0] == HOPPER else 128


def _far_away() -> bool:
    return compiling_for.value is not None


def _client_version() -> str:
    return jax.local_devices(backend="gpu")[0].client.platform_version


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise NotImplementedError(f"attention implementation 'cudnn': {reason}")


def _absent(q_BSNK: Array) -> list[Array]:
    """Bias, lengths and offsets of padded or packed sequences (4), page tables (2): none of them."""
    return [jnp.zeros(0, q_BSNK.dtype)] * 7


def _settings(fused: Any, q_BSNK: Array) -> dict[str, Any]:
    # JAX 0.12 has one parameter more: a function that changes scores.
    newer = "score_mod" in inspect.signature(fused._dot_product_attention_bwd_impl).parameters
    return {
        "scale": 1 / math.sqrt(q_BSNK.shape[-1]),
        "mask_type": fused.MaskType.NO_MASK,
        "layout": fused.AttentionLayout.BTNH.value,
        "variadic_args": (False, False),  # a bias, a gradient of it
        "dropout_rate": 0.0,
        "seed": 0,
        "sliding_window_length": None,
        **({"score_mod": None} if newer else {}),
    }
