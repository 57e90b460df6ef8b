"""The kernel in Triton's own language: its numbers in Triton's interpreter, its code from Triton's compiler.

Neither needs a GPU. `make test-compile` runs this file where Triton and jax-triton are installed; without Triton it is
skipped, all but the error of a missing package.
"""

import functools
import importlib.util
import math
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.kernels import jax_triton_forward, reference
from lcv_jax.kernels.block_select import Selection

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
needs_jax_triton = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jax_triton", "jax_cuda12_plugin")),
    reason="jax-triton or JAX's CUDA plugin is not installed",
)


TRITON_TYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int32": "i32"}


class HostArray:
    """What Triton's interpreter asks of a tensor, of a numpy array."""

    def __init__(self, array):
        self.array, self.dtype = array, TRITON_TYPES[array.dtype.name]

    def data_ptr(self):
        return self.array.ctypes.data


def interpreted_call(*arrays, kernel, grid, compute_capability, name, num_warps, num_stages, out_shape, **constants):
    """`jax_triton.triton_call` in Triton's interpreter: one program after another, on numpy arrays."""
    from triton.runtime.interpreter import GridExecutor, InterpretedFunction

    class InPlace(GridExecutor):
        """Without the copies to and from a device, which are PyTorch's."""

        def _init_args_hst(self, args_dev, kwargs):
            return args_dev, kwargs

        def _restore_args_dev(self, args_dev, args_hst, kwargs, kwargs_hst):
            pass

    # An output that nobody writes is NaN, not zero by chance.
    outputs = [np.full(x.shape, np.nan, x.dtype) for x in out_shape]
    interpreted = InterpretedFunction(kernel.fn)
    executor = InPlace(interpreted.rewrite(), interpreted.arg_names, grid)
    with np.errstate(invalid="ignore"):
        executor(*(HostArray(np.ascontiguousarray(x)) for x in arrays), *map(HostArray, outputs), **constants)
    return tuple(jnp.asarray(x) for x in outputs)


