"""Bytes that one transformer layer moves, read from the program that XLA compiles for a described GPU.

`python -m benchmarks.layer_bytes [--gpu h200] [--train] [--all]`, in the environment of `make test-compile`.

A forward pass of the released transformer is compiled at 37,440 tokens dense and 84,480 tokens block-sparse. Of every
kernel that the loop over layers launches, this adds up the bytes of its operands and results, each counted once, of an
operand that is only sliced the slice. Divided by the GPU's memory bandwidth this is a floor, no measurement: no GPU is
needed, and nothing is run. Kernels are sorted into products, attention, copies of a layer's weights out of the stack,
and the rest, the elementwise work between them.

With --train a gradient is compiled: the loop over layers forward, and the one back, which computes all but
self-attention again.

Matrix products are cuBLAS calls here (`--xla_gpu_enable_triton_gemm=false`); with a GPU XLA measures both kinds.
"""

import argparse
import dataclasses
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from lcv_jax.array_types import Array, Params
from lcv_jax.config import BlockSparseConfig, DiTConfig
from lcv_jax.gpus import described_devices, described_gpu
from lcv_jax.kernels.platform import compiling_for
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.planning.hlo import Instruction, computations_of, shape_bytes

SHAPES = {"dense": (24, 30, 52), "sparse": (24, 44, 80)}
"""Tokens, frames x rows x columns."""
PRODUCTS, ATTENTION, WEIGHTS, REST = "products", "attention", "weight copies", "elementwise"
FREE = ("parameter", "get-tuple-element", "tuple", "constant", "bitcast", "while", "iota")
UPDATE = "dynamic-update-slice"
SAME_BYTES = ("bitcast", "reshape", "transpose", "copy", "convert")
COPIES = {*FREE, *SAME_BYTES, "dynamic-slice", "slice", "compare", "add", "select"}
SMALLEST_LISTED = 20e6
"""Kernels that move fewer bytes are listed only with --all."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One launch in the loop over layers."""

    kind: str
    name: str
    shape: str
    read: int
    written: int

    @property
    def moved(self) -> int:
        return self.read + self.written


def kernels_of_layer(text: str, loops: int = 1) -> list[Kernel]:
    """The kernels of the largest loops' bodies, in the order that they run in.

    Args:
        text: of the compiled program.
        loops: how many loops there are over layers.
    """
    computations, _ = computations_of(text)
    bodies = sorted((computations[name] for name in re.findall(r"body=%?([\w.\-]+)", text)), key=len)
    return [kernel for body in bodies[-loops:] for kernel in _kernels_of(body, computations)]


def _kernels_of(body: Sequence[Instruction], computations: dict[str, list[Instruction]]) -> list[Kernel]:
    shapes = {instruction.name: instruction.shape for instruction in body}
    return [
        _kernel(instruction, shapes, computations)
        for instruction in body
        if instruction.opcode not in FREE and not instruction.opcode.endswith("-done")
    ]


def _kernel(instruction: Instruction, shapes: dict[str, str], computations: dict[str, list[Instruction]]) -> Kernel:
    operands = _operands(instruction)
    called = re.search(r"calls=%?([\w.\-]+)", instruction.rest)
    inside = computations[called.group(1)] if called else []
    reads = {
        operand: min(_read_inside(inside, place, shape_bytes(shapes[operand])), shape_bytes(shapes[operand]))
        for place, operand in enumerate(operands)
        if operand in shapes
    }
    written = shape_bytes(re.sub(r"s8\[\d+\]", "", instruction.shape))  # cuBLAS's workspace is no result
    written -= sum(_left_alone(each, inside) for each in inside if each.opcode == UPDATE)
    kind, name = _kind(instruction, inside, [shapes.get(operand, "") for operand in operands])
    return Kernel(kind, name, re.sub(r"\{[^}]*\}", "", instruction.shape).strip(), sum(reads.values()), written)


def _left_alone(update: Instruction, inside: Sequence[Instruction]) -> int:
    """Bytes of a result that an update in place does not write."""
    part = {each.name: each.shape for each in inside}[_operands(update)[1]]
    return shape_bytes(update.shape) - shape_bytes(part)


def _operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", re.split(r"\), |\)$", instruction.rest)[0])


