"""Tables of what lies where: on the tree of the real model by its shapes, on eight devices with a toy one.

Run as a program (in a process of its own, for the number of devices) this file is the second half.
"""

import functools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lcv_jax.config import DiTConfig, UMT5Config
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.parallel.mesh import AXES, make_mesh
from lcv_jax.parallel.sharding import (
    REPLICATED,
    Cut,
    batch_sharding,
    constrain_tokens,
    find_spec,
    full_sharding,
    gather_kernel,
    loading_rule,
    shardings,
    zero_2,
)

EIGHT = AbstractMesh((1, 8, 1), AXES)
CUT_IN_ROWS = P(None, "fsdp")
"""Of a stack of layers: the first axis within a layer."""


def path_of(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


def specs(tree, mesh, rules):
    found = jax.tree_util.tree_leaves_with_path(shardings(tree, mesh, rules))
    return {path_of(path): sharding.spec for path, sharding in found}


@functools.cache
def released_shapes():
    """Of the 13.6B transformer's parameters."""
    model = LongCatVideo(DiTConfig(), param_dtype=jnp.bfloat16)
    inputs = jnp.zeros((1, 1, 2, 2, 16)), jnp.zeros((1, 1)), jnp.zeros((1, 4, 4096)), jnp.ones((1, 4), bool)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))["params"]


def train_state(params, adapter):
    """What a trainer holds: the optimiser's state and an average repeat the parameters' names."""
    optimiser = optax.adamw(1e-4)
    opt = jax.eval_shape(optimiser.init, {"params": params, "adapters": adapter})
    return {"params": params, "adapters": adapter, "ema": params, "opt": opt, "step": jax.ShapeDtypeStruct((), int)}


def released_state():
    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    pair = {"down": shape(48, 4096, 3, 128), "up": shape(48, 3, 128, 4096), "alpha_scale": shape(48)}
    return train_state(released_shapes(), {"blocks": {"attn": {"qkv": pair}}})


CUT = {
    "blocks/adaLN_modulation_1/kernel": CUT_IN_ROWS,
    "blocks/attn/qkv/kernel": CUT_IN_ROWS,
    "blocks/attn/proj/kernel": CUT_IN_ROWS,
    "blocks/cross_attn/q_linear/kernel": CUT_IN_ROWS,
    "blocks/cross_attn/kv_linear/kernel": CUT_IN_ROWS,
    "blocks/cross_attn/proj/kernel": CUT_IN_ROWS,
    "blocks/ffn/w1/kernel": CUT_IN_ROWS,
    "blocks/ffn/w2/kernel": CUT_IN_ROWS,
    "blocks/ffn/w3/kernel": CUT_IN_ROWS,
    "y_embedder/y_proj_0/kernel": P("fsdp"),
    "y_embedder/y_proj_2/kernel": P("fsdp"),
}


@pytest.mark.parametrize(("rules", "parameters_cut"), [(zero_2(), False), (full_sharding(), True)])
def test_one_table_for_the_whole_state_of_the_released_model(rules, parameters_cut):
    found = specs(released_state(), EIGHT, rules)
    names = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(released_shapes())]
    wanted = {"step": P(), "opt/0/count": P()}
    for name in names:
        wanted[f"params/{name}"] = CUT.get(name, P()) if parameters_cut else P()
        for copy in ("ema", "opt/0/mu/params", "opt/0/nu/params"):
            wanted[f"{copy}/{name}"] = CUT.get(name, P())
    for part in ("down", "up", "alpha_scale"):
        for copy in ("adapters", "opt/0/mu/adapters", "opt/0/nu/adapters"):
            wanted[f"{copy}/blocks/attn/qkv/{part}"] = P()
    assert found == wanted


def bytes_per_device(tree, placed):
    local = jax.tree.map(lambda x, to: math.prod(to.shard_shape(x.shape)) * x.dtype.itemsize, tree, placed)
    return sum(jax.tree.leaves(local))


def test_bytes_per_device_of_the_released_model():
    shapes = released_shapes()
    whole = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    placed = functools.partial(shardings, shapes, EIGHT)
    assert bytes_per_device(shapes, placed(zero_2(), under="params")) == whole
    for eighth in (placed(zero_2(), under="grads"), placed(full_sharding(), under="params")):
        assert whole / 8 < bytes_per_device(shapes, eighth) < whole / 8 * 1.01
    sixteen = AbstractMesh((1, 8, 2), AXES)
    cut = shardings(shapes, sixteen, full_sharding(("fsdp", "seq")), under="params")
    assert whole / 16 < bytes_per_device(shapes, cut) < whole / 16 * 1.01