@pytest.fixture
def interpreted(monkeypatch):
    """The door, with the kernel run by Triton's interpreter."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    # Triton compiled these when it was imported: their meaning, in functions that the interpreter puts its own for.
    monkeypatch.setattr(tl, "max", lambda x, axis: tl.reduce(x, axis, tl.standard._elementwise_max))
    monkeypatch.setattr(tl, "sum", lambda x, axis: tl.reduce(x, axis, tl.standard._sum_combine))
    multiply = InterpreterBuilder.create_dot

    def float32_of(x):
        """Exactly; to the interpreter bfloat16 are 16 bits that it cannot multiply."""
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self, a, b, *others):
        return multiply(self, float32_of(a), float32_of(b), *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setitem(sys.modules, "jax_triton", types.SimpleNamespace(triton_call=interpreted_call))
    return jax_triton_forward.forward


def shuffled_lists(mask_BNIJ, seed=0):
    """Key blocks in any order, filler after the count that must not be read."""
    generator = np.random.default_rng(seed)
    counts = mask_BNIJ.sum(axis=-1).astype(np.int32)
    indices = np.full((*counts.shape, max(1, counts.max())), 2**30, np.int32)
    for row in np.ndindex(counts.shape):
        indices[row][: counts[row]] = generator.permutation(np.flatnonzero(mask_BNIJ[row]))
    return Selection(jnp.asarray(indices), jnp.asarray(counts))


def case(num_queries, num_keys, block_q, block_k, width, dtype, seed=0, batch=2, heads=2):
    generator = np.random.default_rng(seed)

    def tokens(count):
        return jnp.asarray(generator.standard_normal((batch, count, heads, width), np.float32), dtype)

    mask = generator.random((batch, heads, num_queries, num_keys)) < 0.5
    mask[0, 0, 0] = True
    mask[-1, -1, -1] = False
    return [tokens(num_queries * block_q), tokens(num_keys * block_k), tokens(num_keys * block_k)], mask


def defined_lse(q, k, mask_BNIJ, block_q, block_k):
    mask = np.repeat(np.repeat(mask_BNIJ, block_q, axis=2), block_k, axis=3)
    q, k = (np.asarray(x, np.float64) for x in (q, k))
    with np.errstate(divide="ignore"):
        logits = np.where(mask, np.einsum("bsnk,bmnk->bnsm", q, k) / math.sqrt(q.shape[-1]), -np.inf)
        return np.logaddexp.reduce(logits, axis=-1)


SETTINGS = [
    # query blocks, key blocks, their tokens, width.
    (3, 4, 16, 16, 32),
    (2, 3, 64, 64, 128),
    # More than one tile to a block, with and without a tail.
    (2, 3, 128, 64, 32),
    (2, 2, 64, 128, 32),
    (2, 3, 96, 160, 96),
    (3, 5, 24, 40, 48),
    (2, 2, 75, 60, 80),
    (1, 2, 16, 16, 256),
]


@needs_triton
@pytest.mark.parametrize(("num_queries", "num_keys", "block_q", "block_k", "width"), SETTINGS)
def test_kernel_is_the_definition(interpreted, num_queries, num_keys, block_q, block_k, width):
    arrays, mask = case(num_queries, num_keys, block_q, block_k, width, jnp.float32)
    out, lse = interpreted(*arrays, shuffled_lists(mask), block_q, block_k)
    np.testing.assert_allclose(out, reference.block_sparse_attention(*arrays, jnp.asarray(mask)), atol=2e-6)
    np.testing.assert_allclose(lse, defined_lse(*arrays[:2], mask, block_q, block_k), atol=2e-6)
    empty = ~np.repeat(mask.any(axis=-1), block_q, axis=-1)
    assert empty.any()
    assert not np.swapaxes(out, 1, 2)[empty].any()
    assert np.isneginf(lse[empty]).all()


@needs_triton
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_errs_at_most_twice_as_much_as_plain_code(interpreted, dtype):
    """The tiles of half precision are larger: 64 x 64 with tails on both sides."""
    block_q, block_k, width = 80, 72, 48
    arrays, mask = case(2, 3, block_q, block_k, width, dtype)
    out, lse = interpreted(*arrays, shuffled_lists(mask), block_q, block_k)
    want = reference.block_sparse_attention(*arrays, jnp.asarray(mask))
    q, k, v = arrays
    token_mask = np.repeat(np.repeat(mask, block_q, axis=2), block_k, axis=3)
    logits = jnp.einsum("bsnk,bmnk->bnsm", q, k, preferred_element_type=jnp.float32) / math.sqrt(width)
    weights = jax.nn.softmax(logits, where=token_mask).astype(dtype)
    plain = jnp.where(token_mask.any(-1)[..., None].swapaxes(1, 2), jnp.einsum("bnsm,bmnk->bsnk", weights, v), 0)
    error, allowed = (np.abs(np.asarray(x, np.float32) - want).max() for x in (out, plain))
    assert out.dtype == dtype
    assert error <= 2 * allowed, (error, allowed)
    np.testing.assert_allclose(lse, defined_lse(q, k, mask, block_q, block_k), atol=1e-5)


@needs_triton
def test_nothing_leaks_from_unselected_blocks_and_large_scores_stay_finite(interpreted):
    (q, k, v), mask = case(2, 3, 16, 16, 32, jnp.float32)
    mask[..., 1] = False
    q, k = q * 100, k * 100
    want = reference.block_sparse_attention(q, k, v, jnp.asarray(mask))
    k, v = k.at[:, 16:32].set(jnp.nan), v.at[:, 16:32].set(jnp.nan)
    out, lse = interpreted(q, k, v, shuffled_lists(mask), 16, 16)
    np.testing.assert_allclose(out, want, atol=1e-4)
    assert not np.isnan(lse).any()


TOKENS, HEADS = 168_960, 32


def shapes(block_q, width, dtype):
    x = jax.ShapeDtypeStruct((1, TOKENS, HEADS, width), jnp.dtype(dtype))
    counts = jax.ShapeDtypeStruct((1, HEADS, TOKENS // block_q), jnp.int32)
    return x, x, x, Selection(jax.ShapeDtypeStruct((*counts.shape, 165), jnp.int32), counts)


def for_hopper(block_q, block_k):
    return functools.partial(jax_triton_forward.forward, block_q=block_q, block_k=block_k, compute_capability=90)


@pytest.fixture
def compile_for_hopper(monkeypatch, tmp_path):
    """compile_for_hopper(block_q, block_k, width, dtype) -> what Triton makes of the door's call."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    made = []

    def compiling_call(*arrays, kernel, grid, compute_capability, name, num_warps, num_stages, out_shape, **constants):
        pointers = [f"*{TRITON_TYPES[x.dtype.name]}" for x in (*arrays, *out_shape)]
        signature = dict.fromkeys(kernel.arg_names, "constexpr")
        signature |= dict(zip(kernel.arg_names, pointers, strict=False))
        aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(pointers))}
        made.append(
            triton.compile(
                ASTSource(kernel, signature, constants, aligned),
                target=GPUTarget("cuda", compute_capability, 32),
                options={"num_warps": num_warps, "num_stages": num_stages},
            )
        )
        return tuple(jnp.zeros(x.shape, x.dtype) for x in out_shape)

    monkeypatch.setitem(sys.modules, "jax_triton", types.SimpleNamespace(triton_call=compiling_call))

    def compile_for(block_q, block_k, width, dtype):
        jax.eval_shape(for_hopper(block_q, block_k), *shapes(block_q, width, dtype))
        return made.pop()

    return compile_for