def _read_inside(inside: Sequence[Instruction], place: int, size: int) -> int:
    """What a fusion reads of its operand: its slices, if nothing else looks at it."""
    users: dict[str, list[Instruction]] = defaultdict(list)
    for instruction in inside:
        for operand in _operands(instruction):
            users[operand].append(instruction)

    def read(name: str) -> int:
        total = 0
        for user in users[name]:
            if user.opcode in ("slice", "dynamic-slice"):
                total += shape_bytes(user.shape)
            elif user.opcode == UPDATE and _operands(user)[0] == name:
                continue  # what it does not overwrite stays where it is
            elif user.opcode in SAME_BYTES and users[user.name]:
                total += read(user.name)
            else:
                return size
        return total

    wanted = [x.name for x in inside if x.opcode == "parameter" and x.rest.startswith(f"{place})")]
    return read(wanted[0]) if wanted else size


def _kind(instruction: Instruction, inside: Sequence[Instruction], operands: Iterable[str]) -> tuple[str, str]:
    target = re.search(r'custom_call_target="([^"]+)"', instruction.rest)
    named = re.search(r'name = \\?"(\w+)', instruction.rest)
    name = named.group(1) if named else target.group(1) if target else instruction.name
    opcodes = {each.opcode for each in inside}
    if "cublas" in name or "dot" in opcodes or "custom-call" in opcodes:
        return PRODUCTS, name
    if re.search(r"(forward|dq|dkdv|fmha|cudnn)", name):
        return ATTENTION, name
    if "dynamic-slice" in opcodes and opcodes <= COPIES:
        return WEIGHTS, name
    return REST, name


def compile_layer(case: str, gpu: str, batch: int, implementation: str, *, train: bool = False) -> str:
    """The text of the compiled forward pass, or of a gradient."""
    cfg = DiTConfig()
    if case == "sparse":
        cfg = DiTConfig.from_json({**cfg.to_json(), "enable_bsa": True, "bsa_params": BlockSparseConfig().to_json()})
    (device,) = described_devices(gpu)

    def shaped(shape: Sequence[int], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

    T, H, W = SHAPES[case]
    inputs = (
        shaped((batch, T, 2 * H, 2 * W, 16), jnp.float32),
        shaped((batch, T), jnp.float32),
        shaped((batch, 512, cfg.caption_channels), jnp.bfloat16),
        shaped((batch, 512), jnp.bool_),
    )
    with compiling_for(f"gpu:{described_gpu(gpu).compute_capability}"):
        model = LongCatVideo(cfg, param_dtype=jnp.bfloat16, implementation=implementation, remat="attention")

        def loss(params: Params, *inputs: Array) -> Array:
            return jnp.sum(jnp.square(model.apply(params, *inputs)))

        made = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        params = jax.tree.map(lambda leaf: shaped(leaf.shape, leaf.dtype), made)
        run = jax.grad(loss) if train else model.apply
        return jax.jit(run).trace(params, *inputs).lower().compile().as_text()


def main() -> None:
    """Compiles both shapes, prints their kernels and sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--implementation", default="pallas_triton", help="of attention; cudnn needs its library")
    parser.add_argument("--train", action="store_true", help="forward and backward")
    parser.add_argument("--all", action="store_true", help="list small kernels too")
    args = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false"
    bandwidth = described_gpu(args.gpu).memory_bandwidth
    for case in args.only:
        text = compile_layer(case, args.gpu, args.batch, args.implementation, train=args.train)
        kernels = kernels_of_layer(text, loops=2 if args.train else 1)
        tokens = SHAPES[case][0] * SHAPES[case][1] * SHAPES[case][2] * args.batch
        print(f"\n{case}, {tokens:,} tokens, one layer, {args.gpu}")
        for kernel in kernels:
            if args.all or kernel.moved > SMALLEST_LISTED:
                read, written, floor = kernel.read / 1e6, kernel.written / 1e6, kernel.moved / bandwidth * 1e3
                print(
                    f"{kernel.kind:14} {kernel.name[:28]:28} reads {read:7,.0f} MB, writes {written:7,.0f} MB, "
                    f"{floor:.3f} ms  {kernel.shape[:60]}"
                )
        for kind in (PRODUCTS, ATTENTION, WEIGHTS, REST):
            moved = sum(kernel.moved for kernel in kernels if kernel.kind == kind)
            print(f"{case} {kind}: {moved / 1e9:.2f} GB, {moved / bandwidth * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
