"""Small layers that the networks share.

Float32 islands live here once: norms compute in float32 whatever comes in, because their sums over thousands of
channels lose digits in bfloat16; float32 matrix products ask for full precision, because a GPU's default for them is
TF32, which has float32's exponent and a fraction of ten bits.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, DTypeLike, Float, Int, Shaped
from lcv_jax.kernels.norm_rope import rms_norm
from lcv_jax.kernels.residual_norm import affine_layer_norm
from lcv_jax.parallel.sharding import gather_kernel


def matmul_precision(dtype: DTypeLike) -> jax.lax.Precision:
    """Full precision for float32 operands; the hardware's own for narrower ones."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


class Linear(nn.Module):
    """`x @ kernel + bias`, in `dtype` or else in the kernel's own dtype, plus low-rank adapters where there are any.

    A variable collection "adapters" holds, for any subset of the layers, `{"down": (in, n, R), "up": (n, R, out / n)}`:
    n low-rank pairs, each of which adds to its own slice of the output (see models/lora.py). A quantized kernel has a
    "scale" beside it (see models/quantize.py); it computes in the dtype of `x`.
    """

    features: int
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __call__(self, x: Shaped[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        (y,) = self._products(x, 1)
        return y

    @nn.compact
    def _products(self, x: Array, num_parts: int) -> list[Array]:
        init = nn.initializers.xavier_uniform()
        kernel = gather_kernel(self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype))
        scale = self.get_variable("params", "scale") if self.has_variable("params", "scale") else None
        dtype = self.dtype or (kernel.dtype if scale is None else x.dtype)
        x, precision = x.astype(dtype), matmul_precision(dtype)
        ys = [jnp.matmul(x, part.astype(dtype), precision=precision) for part in _parts(kernel, num_parts)]
        if scale is not None:
            ys = [(y * part).astype(dtype) for y, part in zip(ys, _parts(scale, num_parts), strict=True)]
        if self.has_variable("adapters", "down"):
            down: Array = self.get_variable("adapters", "down").astype(dtype)
            up: Array = self.get_variable("adapters", "up").astype(dtype)
            low = jnp.einsum("...d,dnr->...nr", x, down, precision=precision)
            added = jnp.einsum("...nr,nro->...no", low, up, precision=precision).reshape(*x.shape[:-1], self.features)
            ys = [y + part for y, part in zip(ys, _parts(added, num_parts), strict=True)]
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype).astype(dtype)
            ys = [y + part for y, part in zip(ys, _parts(bias, num_parts), strict=True)]
        return ys


class SplitLinear(Linear):
    """`Linear` whose output comes in equal parts, each an array of its own: q, k and v of one kernel.

    A product for each part of the kernel: cut out of one product, every part would be copied once more, and a copy
    of activations moves more bytes than one of weights.
    """

    num_parts: int = 1

    def __call__(self, x: Shaped[Array, "*batch in"]) -> list[Array]:  # type: ignore[override]
        return self._products(x, self.num_parts)


def _parts(x: Shaped[Array, "*lead out"], num_parts: int) -> list[Array]:
    """Equal parts of the last axis."""
    return [x] if num_parts == 1 else jnp.split(x, num_parts, axis=-1)


class Embedding(nn.Module):
    """A table with one row of `features` numbers per token id; an id outside of it gives NaN."""

    num_embeddings: int
    features: int
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids_BL: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        init = nn.initializers.normal(1.0)
        weight = self.param("weight", init, (self.num_embeddings, self.features), self.param_dtype)
        return jnp.take(weight, ids_BL, axis=0, mode="fill")


class RMSNorm(nn.Module):
    """`rms_norm` of kernels/norm_rope.py with a weight of its own."""

    epsilon: float = 1e-6
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        return rms_norm(x, self.param("weight", nn.initializers.ones, (x.shape[-1],), self.param_dtype), self.epsilon)


class LayerNorm(nn.Module):
    """`affine_layer_norm` of kernels/residual_norm.py with a weight and a bias of its own."""

    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
        return affine_layer_norm(x, weight, bias)