def test_the_text_encoder_too():
    encoder = UMT5Encoder(UMT5Config())
    inputs = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), *inputs))
    found = specs(shapes, EIGHT, full_sharding())
    assert found["params/shared/weight"] == P("fsdp")
    assert found["params/encoder/block/layer_0/SelfAttention/q/kernel"] == CUT_IN_ROWS
    assert found["params/encoder/block/layer_1/DenseReluDense/wo/kernel"] == CUT_IN_ROWS
    whole = [path for path, spec in found.items() if spec == P()]
    assert all(re.search("norm/weight|relative_attention_bias", path) for path in whole)
    assert set(specs(shapes, EIGHT, REPLICATED).values()) == {P()}


@pytest.mark.parametrize(
    ("shape", "layer_axes", "parts", "wanted"),
    [
        ((8, 16, 24), 0, 8, P("fsdp")),
        ((8, 16, 24), 1, 8, P(None, "fsdp")),
        ((8, 15, 24), 1, 8, P(None, None, "fsdp")),
        ((8, 15, 23), 1, 8, P()),
        ((8, 16, 24), 1, 1, P()),
        ((), 0, 8, P()),
    ],
)
def test_the_first_axis_that_divides_but_never_that_of_the_layers(shape, layer_axes, parts, wanted):
    assert Cut(("fsdp",), layer_axes).spec(shape, AbstractMesh((1, parts, 1), AXES)) == wanted


def test_first_match_wins_and_none_is_an_error():
    rules = (("kernel$", P("fsdp")), ("^params/", P("data", "fsdp")))
    assert find_spec("params/a/kernel", (8, 8), EIGHT, rules) == P("fsdp")
    assert find_spec("params/a/bias", (8, 8), EIGHT, rules) == P("data", "fsdp")
    with pytest.raises(ValueError, match=r"gives params/a/bias of shape \(8,\) the axes"):
        find_spec("params/a/bias", (8,), EIGHT, rules)
    with pytest.raises(ValueError, match="no rule for opt/count: add one"):
        find_spec("opt/count", (), EIGHT, rules)


def test_nothing_is_constrained_without_a_mesh():
    x_BSD, kernel = jnp.zeros((2, 4, 8)), jnp.zeros((4, 4))
    assert constrain_tokens(x_BSD) is x_BSD
    assert "sharding_constraint" not in str(jax.make_jaxpr(jax.grad(lambda k: gather_kernel(k).sum()))(kernel))


@pytest.mark.slow
def test_on_eight_devices(tiny_checkpoint):
    root = Path(__file__).parents[2]
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(root / ".cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "PYTHONPATH": str(root),
    }
    command = [sys.executable, "-W", "error", __file__, str(tiny_checkpoint)]
    ran = subprocess.run(command, cwd=root, env=env, capture_output=True, timeout=1200)
    assert ran.returncode == 0, ran.stderr.decode()[-4000:]


# The program


def toy_model():
    cfg = DiTConfig(
        hidden_size=64, depth=2, num_heads=2, caption_channels=32, adaln_tembed_dim=32, frequency_embedding_size=32
    )
    model = LongCatVideo(cfg)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((8, 2, 8, 8, 16), dtype=np.float32)
    inputs = (
        latents,
        np.full((8, 2), 300, np.float32),
        rng.standard_normal((8, 6, 32), dtype=np.float32),
        np.ones((8, 6), bool),
    )
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *(x[:1] for x in inputs)))["params"]
    params = jax.tree.map(lambda leaf: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes)
    return model, params, inputs


def forward_loss(model, params, *inputs):
    velocity = model.apply({"params": params}, *inputs)
    return jnp.mean(velocity**2), velocity


def assert_close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def check_forward_and_gradients():
    """A sharded state gives what the unsharded one gives, and lies as its table says."""
    model, params, inputs = toy_model()
    step = jax.value_and_grad(functools.partial(forward_loss, model), has_aux=True)
    (_, wanted), wanted_grads = jax.jit(step)(params, *inputs)
    mesh = make_mesh(data=2, fsdp=4)
    for rules, parameters_cut in ((zero_2(), False), (full_sharding(), True)):
        of_params = shardings(params, mesh, rules, under="params")
        of_grads = shardings(params, mesh, rules, under="grads")
        placed = jax.device_put(params, of_params)
        batch = batch_sharding(mesh, 8)
        with jax.set_mesh(mesh):
            jitted = jax.jit(step, out_shardings=((None, batch), of_grads))
            (_, got), grads = jitted(placed, *jax.device_put(inputs, batch))
        assert_close(got, wanted)
        jax.tree.map(assert_close, grads, wanted_grads)
        assert jax.tree.all(
            jax.tree.map(lambda leaf, to: leaf.sharding.is_equivalent_to(to, leaf.ndim), grads, of_grads)
        )
        qkv = placed["blocks"]["attn"]["qkv"]["kernel"].addressable_shards[0].data
        assert qkv.shape == ((2, 16, 192) if parameters_cut else (2, 64, 192))
        assert grads["blocks"]["attn"]["qkv"]["kernel"].addressable_shards[0].data.shape == (2, 16, 192)
        for tree, to in ((placed, of_params), (grads, of_grads)):
            held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
            assert held == bytes_per_device(params, to)


