"""Layers of the video autoencoder: causal convolutions with a memory, resampling in space and time, and their blocks.

Every layer that looks back in time is called `y, cache = layer(x_BTHWC, cache)` and may be fed a clip in pieces of any
length: the cache holds the frames before the piece. A clip begins with its first frame alone and `cache=None`, which
stands for zeros before it and for the published exception that the first frame is not resampled in time.

Convolutions over time and space are sums of 2D channels-last convolutions, one a time tap. On CPU that takes half the
time of XLA's own 3D convolution at the released network's finest level and about as long at its coarsest; taps side by
side in the channels win a little at the coarsest and lose at the finest, unfolded windows lose everywhere. On GPU the
3D one is slow in channels-last layout as well. The first frame has but zeros behind it, so that one tap of three does.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, DTypeLike, Float, PyTree
from lcv_jax.models.layers import matmul_precision

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv2d(
    x_BTHWC: Float[Array, "B T H W C"], kernel: Float[Array, "kh kw C O"], padding: Padding, stride: int = 1
) -> Float[Array, "B T h w O"]:
    """A 2D convolution of every frame."""
    B, T, *grid = x_BTHWC.shape
    if kernel.shape[:2] == (1, 1):
        return jnp.matmul(x_BTHWC, kernel[0, 0], precision=matmul_precision(x_BTHWC.dtype))
    y = _convolve(padding, stride, x_BTHWC.reshape(B * T, *grid), kernel)
    return y.reshape(B, T, *y.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(padding: Padding, stride: int, x_BHWC: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x_BHWC,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=matmul_precision(x_BHWC.dtype),
    )


def _convolve_forward(padding: Padding, stride: int, x_BHWC: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(padding, stride, x_BHWC, kernel), (x_BHWC, kernel)


def _convolve_backward(
    padding: Padding, stride: int, residuals: tuple[Array, Array], d_y_BHWO: Array
) -> tuple[Array, Array]:
    """The gradient in products that XLA is fast at on a CPU too, where its own, of convolutions, runs at 2 GFLOP/s."""
    x_BHWC, kernel = residuals
    height, width = kernel.shape[:2]
    (top, bottom), (left, right) = padding
    # To the input: a convolution with the kernel turned round, of gradients with zeros between where it strode.
    rows, columns = d_y_BHWO.shape[1:3]
    edge_rows = x_BHWC.shape[1] + top + bottom - height - stride * (rows - 1)  # not reached by any stride
    edge_columns = x_BHWC.shape[2] + left + right - width - stride * (columns - 1)
    zero = jnp.zeros((), d_y_BHWO.dtype)
    down = (height - 1 - top, height - 1 - bottom + edge_rows, stride - 1)
    across = (width - 1 - left, width - 1 - right + edge_columns, stride - 1)
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    d_x_BHWC = _convolve(((0, 0), (0, 0)), 1, jax.lax.pad(d_y_BHWO, zero, ((0, 0, 0), down, across, (0, 0, 0))), turned)
    # To the kernel: for each of its taps a product over all pixels.
    padded = jnp.pad(x_BHWC, ((0, 0), (top, bottom), (left, right), (0, 0)))
    taps = [
        jax.lax.dot_general(
            padded[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride],
            d_y_BHWO,
            (((0, 1, 2), (0, 1, 2)), ((), ())),
            precision=matmul_precision(x_BHWC.dtype),
            preferred_element_type=jnp.promote_types(jnp.float32, x_BHWC.dtype),
        )
        for i in range(height)
        for j in range(width)
    ]
    d_kernel = jnp.stack(taps).reshape(kernel.shape).astype(kernel.dtype)
    return d_x_BHWC, d_kernel


_convolve.defvjp(_convolve_forward, _convolve_backward)


class Layer(nn.Module, kw_only=True):
    """What the layers here share: computing in `dtype`, or else in the kernel's own."""

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    branches: bool = True
    """Whether residual blocks and attention add anything to their input."""

    @property
    def shared(self) -> dict[str, Any]:
        """The fields that a layer hands on to its parts."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype, "branches": self.branches}

    def kernel_and_bias(self, x: Array, kernel_size: tuple[int, ...], features: int) -> tuple[Array, Array, Array]:
        """The input and the parameters of a convolution, all in the type to compute in."""
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (*kernel_size, x.shape[-1], features), self.param_dtype
        )
        bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype)
        dtype = self.dtype or kernel.dtype
        return x.astype(dtype), kernel.astype(dtype), bias.astype(dtype)


class Caches:
    """The caches of a module's layers by name, of the piece before and of this one."""

    def __init__(self, old: PyTree) -> None:
        self.old: dict[str, PyTree] = old or {}
        self.new: dict[str, PyTree] = {}

    def run(self, layer: Layer, x_BTHWC: Array) -> Array:
        """`layer(x)`, with its cache taken from the old ones and put to the new ones."""
        name = str(layer.name)
        y, self.new[name] = layer(x_BTHWC, self.old.get(name))
        return y


