"""cuDNN's dense attention: what is lowered for a GPU, what is refused, and, where there is such a GPU, its numbers."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.kernels import cudnn, platform, reference
from lcv_jax.kernels.attention import attention
from lcv_jax.kernels.platform import compiling_for


def no_gpu() -> bool:
    try:
        return "cuda" not in jax.local_devices(backend="gpu")[0].client.platform_version
    except RuntimeError:
        return True


def arrays(queries, keys, dtype=jnp.bfloat16, width=128, heads=4, batch=2):
    q = jax.ShapeDtypeStruct((batch, queries, heads, width), dtype)
    k = jax.ShapeDtypeStruct((batch, keys, heads, width), dtype)
    return q, k, k


def forward_and_backward(q, k, v, d_out):
    out, lse = cudnn.forward(q, k, v)
    return out, lse, cudnn.backward(q, k, v, None, out, lse, d_out)


def why_not(*qkv_mask) -> str | None:
    reasons = []
    jax.eval_shape(lambda *traced: reasons.append(cudnn.why_not(*traced)), *qkv_mask)
    return reasons[0]


def lowered(queries, keys, **kwargs) -> str:
    q, k, v = arrays(queries, keys, **kwargs)
    with compiling_for("gpu"):
        return jax.jit(forward_and_backward).trace(q, k, v, q).lower(lowering_platforms=("cuda",)).as_text()


def custom_calls(text: str) -> dict[str, tuple[list[str], list[str]]]:
    """Operand and result types of every cuDNN call."""
    calls = re.findall(r"@__cudnn\$(\w+)\(.*?\) \{.*\} : \((.*)\) -> \((.*)\)$", text, re.MULTILINE)
    return {name: (re.findall(r"<(.*?)>", given), re.findall(r"<(.*?)>", got)) for name, given, got in calls}


@pytest.mark.parametrize(("queries", "keys"), [(37_440, 37_440), (37_440, 84_480), (1561, 37), (1, 5)])
def test_two_calls_and_nothing_of_queries_by_keys(queries, keys):
    text = lowered(queries, keys)
    q, k = f"2x{queries}x4x128xbf16", f"2x{keys}x4x128xbf16"
    turned_q, turned_k, lse = f"2x4x{queries}x128xbf16", f"2x4x{keys}x128xbf16", f"2x4x{queries}xf32"
    assert custom_calls(text) == {
        "fmhaSoftmax": ([q, k, k], [turned_q, lse, "0xui8"]),
        "fmhaSoftmaxBackward": ([q, k, k, lse, q, q], [turned_q, turned_k, turned_k, "0xui8"]),
    }
    largest = max(math.prod(map(int, re.findall(r"\d+(?=x)", shape))) for shape in re.findall(r"tensor<(.*?)>", text))
    assert largest == 2 * max(queries, keys) * 4 * 128


@pytest.mark.parametrize(("width", "dtype", "name"), [(64, jnp.bfloat16, "BF16"), (256, jnp.float16, "F16")])
def test_scale_and_dtype_reach_both_calls(width, dtype, name):
    text = lowered(5, 7, width=width, dtype=dtype).replace(r"\22", '"')
    assert re.findall(r'"fmha_scale": ([\d.]+)', text) == [str(1 / math.sqrt(width))] * 2
    assert re.findall(r'"element_type": "(\w+)"', text) == [name] * 2
    assert re.findall(r'"mask_type": "(\w+)"', text) == ["NO_MASK"] * 2
    assert re.findall(r'"dropout_rate": ([\d.]+)', text) == ["0.0"] * 2


def test_backward_takes_an_output_and_log_sum_exp_from_elsewhere():
    q, k, v = arrays(6, 9)
    lse = jax.ShapeDtypeStruct((2, 4, 6), jnp.float32)
    with compiling_for("gpu"):
        traced = jax.jit(lambda *a: cudnn.backward(*a[:3], None, *a[3:])).trace(q, k, v, q, lse, q)
    assert [(x.shape, x.dtype) for x in traced.out_info] == [(x.shape, x.dtype) for x in (q, k, v)]
    # cuDNN's order: queries, keys, values, log-sum-exp, gradient of the output, output.
    operands = "%arg0, %arg1, %arg2, %arg4, %arg5, %arg3"
    assert f"fmhaSoftmaxBackward({operands})" in traced.lower(lowering_platforms=("cuda",)).as_text()


REFUSED = [
    (arrays(8, 8, jnp.float32), None, r"bfloat16 or float16, one of them for all, got float32"),
    ((*arrays(8, 8)[:2], arrays(8, 8, jnp.float16)[2]), None, "got bfloat16, float16"),
    (arrays(8, 8, width=20), None, "multiples of 8 up to 256, got 20"),
    (arrays(8, 8, width=264), None, "multiples of 8 up to 256, got 264"),
    (arrays(8, 8), jax.ShapeDtypeStruct((2, 8), jnp.bool_), "additive bias of queries x keys"),
    (arrays(1, 1), None, "one query and one key"),
    (arrays(0, 8), None, "no empty arrays"),
    (arrays(8, 0), None, "no empty arrays"),
]


@pytest.mark.parametrize(("qkv", "key_mask", "reason"), REFUSED)
def test_what_it_cannot_take_has_a_reason(qkv, key_mask, reason):
    with compiling_for("gpu"):
        assert re.search(reason, why_not(*qkv, key_mask))
        with pytest.raises(NotImplementedError, match=f"'cudnn': .*{reason}"):
            jax.eval_shape(cudnn.forward, *qkv, key_mask)
        q, (batch, queries, heads, _) = qkv[0], qkv[0].shape
        lse = jax.ShapeDtypeStruct((batch, heads, queries), jnp.float32)
        with pytest.raises(NotImplementedError, match=f"'cudnn': .*{reason}"):
            jax.eval_shape(cudnn.backward, *qkv, key_mask, q, lse, q)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("width", [8, 128, 256])
def test_what_it_takes_has_none(dtype, width):
    with compiling_for("gpu"):
        assert why_not(*arrays(37_440, 1, dtype, width)) is None


def test_gradient_of_the_log_sum_exp_is_refused():
    q, k, v = arrays(6, 9)
    lse = jax.ShapeDtypeStruct((2, 4, 6), jnp.float32)
    with compiling_for("gpu"), pytest.raises(NotImplementedError, match="no gradient of the log-sum-exp"):
        jax.eval_shape(lambda q, k, v, lse: cudnn.backward(q, k, v, None, q, lse, q, lse), q, k, v, lse)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_other_platforms_are_refused(platform):
    with compiling_for(platform):
        assert why_not(*arrays(8, 8)) == f"it runs on NVIDIA GPUs, this is compiled for {platform}"


class Gpu:
    """What is asked of a device."""

    def __init__(self, platform_version, compute_capability):
        self.client = self
        self.platform_version = platform_version
        self.compute_capability = compute_capability


@pytest.mark.parametrize(
    ("gpu", "width", "reason"),
    [
        (Gpu("cuda 12090", "9.0"), 256, None),
        (Gpu("cuda 12090", "10.0"), 128, None),
        (Gpu("cuda 12090", "8.0"), 256, "up to 128, got 256"),
        (Gpu("cuda 12090", "10.0"), 256, "up to 128, got 256"),
        (Gpu("cuda 12090", "7.5"), 64, "compute capability 8.0"),
        (Gpu("rocm 60000", "gfx942"), 64, "NVIDIA GPUs"),
    ],
)
def test_gpus_here_are_asked_what_they_can(monkeypatch, gpu, width, reason):
    for module in (cudnn, platform):
        monkeypatch.setattr(module, "target_platform", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda backend: [gpu])
    got = why_not(*arrays(8, 8, width=width))
    assert got is None if reason is None else re.search(reason, got)


def definition(q, k, v):
    """Output and natural log-sum-exp of scaled scores in float32."""
    logits = jnp.einsum("bsnk,bmnk->bnsm", q.astype(jnp.float32), k.astype(jnp.float32), precision="highest")
    return reference.attention(q, k, v), jax.nn.logsumexp(logits / math.sqrt(q.shape[-1]), axis=-1)


@pytest.mark.skipif(no_gpu(), reason="cuDNN runs on NVIDIA GPUs only")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("queries", "keys", "width"), [(512, 512, 128), (300, 777, 128), (1, 130, 64), (130, 1, 64)])
def test_errors_are_at_most_twice_those_of_xla(queries, keys, width, dtype):
    keys_of = jax.random.split(jax.random.key(queries + keys), 4)
    shapes = [(2, queries, 3, width), (2, keys, 3, width), (2, keys, 3, width), (2, queries, 3, width)]
    q, k, v, d_out = (jax.random.normal(key, shape, dtype) for key, shape in zip(keys_of, shapes, strict=True))
    exact = [x.astype(jnp.float32) for x in (q, k, v)]
    (want, want_lse), pull = jax.vjp(definition, *exact)
    wanted = (want, *pull((d_out.astype(jnp.float32), jnp.zeros_like(want_lse))))
    plain, pull_plain = jax.vjp(functools.partial(attention, implementation="xla"), q, k, v)

    out, lse, gradients = jax.jit(forward_and_backward)(q, k, v, d_out)

    np.testing.assert_allclose(lse, want_lse, atol=1e-3)
    for name, got, twin, exact_one in zip(
        ("out", "dq", "dk", "dv"), (out, *gradients), (plain, *pull_plain(d_out)), wanted, strict=True
    ):
        # One rounding to the inputs' dtype and the noise of float32 sums on top: where xla happens to be exact (one key
        # has no dq), twice its error is nothing.
        rounding = jnp.finfo(dtype).eps * jnp.max(jnp.abs(exact_one)) + 1e-4
        error, allowed = (jnp.max(jnp.abs(x.astype(jnp.float32) - exact_one)) for x in (got, twin))
        assert error <= 2 * allowed + rounding, name


@pytest.mark.skipif(no_gpu(), reason="cuDNN runs on NVIDIA GPUs only")
def test_deterministic_when_asked_for():
    keys_of = jax.random.split(jax.random.key(0), 4)
    q, k, v, d_out = (jax.random.normal(key, (4, 4096, 8, 128), jnp.bfloat16) for key in keys_of)
    run = jax.jit(forward_and_backward, compiler_options={"xla_gpu_exclude_nondeterministic_ops": True})
    first = jax.tree.map(np.asarray, run(q, k, v, d_out))
    for _ in range(3):
        jax.tree.map(np.testing.assert_array_equal, first, jax.tree.map(np.asarray, run(q, k, v, d_out)))
