"""Low-rank adapters: added while the model runs, or folded into its weights.

An adapter is a tree beside the parameters that holds, for any of the blocks' linear layers, `{"down": (depth, in, n,
R), "up": (depth, n, R, out / n), "alpha_scale": (depth,)}`: n stacked pairs (3 for `qkv`, 2 for `kv_linear`, else 1),
each of which adds to its own slice of the output `up(down(x)) * multiplier * alpha_scale`.

    model.apply({"params": params, "adapters": combine([(distilled, 1.0), (style, 0.7)])}, ...)   # at run time
    model.apply({"params": fold(params, [(distilled, 1.0), (style, 0.7)])}, ...)                  # costs nothing a step
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, Params

Adapter = Params
Active = Sequence[tuple[Adapter, float]]
"""Adapters with their multipliers."""


def combine(adapters: Active) -> Params:
    """Any number of adapters as one, for the model's "adapters" collection: their ranks side by side."""
    layers: dict[tuple[str, ...], list[tuple[Array, Array]]] = {}
    for adapter, multiplier in adapters:
        for path, pair in _pairs(adapter):
            # In float32, so that folding rounds but once.
            scale = multiplier * jnp.asarray(pair["alpha_scale"], jnp.float32)
            scaled_up = jnp.asarray(pair["up"], jnp.float32) * scale[:, None, None, None]
            layers.setdefault(path, []).append((pair["down"], scaled_up))
    tree: Params = {}
    for path, pairs in layers.items():
        slices = max(down.shape[2] for down, _ in pairs)
        downs, ups = zip(*(_sliced(*pair, slices) for pair in pairs), strict=True)
        _put(tree, path, {"down": jnp.concatenate(downs, axis=-1), "up": jnp.concatenate(ups, axis=-2)})
    return tree


def _sliced(down: Array, up: Array, slices: int) -> tuple[Array, Array]:
    """A pair for the whole output as one for each of its slices: the same `down`, and each slice's columns of `up`."""
    if down.shape[2] == slices:
        return down, up
    if down.shape[2] != 1:
        raise ValueError(f"adapters with {down.shape[2]} and {slices} pairs for one layer cannot be active together")
    depth, _, rank, width = up.shape
    split = up.reshape(depth, rank, slices, width // slices)
    return jnp.repeat(down, slices, axis=2), jnp.swapaxes(split, 1, 2)


def fold(params: Params, adapters: Active) -> Params:
    """Parameters with the adapters folded in; the given ones stay as they are, so undoing is dropping the result.

    Each kernel is added to in float32, layer by layer, and rounded once to its own dtype.

    Raises:
        ValueError: an adapter for layers that the model does not have, or of other sizes.
    """
    if not adapters:
        return params
    folded = jax.tree.map(lambda leaf: leaf, params)
    for path, pair in _pairs(combine(adapters)):
        layer = _at(folded, path)
        if layer is None:
            raise ValueError(f"the adapter is for another model: there is no layer {'.'.join(path)} to add to")
        if "scale" in layer:
            raise ValueError(
                "adapters cannot be folded into quantized weights: fold before quantizing, or add them as it runs"
            )
        depth, width = layer["kernel"].shape[0], layer["kernel"].shape[1:]
        got = pair["down"].shape[1], pair["up"].shape[1] * pair["up"].shape[3]
        if (pair["down"].shape[0], *got) != (depth, *width):
            raise ValueError(
                f"the adapter is for another model: {'.'.join(path)} has {depth} layers of {width[0]} x {width[1]}, "
                f"the adapter {pair['down'].shape[0]} of {got[0]} x {got[1]}"
            )
        layer["kernel"] = _fold_layers(layer["kernel"], pair["down"], pair["up"])
    return folded


def fold_kernel(
    kernel: Float[Array, "in out"], down: Float[Array, "in n R"], up: Float[Array, "n R slice"]
) -> Float[Array, "in out"]:
    """One layer's kernel with one combined pair added, in float32, back in the kernel's dtype."""
    delta = jnp.einsum("dnr,nro->dno", down, up, precision="highest", preferred_element_type=jnp.float32)
    return (kernel.astype(jnp.float32) + delta.reshape(kernel.shape)).astype(kernel.dtype)


@jax.jit
def _fold_layers(kernel: Array, down: Array, up: Array) -> Array:
    """Layer by layer: a float32 copy of all layers at once would not fit beside a 13.6B model."""
    return jax.lax.map(lambda layer: fold_kernel(*layer), (kernel, down.astype(jnp.float32), up.astype(jnp.float32)))


def _pairs(tree: Params, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Params]]:
    """(path of a linear layer, its {"down", "up", ...}) for every layer of an adapter."""
    if "down" in tree:
        yield path, tree
        return
    for name, child in tree.items():
        yield from _pairs(child, (*path, name))


def _at(tree: Params, path: tuple[str, ...]) -> Params | None:
    for name in path:
        tree = tree.get(name) or {}
    return tree or None


def _put(tree: Params, path: tuple[str, ...], leaf: Params) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf
