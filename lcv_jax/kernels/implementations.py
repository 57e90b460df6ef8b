"""Who computes attention: the implementations behind the door, the choice among them, and their one gradient.

    name               dense   sparse   runs on
    xla                yes     yes      anything
    pallas_triton      yes     yes      GPUs: our kernels, kernels/flash_forward.py and flash_backward.py
    pallas_interpret   yes     yes      anything, slowly: the same kernels in Pallas' interpreter
    cudnn              yes     no       NVIDIA GPUs
    jax_triton         no      yes      GPUs: the forward kernel in Triton's own language; backward is pallas_triton's
    pallas_mosaic_gpu  no      yes      Hopper: kernels/mosaic_forward.py and mosaic_backward.py; never by "auto"

Each is a forward function, to the output and the log-sum-exp of the scores, and a backward function from those two. So
they share one differentiation rule, and whoever merges partial results (a ring) can call `backward` with the merged
ones. Dense attention is a selection of None, with one query block and one key block of all tokens.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lcv_jax.array_types import Array, Bool
from lcv_jax.kernels import cudnn, xla
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.platform import HOPPER, compute_capability, target_platform

IMPLEMENTATIONS = ("xla", "pallas_triton", "pallas_interpret", "cudnn", "jax_triton", "pallas_mosaic_gpu")
SPARSE_ONLY = ("jax_triton", "pallas_mosaic_gpu")

RESIDUALS = "attention"
"""Name of the output and log-sum-exp that the backward pass starts from, for `jax.checkpoint_policies`."""
CHEAP_RESIDUALS = "cheap attention"
"""Likewise where there are few keys: computing them again costs less than the memory that they take."""

KERNEL_DTYPES = ("bfloat16", "float16", "float32")
MAX_KERNEL_WIDTH = 256
MOSAIC_WIDTHS = (64, 128)


def choose(
    implementation: str,
    q_BSNK: Array,
    k_BMNK: Array,
    v_BMNK: Array,
    *,
    blocks: tuple[int, int] | None,
    key_mask_BM: Array | None = None,
    causal: bool = False,
) -> str:
    """The implementation of that name; for "auto" the fastest that takes these arrays.

    Args:
        blocks: tokens of a query block and of a key block; None is dense attention.

    Raises:
        NotImplementedError: there is none of that name, or it cannot take these; with the reason.
    """
    given = (q_BSNK, k_BMNK, v_BMNK, blocks, key_mask_BM, causal)
    if implementation == "auto":
        fastest = ("pallas_triton",) if blocks else ("cudnn", "pallas_triton")
        return next((name for name in fastest if _why_not(name, *given) is None), "xla")
    if implementation not in IMPLEMENTATIONS:
        raise NotImplementedError(
            f"attention implementation {implementation!r}: have auto, {', '.join(IMPLEMENTATIONS)}"
        )
    if reason := _why_not(implementation, *given):
        raise NotImplementedError(f"attention implementation {implementation!r}: {reason}")
    return implementation


def selects_by(implementation: str) -> str:
    """The implementation of block selection that goes with one of attention."""
    return "pallas_triton" if implementation in SPARSE_ONLY else implementation


def goes_with(implementation: str, *, takes: bool) -> str:
    """What computes a step around attention where attention's implementation is this one.

    Args:
        implementation: of attention, a name of the module's table or auto.
        takes: whether the step's kernel takes the arrays; where not, XLA computes it.
    """
    if implementation == "xla" or not takes:
        return "xla"
    if implementation == "pallas_interpret":
        return implementation
    return "pallas_triton" if target_platform() in ("gpu", "cuda", "rocm") else "xla"


def _why_not(
    name: str,
    q_BSNK: Array,
    k_BMNK: Array,
    v_BMNK: Array,
    blocks: tuple[int, int] | None,
    key_mask_BM: Array | None,
    causal: bool,
) -> str | None:
    if name == "xla":
        return None
    if causal:
        return "it has no causal attention; xla does"
    if name == "cudnn":
        return "it is dense only" if blocks else cudnn.why_not(q_BSNK, k_BMNK, v_BMNK, key_mask_BM)
    if name in SPARSE_ONLY and blocks is None:
        return "it is block-sparse only"
    if name != "pallas_interpret" and target_platform() not in ("gpu", "cuda", "rocm"):
        return f"it runs on a GPU, this is for {target_platform()}; pallas_interpret tries our kernels anywhere"
    dtypes = {jnp.dtype(x.dtype).name for x in (q_BSNK, k_BMNK, v_BMNK)}
    if len(dtypes) > 1 or not dtypes <= set(KERNEL_DTYPES):
        return f"it takes q, k and v of one dtype of {', '.join(KERNEL_DTYPES)}, got {', '.join(sorted(dtypes))}"
    if q_BSNK.shape[-1] > MAX_KERNEL_WIDTH:
        return f"it takes heads at most {MAX_KERNEL_WIDTH} wide, got {q_BSNK.shape[-1]}"
    if 0 in (*q_BSNK.shape, *k_BMNK.shape):
        return f"it takes no empty arrays, got queries {q_BSNK.shape} and keys {k_BMNK.shape}"
    return _why_not_mosaic(q_BSNK, blocks) if name == "pallas_mosaic_gpu" and blocks else None


def _why_not_mosaic(q_BSNK: Array, blocks: tuple[int, int]) -> str | None:
    if (capability := compute_capability())[0] != HOPPER[0]:
        have = "{}.{}".format(*capability)
        return f"it runs on Hopper (H100, H200), compute capability 9.0, got {have}; pallas_triton runs on others"
    if q_BSNK.dtype.itemsize != 2:
        return f"it takes bfloat16 and float16, got {q_BSNK.dtype}"
    if q_BSNK.shape[-1] not in MOSAIC_WIDTHS:
        return f"it takes heads {' or '.join(map(str, MOSAIC_WIDTHS))} wide, got {q_BSNK.shape[-1]}"
    if any(block != 64 and block % 128 for block in blocks):
        return f"it takes blocks of 64 or of a multiple of 128 tokens, got {blocks[0]} queries and {blocks[1]} keys"
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3, 4))
def attend(
    implementation: str,
    block_q: int,
    block_k: int,
    residuals: str,
    causal: bool,
    q_BSNK: Array,
    k_BMNK: Array,
    v_BMNK: Array,
    selection: Selection | None,
    key_mask_BM: Bool[Array, "B M"] | None,
) -> tuple[Array, Array]:
    """Output and float32 log-sum-exp, both differentiable; the selection and the mask are not.

    Args:
        implementation: what `choose` gave.
        residuals: RESIDUALS or CHEAP_RESIDUALS, the name of what the backward pass starts from.
        causal: of dense attention: query s attends to keys up to s + M - S.
        selection: None is dense, with `block_q` and `block_k` the lengths.
        key_mask_BM: of dense attention.
    """
    return forward(implementation, block_q, block_k, q_BSNK, k_BMNK, v_BMNK, selection, key_mask_BM, causal)


def forward(
    implementation: str,
    block_q: int,
    block_k: int,
    q_BSNK: Array,
    k_BMNK: Array,
    v_BMNK: Array,
    selection: Selection | None,
    key_mask_BM: Array | None,
    causal: bool = False,
) -> tuple[Array, Array]:
    """`attend` without a gradient."""
    if implementation == "xla":
        if selection is None:
            return xla.dense_forward(q_BSNK, k_BMNK, v_BMNK, key_mask_BM, causal)
        return xla.sparse_forward(q_BSNK, k_BMNK, v_BMNK, selection, block_q, block_k)
    if implementation == "cudnn":
        return cudnn.forward(q_BSNK, k_BMNK, v_BMNK, key_mask_BM)
    if implementation == "jax_triton":
        assert selection is not None  # `choose` sees to it
        from lcv_jax.kernels import jax_triton_forward

        major, minor = compute_capability()
        return jax_triton_forward.forward(
            q_BSNK, k_BMNK, v_BMNK, selection, block_q, block_k, compute_capability=10 * major + minor
        )
    if implementation == "pallas_mosaic_gpu":
        assert selection is not None
        from lcv_jax.kernels import mosaic_forward

        return mosaic_forward.forward(q_BSNK, k_BMNK, v_BMNK, selection, block_q, block_k)
    from lcv_jax.kernels import flash_forward

    interpret = implementation == "pallas_interpret"
    return flash_forward.forward(
        q_BSNK, k_BMNK, v_BMNK, selection, block_q, block_k, key_mask_BM=key_mask_BM, interpret=interpret
    )


def backward(
    implementation: str,
    block_q: int,
    block_k: int,
    residuals: tuple[Array, Array, Array, Selection | None, Array | None, Array, Array],
    d_out_BSNK: Array,
    d_lse_BNS: Array | None,
    causal: bool = False,
) -> tuple[Array, Array, Array]:
    """Gradients of queries, keys and values.

    Args:
        residuals: q, k, v, selection, key mask, output and log-sum-exp.
        d_lse_BNS: None is zero.
    """
    q, k, v, selection, key_mask_BM, out_BSNK, lse_BNS = residuals
    results = (out_BSNK, lse_BNS, d_out_BSNK, d_lse_BNS)
    if implementation == "xla":
        if selection is None:
            return xla.dense_backward(q, k, v, key_mask_BM, *results, causal)
        return xla.sparse_backward(q, k, v, selection, *results, block_q, block_k)
    if implementation == "cudnn" and d_lse_BNS is None:
        return cudnn.backward(q, k, v, key_mask_BM, *results)
    if implementation == "pallas_mosaic_gpu":
        assert selection is not None
        from lcv_jax.kernels import mosaic_backward

        return mosaic_backward.backward(q, k, v, selection, *results, block_q, block_k)
    # cuDNN's backward takes no gradient of the log-sum-exp; ours starts from the same residuals.
    from lcv_jax.kernels import flash_backward

    interpret = implementation == "pallas_interpret"
    return flash_backward.backward(
        q, k, v, selection, *results, block_q, block_k, key_mask_BM=key_mask_BM, interpret=interpret
    )


def _attend_forward(implementation: str, block_q: int, block_k: int, name: str, causal: bool, *primals) -> tuple:
    # With symbolic zeros asked for, every array comes with whether it is perturbed.
    given = jax.tree.map(lambda primal: primal.value, primals, is_leaf=lambda x: hasattr(x, "perturbed"))
    q, k, v, selection, key_mask_BM = given
    computed = forward(implementation, block_q, block_k, q, k, v, selection, key_mask_BM, causal)
    out, lse = keep(*computed, name)
    return (out, lse), (*given, out, lse)


def keep(out_BSNK: Array, lse_BNS: Array, name: str = RESIDUALS) -> tuple[Array, Array]:
    """The same, under the name by which a rematerialisation policy can keep them: then the forward runs once."""
    return checkpoint_name(out_BSNK, name), checkpoint_name(lse_BNS, name)


def _attend_backward(
    implementation: str, block_q: int, block_k: int, name: str, causal: bool, residuals: tuple, gradients: tuple
) -> tuple:
    # What nothing depends on comes as a symbolic zero, and costs nothing.
    d_out, d_lse = (None if isinstance(x, jax.custom_derivatives.SymbolicZero) else x for x in gradients)
    if d_out is None:
        d_out = jnp.zeros_like(residuals[-2])
    return *backward(implementation, block_q, block_k, residuals, d_out, d_lse, causal), None, None


attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)
