"""Context parallelism on eight CPU devices (tests/conftest.py) against one: the same numbers, forward and backward."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lcv_jax.kernels.attention import attention, ordered_block_sparse_attention
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.norm_rope import norm_rope
from lcv_jax.parallel.context import ContextParallel
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.parallel.ring import merge, part_of_lists
from lcv_jax.parallel.ulysses import ulysses

BATCH, HEADS, WIDTH = 2, 16, 8
BLOCKS = {"block_q": 8, "block_k": 16}

WAYS = {
    "ulysses": ContextParallel(),
    "ring": ContextParallel(strategy="ring"),
    "2D": ContextParallel(strategy="ulysses_ring", ring_size=2),
}
# 173 tokens, 22 query blocks and 11 key blocks do not divide by 8 devices, nor does a condition of 3 key blocks.
KINDS = {"dense": (173, {}), "sparse": (176, {**BLOCKS, "sparsity": 0.7})}
NUM_CONDITION = 48


def random(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


def tokens(num_queries, num_keys, batch=BATCH, heads=HEADS, dtype=jnp.float32):
    """q, k, v and the output's gradient."""
    lengths = (num_queries, num_keys, num_keys, num_queries)
    return [random(seed, batch, length, heads, WIDTH, dtype=dtype) for seed, length in enumerate(lengths)]


def attend_by(way, **settings):
    """Dense or sparse, by a ContextParallel or, where it is None, on one device."""
    if "block_q" in settings:
        door = ordered_block_sparse_attention if way is None else way.ordered_block_sparse_attention
    else:
        door = attention if way is None else way.attention
    return functools.partial(door, **settings)


def conditioned(attend, q, k, v):
    """Condition tokens attend to themselves, the others to all."""
    c = NUM_CONDITION
    condition, noisy = attend(q[:, :c], k[:, :c], v[:, :c]), attend(q[:, c:], k, v)
    return jnp.concatenate([condition, noisy], axis=1)


def results(attend, given, mesh=None):
    """Output and the gradients of q, k, v; over a mesh where there is one."""

    @jax.jit
    def program(q, k, v, d_out):
        out, pull_back = jax.vjp(attend, q, k, v)
        return out, *pull_back(d_out)

    if mesh is None:
        found = program(*given)
    else:
        with jax.set_mesh(mesh):
            found = program(*given)
    return dict(zip(("out", "dq", "dk", "dv"), map(np.asarray, found), strict=True))


def assert_same(got, want, atol=3e-6):
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=atol, err_msg=name)


@functools.cache
def table_results(kind, way, condition):
    length, settings = KINDS[kind]
    attend = attend_by(WAYS.get(way), **settings)
    if condition:
        attend = functools.partial(conditioned, attend)
    return results(attend, tokens(length, length), mesh=None if way == "one device" else make_mesh(seq=8))


