"""TransNet V2, the network that finds transitions between shots (Soucek and Lokoc 2020, arXiv:2008.04838).

Three stacks of dilated convolutions over time and space, the similarity of each frame to those around it, by learned
features and by colour histograms, and a linear layer on all of it. Windows are 100 frames of 27 x 48 pixels.

Each layer has four branches that dilate time by 1, 2, 4 and 8. Their spatial kernels read the same input and are one
kernel here. A temporal kernel is one matrix product for its three taps, whose results are shifted and added: XLA's 3D
convolutions are several times slower on a CPU. The batch norms of the published weights are folded into the temporal
kernels when they are converted (checkpoint/transnet.py).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, UInt8
from lcv_jax.models.layers import Linear, matmul_precision

WINDOW = 100
"""Frames that the network was trained on."""
HEIGHT, WIDTH = 27, 48
DILATIONS = (1, 2, 4, 8)
_BAND = 12
"""Columns of a picture that pass through a stack at a time, which takes a quarter of the memory of all at once."""
_BINS = 8
"""Of a colour histogram, a channel."""


class DilatedLayer(nn.Module):
    """Convolutions in space, then in time, in four branches. Columns are not padded: the result has two fewer."""

    features: int
    """Of each branch."""

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B T H V D"]:
        B, T, H, W, C = x_BTHWC.shape
        init, branches, inner = nn.initializers.he_normal(), len(DILATIONS), 2 * self.features
        spatial = self.param("spatial", init, (3, 3, C, branches * inner))
        temporal = self.param("temporal", init, (branches, inner, 3, self.features))
        bias = self.param("bias", nn.initializers.zeros, (branches * self.features,))
        y = jax.lax.conv_general_dilated(
            x_BTHWC.reshape(B * T, H, W, C),
            spatial,
            (1, 1),
            ((1, 1), (0, 0)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=matmul_precision(x_BTHWC.dtype),
        ).reshape(B, T, H, W - 2, branches, inner)
        branch_outputs = [
            _convolve_time(y[..., branch, :], temporal[branch], dilation) for branch, dilation in enumerate(DILATIONS)
        ]
        return jnp.concatenate(branch_outputs, axis=-1) + bias


def _convolve_time(x_BTHWC: Array, kernel: Array, dilation: int) -> Array:
    """Three taps, `dilation` frames apart, with zeros beyond both ends."""
    T, (C, taps, features) = x_BTHWC.shape[1], kernel.shape
    y = jnp.matmul(x_BTHWC, kernel.reshape(C, taps * features), precision=matmul_precision(x_BTHWC.dtype))
    before, same, after = jnp.split(y, taps, axis=-1)
    edge = ((0, 0), (dilation, dilation), (0, 0), (0, 0), (0, 0))
    return same + jnp.pad(before, edge)[:, :T] + jnp.pad(after, edge)[:, 2 * dilation :]


class Stack(nn.Module):
    """Dilated layers, the first of which is added to the last, and pooling in space; one band of columns at a time."""

    features: int
    num_layers: int

    @nn.compact
    def __call__(self, x_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B T h w D"]:
        halo, width = self.num_layers, x_BTHWC.shape[3]
        band = _BAND if width % _BAND == 0 else width
        padded = jnp.pad(x_BTHWC, ((0, 0), (0, 0), (0, 0), (halo, halo), (0, 0)))

        def pooled(stack: Stack, padded: Array, left: Array) -> tuple[Array, Array]:
            """The columns from `left` on; each layer reads one more on both sides."""
            x, outputs = jax.lax.dynamic_slice_in_dim(padded, left, band + 2 * halo, axis=3), list[Array]()
            for number in range(halo):
                x = nn.relu(DilatedLayer(stack.features, name=f"layer_{number}")(x))
                beyond = halo - number - 1
                place = left - beyond + jnp.arange(band + 2 * beyond)
                # The next layer reads zeros around the picture.
                x = jnp.where(((place >= 0) & (place < width))[:, None], x, 0)
                outputs.append(x)
            first = outputs[0][:, :, :, halo - 1 : halo - 1 + band]
            B, T, H, W, D = x.shape
            x = nn.avg_pool((x + first).reshape(B * T, H, W, D), (2, 2), (2, 2))
            return padded, x.reshape(B, T, *x.shape[1:])

        scan = nn.scan(pooled, variable_broadcast="params", split_rngs={"params": False}, out_axes=3)
        _, bands = scan(self, padded, jnp.arange(0, width, band))
        return bands.reshape(*bands.shape[:3], -1, bands.shape[-1])


class TransNetV2(nn.Module):
    """How likely each frame is the last before a transition."""

    features: int = 16
    """Of a branch in the first stack; each further stack has twice as many."""
    num_stacks: int = 3
    num_layers: int = 2
    similarity_dim: int = 128
    lookup: int = 101
    """Frames around each, itself in the middle, that it is compared with."""
    hidden: int = 1024

    @nn.compact
    def __call__(self, frames_BTHWC: UInt8[Array, "B T H W 3"]) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Logits that a frame is the middle of a transition, and that it belongs to one."""
        B, T = frames_BTHWC.shape[:2]
        x, means = frames_BTHWC.astype(jnp.float32) / 255, []
        for number in range(self.num_stacks):
            x = Stack(self.features << number, self.num_layers, name=f"stack_{number}")(x)
            means.append(x.mean(axis=(2, 3)))
        projected = Linear(self.similarity_dim, name="projection")(jnp.concatenate(means, axis=-1))
        learned = nn.relu(Linear(self.similarity_dim, name="similarity")(_similarities(projected, self.lookup)))
        histograms = colour_histograms(frames_BTHWC)
        colours = nn.relu(Linear(self.similarity_dim, name="colours")(_similarities(histograms, self.lookup)))
        x = jnp.concatenate([colours, learned, x.reshape(B, T, -1)], axis=-1)
        x = nn.relu(Linear(self.hidden, name="hidden_layer")(x))
        return Linear(1, name="middle")(x)[..., 0], Linear(1, name="inside")(x)[..., 0]


def _similarities(x_BTD: Array, lookup: int) -> Array:
    """Cosine similarity of each frame to the frames around it; 0 beyond both ends."""
    x_BTD = x_BTD / jnp.maximum(jnp.linalg.norm(x_BTD, axis=-1, keepdims=True), 1e-12)
    every = jnp.einsum("btd,bsd->bts", x_BTD, x_BTD, precision=jax.lax.Precision.HIGHEST)
    T, reach = every.shape[1], (lookup - 1) // 2
    padded = jnp.pad(every, ((0, 0), (0, 0), (reach, reach)))
    around = jnp.arange(T)[:, None] + jnp.arange(lookup)
    return jnp.take_along_axis(padded, around[None], axis=2)


def colour_histograms(frames_BTHWC: UInt8[Array, "B T H W 3"]) -> Float[Array, "B T D"]:
    """How many pixels have each of 512 colours."""
    B, T, H, W, _ = frames_BTHWC.shape
    red, green, blue = jnp.moveaxis(frames_BTHWC.astype(jnp.int32) // (256 // _BINS), -1, 0)
    colours = ((red * _BINS + green) * _BINS + blue).reshape(B * T, H * W)
    frame = jnp.arange(B * T)[:, None]
    counts = jnp.zeros((B * T, _BINS**3), jnp.float32).at[frame, colours].add(1)
    return counts.reshape(B, T, -1)