def check_layers_are_gathered_one_by_one():
    """With gather_kernel a scan fetches a layer at a time, and activations stay where their samples are."""
    mesh = make_mesh(fsdp=8)
    depth, batch, tokens, width = 5, 8, 2, 64  # activations are small, and stay nevertheless
    kernels = np.random.default_rng(0).standard_normal((depth, width, width)).astype(np.float32) / width**0.5
    x_BSD = np.random.default_rng(1).standard_normal((batch, tokens, width)).astype(np.float32)

    def loss(kernels, x_BSD, gather):
        def layer(x_BSD, kernel):
            return jnp.tanh(x_BSD @ gather(kernel)), None

        return jnp.sum(jax.lax.scan(layer, x_BSD, kernels)[0] ** 2)

    wanted = jax.jit(jax.grad(lambda k, x: loss(k, x, lambda kernel: kernel)))(kernels, x_BSD)
    cut = NamedSharding(mesh, Cut(("fsdp",), 1).spec(kernels.shape, mesh))
    placed = jax.device_put(kernels, cut), jax.device_put(x_BSD, batch_sharding(mesh, batch))
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(lambda k, x: loss(k, x, gather_kernel)), out_shardings=cut)
        text = step.lower(*placed).compile().as_text()
        assert_close(step(*placed), wanted)
        whole = jax.device_put(kernels[0], NamedSharding(mesh, P()))
        gradient = jax.jit(jax.grad(lambda k, x: jnp.sum((x @ gather_kernel(k)) ** 2)))(whole, placed[1])
        assert gradient.sharding.is_equivalent_to(NamedSharding(mesh, P("fsdp")), 2), gradient.sharding
        # What is the same on all devices, such as a timestep's embedding, would be multiplied in parts and summed up.
        kernel, x_BSD = (
            jax.device_put(kernels[0], NamedSharding(mesh, P("fsdp"))),
            jax.device_put(x_BSD, NamedSharding(mesh, P())),
        )
        product = jax.jit(lambda k, x: x @ gather_kernel(k)).lower(kernel, x_BSD).compile().as_text()
        assert "all-gather" in product
        assert "all-reduce" not in product
    gathered = {shape.removeprefix("1,") for shape in re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", text)}
    assert gathered == {f"{width},{width}"}, gathered


def check_activations_are_constrained():
    mesh = make_mesh(data=2, fsdp=2, seq=2)
    with jax.set_mesh(mesh):
        for shape, spec in (
            ((8, 4, 3), P(("data", "fsdp"), "seq")),
            ((2, 4, 3), P("data", "seq")),
            ((1, 4, 3), P(None, "seq")),
        ):
            got = jax.jit(constrain_tokens)(jnp.zeros(shape))
            assert got.sharding.is_equivalent_to(NamedSharding(mesh, spec), 3), (shape, got.sharding)
        # Tokens that do not divide are padded by the partitioner.
        odd = jnp.arange(2 * 5 * 3.0).reshape(2, 5, 3)
        assert_close(jax.jit(lambda x: constrain_tokens(x) + 1)(odd), odd + 1)
        # What is split by hand already is left alone.
        by_hand = jax.shard_map(constrain_tokens, in_specs=P("data", "seq"), out_specs=P("data", "seq"))
        assert_close(jax.jit(by_hand)(odd[:, :4]), odd[:, :4])


def check_meshes():
    mesh = make_mesh(data=2, seq=-1)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "seq": 4}
    assert [device.id for device in mesh.devices.flat] == sorted(device.id for device in jax.devices())
    assert mesh.devices[0, 0].tolist() == jax.devices()[:4]  # neighbours share a sample


def check_loading(folder):
    """A checkpoint loads onto a table's shardings: no device gets more than its part, nothing is read twice."""
    from lcv_jax.checkpoint import reading, store

    read = 0

    class Counted(reading._Loading):
        def __init__(self, *args):
            nonlocal read
            super().__init__(*args)
            read += self.num_bytes

    reading._Loading = Counted
    mesh = make_mesh(data=2, fsdp=4)
    for name, rules in (("dit", full_sharding()), ("dit", zero_2()), ("text_encoder", full_sharding())):
        read = 0
        _, params = store.load_component(folder, name, sharding=loading_rule(mesh, rules))
        wanted = shardings(params, mesh, rules, under="params")
        assert jax.tree.all(jax.tree.map(lambda leaf, to: leaf.sharding == to, params, wanted))
        assert read == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        _, whole = store.load_component(folder, name)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), params, whole)


if __name__ == "__main__":
    check_meshes()
    check_activations_are_constrained()
    check_layers_are_gathered_one_by_one()
    check_forward_and_gradients()
    check_loading(sys.argv[1])