@needs_triton
@pytest.mark.parametrize(
    ("block_q", "block_k", "width", "dtype", "most_registers", "most_shared_memory"),
    [
        # Two programs at once on a multiprocessor of 65,536 registers and 228 KiB, as far as 4 warps go.
        (64, 64, 128, "bfloat16", 168, 112 * 1024),
        (64, 128, 128, "float16", 168, 112 * 1024),
        (128, 1024, 128, "bfloat16", 168, 112 * 1024),
        (96, 160, 96, "bfloat16", 168, 112 * 1024),
        (16, 16, 64, "bfloat16", 168, 112 * 1024),
        (64, 64, 256, "bfloat16", 255, 227 * 1024),
        (64, 64, 128, "float32", 255, 227 * 1024),
        (64, 64, 256, "float32", 255, 227 * 1024),
    ],
)
def test_compiled_for_hopper_it_spills_nothing(
    compile_for_hopper, tmp_path, block_q, block_k, width, dtype, most_registers, most_shared_memory
):
    import triton

    kernel = compile_for_hopper(block_q, block_k, width, dtype)
    ptx = tmp_path / "kernel.ptx"
    ptx.write_text(kernel.asm["ptx"])
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    command = [ptxas, "--verbose", "--gpu-name=sm_90a", ptx, "--output-file", tmp_path / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    (registers,) = map(int, re.findall(r"Used (\d+) registers", report))
    print(block_q, block_k, width, dtype, registers, "registers", kernel.metadata.shared, "bytes of shared memory")
    assert re.findall(r"(\d+) bytes spill", report) == ["0", "0"]
    assert registers <= most_registers
    assert kernel.metadata.shared <= most_shared_memory
    # Hopper's tensor cores multiply 64 rows at once and have no float32.
    assert ("wgmma" in kernel.asm["ptx"]) == (dtype != "float32" and block_q >= 64)
    assert "cp.async" in kernel.asm["ptx"]


@needs_triton
@needs_jax_triton
def test_jax_compiles_the_call_for_a_described_gpu(monkeypatch):
    """As far as one gets without a GPU: Triton makes PTX, and XLA a program that will load and launch it."""
    from lcv_jax import gpus

    # jax-triton empties it.
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    sharding = jax.sharding.SingleDeviceSharding(gpus.described_devices("h200")[0])
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes(64, 128, "bfloat16")
    )
    program = jax.jit(for_hopper(64, 64)).trace(*arguments).lower().compile()
    assert "triton_kernel_call" in program.as_text()
    out, lse = program.out_info
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == (
        (1, TOKENS, HEADS, 128),
        jnp.bfloat16,
        (1, HEADS, TOKENS),
        jnp.float32,
    )
    # Inputs are read where they lie: nothing is copied or transposed.
    assert program.memory_analysis().temp_size_in_bytes == 0


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax_triton", None)
    arrays, mask = case(1, 1, 16, 16, 32, jnp.float32)
    with pytest.raises(NotImplementedError, match=r"pip install \"lcv_jax\[gpu,jax-triton\]\""):
        jax_triton_forward.forward(*arrays, shuffled_lists(mask), 16, 16)


def test_both_names_of_the_outputs_are_known():
    """jax-triton 0.3 and 0.4."""

    def old(*args, kernel, out_shape, **metaparams): ...

    def new(*args, kernel, out_type=None, **kwargs): ...

    assert [jax_triton_forward._name_of_outputs(call) for call in (old, new)] == ["out_shape", "out_type"]