@pytest.mark.parametrize("condition", [False, True], ids=["plain", "condition"])
@pytest.mark.parametrize("names", [("out",), ("dq", "dk", "dv")], ids=["forward", "gradient"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_eight_devices_are_one(kind, way, names, condition):
    got, want = table_results(kind, way, condition), table_results(kind, "one device", condition)
    assert_same({name: got[name] for name in names}, {name: want[name] for name in names})


@pytest.mark.parametrize(
    ("way", "settings"),
    [
        ("ring", {"key_mask_BM": np.random.default_rng(7).random((BATCH, 109)) < 0.5}),
        ("2D", {"key_mask_BM": np.random.default_rng(7).random((BATCH, 109)) < 0.5}),
        ("ulysses", {"key_mask_BM": np.random.default_rng(7).random((BATCH, 109)) < 0.5}),
        ("ring", {**BLOCKS, "cdf_threshold": 0.5}),
        ("2D", {**BLOCKS, "block_mask": np.random.default_rng(7).random((HEADS, 5, 11)) < 0.4}),
        ("ulysses", {**BLOCKS, "block_mask": np.random.default_rng(7).random((HEADS, 5, 11)) < 0.4}),
    ],
)
def test_masks_and_other_selections_with_fewer_queries_than_keys(way, settings):
    given = tokens(40, 176 if "block_q" in settings else 109)
    want = results(attend_by(None, **settings), given)
    assert_same(results(attend_by(WAYS[way], **settings), given, make_mesh(seq=8)), want)


@pytest.mark.parametrize("batch", [4, 3])
def test_the_batch_is_split_where_it_divides(batch):
    given = tokens(64, 64, batch=batch, heads=4)
    way = ContextParallel(strategy="ring")
    mesh = make_mesh(data=2, fsdp=2, seq=2)
    assert_same(results(attend_by(way), given, mesh), results(attend_by(None), given))


def test_devices_and_queries_with_nothing_selected():
    # 8 key blocks, one a device: nobody wants block 3, whose NaN must stay there; query block 5 wants nothing.
    mask = np.random.default_rng(0).random((8, 8)) < 0.3
    mask[:, 3] = mask[5] = False
    mask[6] = np.arange(8) == 7
    q, k, v, d_out = tokens(64, 128, heads=2)
    settings = {**BLOCKS, "block_mask": mask}
    here = slice(3 * 16, 4 * 16)
    given = q, k.at[:, here].set(jnp.nan), v.at[:, here].set(jnp.nan), d_out
    got = results(attend_by(WAYS["ring"], **settings), given, make_mesh(seq=8))
    assert_same(got, results(attend_by(None, **settings), (q, k, v, d_out)))
    assert not got["out"][:, 40:48].any()
    assert not got["dq"][:, 40:48].any()
    assert not got["dk"][:, here].any()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_at_most_twice_as_far_off_as_on_one_device(kind):
    length, settings = KINDS[kind]
    if kind == "sparse":
        settings = {**BLOCKS, "block_mask": np.random.default_rng(1).random((22, 11)) < 0.4}
    rounded = tokens(length, length, heads=2, dtype=jnp.bfloat16)
    exact = results(attend_by(None, **settings), [x.astype(jnp.float32) for x in rounded])
    one = results(attend_by(None, **settings), rounded)
    ring = results(attend_by(WAYS["ring"], **settings), rounded, make_mesh(seq=8))
    for name, want in exact.items():
        one_off, ring_off = (np.sqrt(np.mean((x[name].astype(np.float32) - want) ** 2)) for x in (one, ring))
        assert 0 < ring_off <= 2 * one_off, (name, ring_off, one_off)


@pytest.mark.parametrize("settings", [{}, {**BLOCKS, "sparsity": 0.5}], ids=["dense", "sparse"])
def test_our_kernels_go_round_the_ring(settings):
    given = tokens(48, 64, batch=1, heads=1)
    attend = attend_by(ContextParallel(strategy="ring"), **settings, implementation="pallas_interpret")
    mesh = make_mesh(seq=2, devices=jax.devices()[:2])
    assert_same(results(attend, given, mesh), results(attend_by(None, **settings), given))


def test_cross_attention_sends_nothing():
    q, k, v, _ = tokens(52, 7)
    mask = np.arange(7) < np.array([[3], [7]])
    attend = functools.partial(ContextParallel().cross_attention, key_mask_BM=jnp.asarray(mask))
    with jax.set_mesh(make_mesh(seq=8)):
        split = jax.device_put(
            jnp.pad(q, ((0, 0), (0, 4), (0, 0), (0, 0))), jax.NamedSharding(make_mesh(seq=8), P(None, "seq"))
        )
        compiled = jax.jit(attend).trace(split, k, v).lower().compile()
        text, out = compiled.as_text(), jax.jit(attend)(q, k, v)
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce"))
    np.testing.assert_allclose(out, attention(q, k, v, key_mask_BM=jnp.asarray(mask)), atol=1e-6)


def sent_bytes(way, num_devices, backward=False, **settings):
    """What a device sends in all, by primitive, of 64 tokens' attention over so many devices; nothing is compiled."""
    found: dict[str, int] = {}

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("ppermute", "all_to_all", "all_gather"):
                num_bytes = sum(math.prod(x.aval.shape) * x.aval.dtype.itemsize for x in equation.invars)
                found[equation.primitive.name] = found.get(equation.primitive.name, 0) + num_bytes
            for sub in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                if hasattr(sub, "eqns") or hasattr(sub, "jaxpr"):
                    walk(getattr(sub, "jaxpr", sub))

    def program(q, k, v, d_out):
        out, pull_back = jax.vjp(attend_by(way, **settings), q, k, v)
        return pull_back(d_out) if backward else out

    with jax.set_mesh(make_mesh(seq=num_devices, devices=jax.devices()[:num_devices])):
        walk(jax.make_jaxpr(program)(*tokens(128, 128, dtype=jnp.bfloat16)).jaxpr)
    return found


@pytest.mark.parametrize("num_devices", [2, 4, 8])
def test_a_ring_sends_keys_and_values_and_no_more(num_devices):
    keys_and_values = 2 * BATCH * 128 * HEADS * WIDTH * 2
    share = keys_and_values * (num_devices - 1) // num_devices
    assert sent_bytes(WAYS["ring"], num_devices) == {"ppermute": share}
    # Backward the same again, and their float32 gradients, which also come home.
    assert sent_bytes(WAYS["ring"], num_devices, backward=True) == {"ppermute": 2 * share + 2 * keys_and_values}


def test_a_sparse_ring_gathers_pooled_keys_only():
    sent = sent_bytes(WAYS["ring"], 8, **BLOCKS, sparsity=0.5)
    assert sent == sent_bytes(WAYS["ring"], 8) | {"all_gather": BATCH * HEADS * WIDTH * 4}


@pytest.mark.parametrize("pieces", [None, 1])
def test_ulysses_wraps_any_attention(pieces):
    def attend(q, k, v):
        """What depends on a token's place and on other tokens, and is not what attention would give."""
        return q * jnp.arange(q.shape[1], dtype=q.dtype)[:, None, None] + k[:, -1:] * v[:, :1]

    q, k, v, _ = tokens(32, 64, heads=32)
    wrapped = ulysses(attend, "seq", pieces=pieces)
    with jax.set_mesh(make_mesh(seq=8)):
        out = jax.shard_map(wrapped, in_specs=P(None, "seq"), out_specs=P(None, "seq"), check_vma=False)(q, k, v)
    np.testing.assert_allclose(out, attend(q, k, v), rtol=1e-6, atol=1e-6)


def test_parts_of_lists():
    lists = Selection(jnp.asarray([[[[0, 2, 3, 7], [5, 6, 0, 0], [0, 0, 0, 0]]]]), jnp.asarray([[[4, 2, 0]]]))
    parts = [part_of_lists(lists, jnp.int32(first), 4) for first in (0, 4)]
    np.testing.assert_array_equal(parts[0].counts_BNI, [[[3, 0, 0]]])
    np.testing.assert_array_equal(parts[0].indices_BNIR, [[[[0, 2, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]])
    np.testing.assert_array_equal(parts[1].counts_BNI, [[[1, 2, 0]]])
    np.testing.assert_array_equal(parts[1].indices_BNIR, [[[[3, 0, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0]]]])


def test_merging_with_nothing_changes_nothing():
    some = random(0, 1, 3, 1, 4), jnp.asarray([[[0.5, -jnp.inf, 1e4]]])
    nothing = jnp.zeros((1, 3, 1, 4)), jnp.full((1, 1, 3), -jnp.inf)
    for out, lse in (merge(some, nothing), merge(nothing, some)):
        np.testing.assert_array_equal(lse, some[1])
        np.testing.assert_array_equal(out[:, [0, 2]], some[0][:, [0, 2]])
        np.testing.assert_array_equal(out[:, 1], 0)


@pytest.mark.parametrize("mesh_devices", [0, 1])
def test_without_a_mesh_it_is_plain_attention(mesh_devices):
    q, k, v, _ = tokens(16, 32)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1]) if mesh_devices else jax.sharding.get_mesh()):
        for way in WAYS.values():
            for settings in ({}, {**BLOCKS, "sparsity": 0.5}):
                split, plain = (str(jax.make_jaxpr(attend_by(by, **settings))(q, k, v)) for by in (way, None))
                assert split == plain


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strategy": "rings"}, "context parallelism 'rings': have ulysses, ring, ulysses_ring"),
        ({"strategy": "ulysses_ring"}, "'ulysses_ring' needs a ring_size, got ring_size=None"),
        ({"strategy": "ring", "ring_size": 2}, "'ring' takes no ring_size, ulysses_ring does, got ring_size=2"),
        ({"strategy": "ulysses_ring", "ring_size": 0}, "ring_size must be at least 1, got 0"),
    ],
)
def test_a_strategy_that_makes_no_sense_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        ContextParallel(**given)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (ContextParallel(), "6 heads do not divide by 8 devices; split them over 6, and let a ring take the rest"),
        (ContextParallel(strategy="ulysses_ring", ring_size=3), "rings of 3 do not divide 8 devices.*take 1, 2, 4, 8"),
        (ContextParallel(axis="context"), "'context': the mesh has data=1, fsdp=1, seq=8; add the axis 'context'"),
    ],
)
def test_a_mesh_that_does_not_suit_is_refused(way, said):
    q, k, v, _ = tokens(16, 16, heads=6)
    with jax.set_mesh(make_mesh(seq=8)), pytest.raises(ValueError, match=said):
        way.attention(q, k, v)


