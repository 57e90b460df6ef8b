"""The program of eight H200s, compiled without one: what attention sends is hidden behind attention's kernels.

Needs XLA's compiler for GPUs, which is not among the packages of the other tests: `make test-compile`.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lcv_jax.config import DiTConfig
from lcv_jax.gpus import described_devices
from lcv_jax.kernels.platform import compiling_for
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.parallel.context import ContextParallel
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.parallel.sharding import batch_sharding, full_sharding, shardings
from lcv_jax.planning.hlo import collectives as read_collectives

NUM_DEVICES, NUM_TOKENS, HEADS, WIDTH = 8, 84_480, 32, 128
"""720p, 93 frames."""
KEYS_AND_VALUES = 2 * NUM_TOKENS // NUM_DEVICES * HEADS * WIDTH * 2
KERNEL = '"__gpu$xla.gpu.triton"'


@pytest.fixture(scope="module")
def mesh():
    try:
        devices = described_devices("h200", NUM_DEVICES)
    except OSError as error:
        pytest.skip(str(error))
    # A program for a machine that is not here can be written to the cache, but not read.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield make_mesh(seq=NUM_DEVICES, devices=devices)
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


def compiled(mesh, way, *, backward, sparse=False):
    """The scheduled instructions of a device, in order."""
    settings = {"implementation": "pallas_triton"}
    door = way.attention
    if sparse:
        door = way.ordered_block_sparse_attention
        settings |= {"block_q": 64, "block_k": 64, "sparsity": 0.9375}

    def program(q, k, v, d_out):
        out, pull_back = jax.vjp(functools.partial(door, **settings), q, k, v)
        return (out, *pull_back(d_out)) if backward else out

    shape = (1, NUM_TOKENS, HEADS, WIDTH)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P(None, "seq")))
    with compiling_for("gpu"), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        text = jax.jit(program).trace(x, x, x, x).lower().compile().as_text()
    assert "is_scheduled=true" in text.splitlines()[0]
    return text.split("\nENTRY ", 1)[1].splitlines()[1:]


def collectives(instructions, kind):
    """Of every collective, in order, what it sends in bytes, and how many attention kernels run meanwhile."""
    assert not [line for line in instructions if re.search(rf" {kind}\(", line)], "not asynchronous"
    found = []
    for place, line in enumerate(instructions):
        if match := re.search(rf"%?({kind}-start[.\d]*) = (.*?) {kind}-start\(", line):
            ends = re.compile(rf"{kind}-done\(%?{re.escape(match[1])}\)")
            done = next(at for at, other in enumerate(instructions) if ends.search(other))
            kernels = sum(KERNEL in other for other in instructions[place:done])
            # XLA's own word, where there is nothing between start and done.
            assert ('"is_sync":true' in line) == (done == place + 1)
            dtype, dims = re.search(r"(bf16|f32)\[([\d,]+)\]", match[2]).groups()
            size = math.prod(map(int, dims.split(","))) * {"bf16": 2, "f32": 4}[dtype]
            found.append((size, kernels))
    return found


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_every_hop_of_a_ring_is_hidden(mesh, sparse):
    hops = collectives(
        compiled(mesh, ContextParallel(strategy="ring"), backward=False, sparse=sparse), "collective-permute"
    )
    assert [size for size, _ in hops] == [KEYS_AND_VALUES] * (NUM_DEVICES - 1)
    assert all(kernels for _, kernels in hops)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_backward_every_hop_but_the_last_is_hidden(mesh, sparse):
    hops = collectives(
        compiled(mesh, ContextParallel(strategy="ring"), backward=True, sparse=sparse), "collective-permute"
    )
    gradients = [size for size, _ in hops if size == 2 * KEYS_AND_VALUES]
    assert len(gradients) == NUM_DEVICES
    # The backward pass takes its first keys from the forward pass where, as here, both are in one program.
    assert len(hops) - len(gradients) in (2 * NUM_DEVICES - 3, 2 * NUM_DEVICES - 2)
    assert all(kernels for _, kernels in hops[:-1])


def test_half_of_what_ulysses_sends_is_hidden(mesh):
    sent = collectives(compiled(mesh, ContextParallel(), backward=False), "all-to-all")
    q_k_v, out = 3 * KEYS_AND_VALUES // 2, KEYS_AND_VALUES // 2
    assert [size for size, _ in sent] == [q_k_v // 2, q_k_v // 2, out // 2, out // 2]
    assert [kernels for _, kernels in sent] == [0, 1, 1, 0]


@pytest.mark.parametrize(("dtype", "width"), [(jnp.bfloat16, 2), (jnp.float32, 4)])
def test_kernels_travel_in_the_type_that_they_are_multiplied_in(mesh, dtype, width):
    """The compiler casts float32 parameters before it gathers them, and sums gradients up in that type too."""
    cfg = DiTConfig(hidden_size=256, depth=3, num_heads=2, caption_channels=64, adaln_tembed_dim=64)
    model, split = LongCatVideo(cfg, dtype=dtype), make_mesh(fsdp=NUM_DEVICES, devices=list(mesh.devices.flat))
    shapes = (8, 2, 16, 16, 16), (8, 2), (8, 32, 64)
    batch = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=batch_sharding(split, 8)) for shape in shapes]
    batch.append(jax.ShapeDtypeStruct((8, 32), bool, sharding=batch_sharding(split, 8)))
    params = jax.eval_shape(model.init, jax.random.key(0), *batch)["params"]
    to = shardings(params, split, full_sharding(), under="params")
    params = jax.tree.map(lambda x, to: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=to), params, to)

    def loss(params, *batch):
        return jnp.mean(model.apply({"params": params}, *batch) ** 2)

    with compiling_for("gpu"), jax.set_mesh(split):
        text = jax.jit(jax.grad(loss), out_shardings=to).lower(params, *batch).compile().as_text()
    found = collective_sums(text)
    layers = [x for name in ("attn", "cross_attn", "ffn") for x in jax.tree.leaves(params["blocks"][name])]
    kernels = sum(math.prod(x.shape) for x in layers if x.ndim == 3)
    # Forwards and, recomputed, backwards. The rest is of float32: modulation, and what is at the ends.
    assert found["all-gather"] == pytest.approx(2 * width * kernels * 7 / 8, rel=0.3)
    assert found["reduce-scatter"] == pytest.approx(width * kernels * 7 / 8, rel=0.3)


def collective_sums(text):
    sums = {}
    for one in read_collectives(text):
        sums[one.kind] = sums.get(one.kind, 0) + one.sent_bytes
    return sums