class ChannelNorm(Layer, kw_only=True):
    """RMS norm over the channels, in float32; returns the input's dtype."""

    @nn.compact
    def __call__(self, x: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        wide = x.astype(jnp.float32)
        # Written as published, a norm of at least 1e-12 times sqrt(C): no epsilon is added to the mean of the squares.
        squares = jnp.maximum(jnp.sum(wide * wide, axis=-1, keepdims=True), 1e-24)
        wide *= jax.lax.rsqrt(squares) * x.shape[-1] ** 0.5
        return (wide * gamma.astype(jnp.float32)).astype(x.dtype)


class Pointwise(Layer, kw_only=True):
    """A convolution of one pixel of one frame, stored with the axes of a 2D or a 3D kernel."""

    features: int
    kernel_size: tuple[int, ...] = (1, 1, 1)

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B T H W O"]:
        x_BTHWC, kernel, bias = self.kernel_and_bias(x_BTHWC, self.kernel_size, self.features)
        return conv2d(x_BTHWC, kernel.reshape(1, 1, *kernel.shape[-2:]), ((0, 0), (0, 0))) + bias


class CausalConv(Layer, kw_only=True):
    """A convolution over time and space that sees no later frame; the cache is the last frames of its input."""

    features: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    time_stride: int = 1

    @nn.compact
    def __call__(
        self, x_BTHWC: Float[Array, "B T H W C"], cache: Float[Array, "B K H W C"] | None = None
    ) -> tuple[Float[Array, "B t H W O"], Float[Array, "B K H W C"]]:
        x_BTHWC, kernel, bias = self.kernel_and_bias(x_BTHWC, self.kernel_size, self.features)
        num_taps, height, width = self.kernel_size
        history = num_taps - self.time_stride
        padding = ((height // 2, height // 2), (width // 2, width // 2))
        if cache is None:
            assert x_BTHWC.shape[1] <= 1, "a clip begins with its first frame alone"
            cache = jnp.pad(x_BTHWC, ((0, 0), (history - x_BTHWC.shape[1], 0), (0, 0), (0, 0), (0, 0)))
            return conv2d(x_BTHWC, kernel[-1], padding) + bias, cache
        seen = jnp.concatenate([cache, x_BTHWC], axis=1)
        last = seen.shape[1] - num_taps
        y = sum(conv2d(seen[:, i : last + i + 1 : self.time_stride], kernel[i], padding) for i in range(num_taps))
        return y + bias, seen[:, seen.shape[1] - history :]


class ResidualBlock(Layer, kw_only=True):
    """Twice norm, SiLU and causal convolution, added to the input."""

    features: int

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"], cache: PyTree = None) -> tuple[Array, PyTree]:
        caches, y = Caches(cache), x_BTHWC
        for i in (1, 2) if self.branches else ():
            y = nn.silu(ChannelNorm(name=f"norm{i}", **self.shared)(y))
            y = caches.run(CausalConv(features=self.features, name=f"conv{i}", **self.shared), y)
        if x_BTHWC.shape[-1] != self.features:
            x_BTHWC = Pointwise(features=self.features, name="conv_shortcut", **self.shared)(x_BTHWC)
        return (x_BTHWC + y if self.branches else x_BTHWC), caches.new


class FrameAttention(Layer, kw_only=True):
    """Single-head attention among the pixels of a frame, added to the input."""

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
        B, T, H, W, C = x_BTHWC.shape
        y = ChannelNorm(name="norm", **self.shared)(x_BTHWC)
        qkv = Pointwise(features=3 * C, kernel_size=(1, 1), name="to_qkv", **self.shared)(y)

        def attend(qkv_SC: Float[Array, "S C3"]) -> Float[Array, "S C"]:
            q, k, v = jnp.split(qkv_SC, 3, axis=-1)
            precision = matmul_precision(q.dtype)
            scores = jnp.einsum("sc,mc->sm", q, k, precision=precision, preferred_element_type=jnp.float32)
            weights = jax.nn.softmax(scores * C**-0.5, axis=-1).astype(v.dtype)
            return jnp.matmul(weights, v, precision=precision)

        # Frame by frame: the scores of one 720p frame are 0.8 GB, and one frame keeps any device busy.
        y = jax.lax.map(attend, qkv.reshape(B * T, H * W, 3 * C)).reshape(B, T, H, W, C)
        return x_BTHWC + Pointwise(features=C, kernel_size=(1, 1), name="proj", **self.shared)(y)


class MiddleBlock(Layer, kw_only=True):
    """Residual block, attention, residual block."""

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"], cache: PyTree = None) -> tuple[Array, PyTree]:
        caches, C = Caches(cache), x_BTHWC.shape[-1]
        if not self.branches:
            return x_BTHWC, caches.new
        x_BTHWC = caches.run(ResidualBlock(features=C, name="resnets_0", **self.shared), x_BTHWC)
        x_BTHWC = FrameAttention(name="attentions_0", **self.shared)(x_BTHWC)
        x_BTHWC = caches.run(ResidualBlock(features=C, name="resnets_1", **self.shared), x_BTHWC)
        return x_BTHWC, caches.new


class HalvingConv(Layer, kw_only=True):
    """A 3x3 convolution that halves height and width; padded behind and below only."""

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B T h w C"]:
        x_BTHWC, kernel, bias = self.kernel_and_bias(x_BTHWC, (3, 3), x_BTHWC.shape[-1])
        return conv2d(x_BTHWC, kernel, ((0, 1), (0, 1)), stride=2) + bias


class DoublingConv(Layer, kw_only=True):
    """Every pixel repeated 2 x 2, then a 3x3 convolution.

    A row of the doubled picture sees but two rows of the picture: upper rows the one above and, with the sum of two
    taps, their own; lower rows their own, with the sum of two taps, and the one below. So the four kinds of pixels come
    from one 2x2 convolution with four times the features and 4/9 of the work.
    """

    features: int

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B T h w O"]:
        B, T, H, W, C = x_BTHWC.shape
        x_BTHWC, kernel, bias = self.kernel_and_bias(x_BTHWC, (3, 3), self.features)
        fold = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], jnp.float32)  # upper or lower, row seen, tap
        folded = jnp.einsum("akh,blw,hwco->klcabo", fold, fold, kernel, precision=jax.lax.Precision.HIGHEST)
        folded = folded.astype(kernel.dtype).reshape(2, 2, C, 4 * self.features)
        y = conv2d(x_BTHWC, folded, ((1, 1), (1, 1))).reshape(B, T, H + 1, W + 1, 2, 2, self.features)
        rows = [jnp.stack([y[:, :, a : a + H, b : b + W, a, b] for b in range(2)], axis=4) for a in range(2)]
        return jnp.stack(rows, axis=3).reshape(B, T, 2 * H, 2 * W, self.features) + bias


class Downsample(Layer, kw_only=True):
    """Half the height and width and, after the first frame, half the frames if `over_time`."""

    over_time: bool

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"], cache: PyTree = None) -> tuple[Array, PyTree]:
        x_BTHWC = HalvingConv(name="resample_1", **self.shared)(x_BTHWC)
        if not self.over_time:
            return x_BTHWC, None
        halve = CausalConv(
            features=x_BTHWC.shape[-1], kernel_size=(3, 1, 1), time_stride=2, name="time_conv", **self.shared
        )
        first = cache is None
        y, cache = halve(x_BTHWC[:, :0], x_BTHWC) if first else halve(x_BTHWC, cache)
        return (x_BTHWC if first else y), cache


class Upsample(Layer, kw_only=True):
    """Twice the height and width and, after the first frame, twice the frames if `over_time`; half the channels."""

    over_time: bool

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"], cache: PyTree = None) -> tuple[Array, PyTree]:
        B, T, H, W, C = x_BTHWC.shape
        if self.over_time:
            double = CausalConv(features=2 * C, kernel_size=(3, 1, 1), name="time_conv", **self.shared)
            if cache is None:  # the first frame does not even enter the history of the frames after it
                _, cache = double(x_BTHWC[:, :0])
            else:
                y, cache = double(x_BTHWC, cache)
                x_BTHWC = jnp.moveaxis(y.reshape(B, T, H, W, 2, C), 4, 2).reshape(B, 2 * T, H, W, C)
        return DoublingConv(features=C // 2, name="resample_1", **self.shared)(x_BTHWC), cache