def test_wrong_blocks_and_selections_are_refused_as_on_one_device():
    q, k, v, _ = tokens(40, 48)
    for settings, said in (
        ({**BLOCKS}, "give either block_mask, or sparsity"),
        ({"block_q": 16, "block_k": 16, "sparsity": 0.5}, "40 queries are no multiple of a block of 16"),
        ({**BLOCKS, "block_mask": np.ones((5, 4), bool)}, "must broadcast to videos, heads, query and key blocks"),
    ):
        with jax.set_mesh(make_mesh(seq=8)), pytest.raises(ValueError, match=said):
            attend_by(WAYS["ring"], **settings)(q, k, v)


@pytest.mark.parametrize("num_tokens", [64, 60])
def test_norm_and_rope_over_devices(num_tokens):
    """60 tokens do not divide by 8 devices: the formulas take them."""
    x, angle_SH = random(0, BATCH, num_tokens, 2, 16), random(1, num_tokens, 8)
    given = x, 1 + random(2, 16), jnp.cos(angle_SH), jnp.sin(angle_SH)
    how = {"epsilon": 1e-6, "block": 4}
    want, want_means = norm_rope(*given, implementation="xla", **how)
    turn = jax.jit(functools.partial(ContextParallel().norm_rope, implementation="pallas_interpret", **how))
    with jax.set_mesh(make_mesh(seq=8)):
        got, means = turn(*given)
    assert means is None
    np.testing.assert_allclose(got, want, atol=2e-6)
    alone, alone_means = ContextParallel().norm_rope(*given, implementation="pallas_interpret", **how)
    np.testing.assert_allclose(alone, want, atol=2e-6)
    np.testing.assert_allclose(alone_means, want_means, atol=2e-6)
