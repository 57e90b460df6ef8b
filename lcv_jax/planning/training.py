"""The optimiser step of a training config, compiled for described GPUs from shapes alone.

The step is training/step.py's own, its state training/networks.py's; only the batches are made up here: of every kind
that the config's tasks give, one in the largest of its buckets.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lcv_jax.array_types import PyTree
from lcv_jax.config import DiTConfig, VAEConfig
from lcv_jax.data.batches import BatchKind, possible_choices
from lcv_jax.data.config import DataConfig, Size, as_text, bucket_groups
from lcv_jax.data.encoded import INDEX, EncodedFolder
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.models.flops import forward_flops
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.parallel.mesh import MeshShape, make_mesh
from lcv_jax.parallel.sharding import batch_sharding, shardings
from lcv_jax.planning.compiling import Machine, Stage, compile_program
from lcv_jax.planning.hlo import collectives
from lcv_jax.planning.requests import Networks
from lcv_jax.training import networks
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.cost import tokens_and_flops
from lcv_jax.training.inputs import check_batch_size
from lcv_jax.training.rollouts import KIND
from lcv_jax.training.state import Frozen, SelfForcingState, TrainState
from lcv_jax.training.step import Learner, train_step
from lcv_jax.training.tuned import Tuned

StepArguments = tuple[Learner, TrainState, Frozen, dict[str, Any], BatchKind]
"""Of `train_step`, as shapes with their places."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShape:
    """A kind of batch in its largest bucket."""

    kind: BatchKind
    size: Size
    share: float
    """Of all batches, those of this kind."""

    @property
    def name(self) -> str:
        """Task and size, and how many latent frames are given where a task has several numbers of them."""
        given = f"+{self.kind.num_cond_latents}" if self.kind.task in ("vc", "refine") else ""
        return f"{self.kind.task}{given} {as_text(self.size)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingStage(Stage):
    """A compiled step; `times` is 1, the components in memory are parameters, moments, average and frozen ones."""

    task: str
    share: float
    """Of all steps, those of this kind; of a rollout's programs, how often they run for one step."""
    gradient_bytes: int
    """Of the temporary ones."""
    host_bytes: int
    """In the host's memory, for one device."""
    host_traffic_bytes: int
    """That a device sends to it, and gets back, in a step."""
    model_flops: float
    """Of one step without what is computed again, all devices together."""


def sizes_of(cfg: DataConfig) -> list[Size]:
    """The buckets of a run: those that the config names, or those of its data if they are there.

    Raises:
        ValueError: neither.
    """
    groups = bucket_groups(cfg.sizes, cfg.resolutions, cfg.num_frames, cfg.granularity)
    if not groups and (cfg.path / INDEX).is_file():
        return [bucket.size for bucket in EncodedFolder(cfg.path).buckets]
    if not groups:
        raise ValueError(
            f"the config names no sizes, and its data are not in {cfg.path}: give --data.sizes FRAMES HEIGHT WIDTH"
        )
    return [size for group in groups for size in group]


def batch_shapes(cfg: DataConfig | PromptsConfig) -> list[BatchShape]:
    """Every kind of batch that the config's tasks give; of GRPO there is one.

    Raises:
        ValueError: a task has a share, and no bucket serves it.
    """
    if isinstance(cfg, PromptsConfig):
        return [BatchShape(kind=KIND, size=max(cfg.all_sizes(), key=math.prod), share=1.0)]
    sizes = sizes_of(cfg)
    choices, shares = possible_choices(
        cfg,
        sizes,
        tasks=[_tasks(cfg, size) for size in sizes],
        num_latents=[(size[0] - 1) // cfg.temporal_factor + 1 for size in sizes],
        amounts=[1.0] * len(sizes),
    )
    found: dict[BatchKind, BatchShape] = {}
    for choice, share in zip(choices, shares, strict=True):
        kind, size = BatchKind(choice.task, choice.num_cond_latents), sizes[choice.bucket]
        known = found.get(kind)
        largest = max((size, known.size) if known else (size,), key=math.prod)
        found[kind] = BatchShape(kind=kind, size=largest, share=share + (known.share if known else 0.0))
    return list(found.values())


def _tasks(cfg: DataConfig, size: Size) -> tuple[str, ...]:
    if cfg.mode == "autoencoder":
        return ("autoencoder",)
    return ("t2i",) if size[0] == 1 else ("t2v", "i2v", "vc", "refine")


def on_devices(cfg: TrainConfig, num_devices: int, samples: int | None) -> TrainConfig:
    """The config with its mesh's open axis filled in, and accumulation for so many samples at a time.

    Args:
        samples: that each group of devices (those that share tokens) computes at a time; None: as the config says.

    Raises:
        ValueError: the mesh or the batch does not divide.
    """
    devices = cfg.devices
    shape = MeshShape(data=devices.data, fsdp=devices.fsdp, seq=devices.seq).fit(num_devices)
    cfg = dataclasses.replace(
        cfg, devices=dataclasses.replace(devices, data=shape.data, fsdp=shape.fsdp, seq=shape.seq)
    )
    if samples is None:
        return cfg
    at_a_time = samples * shape.data * shape.fsdp
    if samples < 1 or cfg.batch_size % at_a_time:
        raise ValueError(
            f"batch_size {cfg.batch_size} is no multiple of {samples} samples in {shape.data * shape.fsdp} groups of "
            f"GPUs: give --batch-size {max(1, round(cfg.batch_size / max(at_a_time, 1))) * max(at_a_time, 1)}, other "
            "--samples, or a larger --devices.seq"
        )
    accumulation = cfg.batch_size // at_a_time
    return dataclasses.replace(cfg, optimizer=dataclasses.replace(cfg.optimizer, accumulation=accumulation))


def training_mesh(cfg: TrainConfig, devices: list[jax.Device]) -> Mesh:
    """Of a config that `on_devices` returned."""
    return make_mesh(cfg.devices.data, cfg.devices.fsdp, cfg.devices.seq, devices)


def compile_step(cfg: TrainConfig, batch: BatchShape, known: Networks, machine: Machine) -> TrainingStage:
    """Compiles the step for a kind of batch.

    Raises:
        ValueError: what training would refuse too.
        jax.errors.JaxRuntimeError: the compiler refuses it.
    """
    assert machine.mesh is not None
    return compile_arguments(cfg, batch, step_arguments(cfg, batch, known, machine.mesh), machine)


def compile_arguments(cfg: TrainConfig, batch: BatchShape, arguments: StepArguments, machine: Machine) -> TrainingStage:
    """Compiles the step for these arguments; errors are those of `compile_step`."""
    assert machine.mesh is not None
    learner, state, frozen, arrays, _ = arguments
    compiled = compile_program(train_step, arguments, {}, machine)
    memory = compiled.memory
    resident = held_bytes(state, frozen)
    inputs = memory.argument_size_in_bytes - sum(resident.values())
    places = shardings(state.params, machine.mesh, learner.rules, "grads")
    grads = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=at), state.params, places)
    parts = cfg.optimizer.accumulation
    model_flops, computed_flops = step_flops(cfg, learner, arrays, batch.kind)
    return TrainingStage(
        name=batch.name,
        task=batch.kind.task,
        share=batch.share,
        times=1,
        resident_bytes=resident,
        argument_bytes=memory.argument_size_in_bytes,
        input_bytes=max(0, inputs),
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        cache_bytes=0,
        gradient_bytes=bytes_each(grads),
        host_bytes=memory.host_temp_size_in_bytes,
        host_traffic_bytes=parts * memory.host_temp_size_in_bytes,
        largest=compiled.largest,
        collectives=collectives(compiled.text, machine.per_host),
        flops=computed_flops,
        flops_by_part={},
        model_flops=model_flops,
        shares=machine.mesh.size,
        # The state is read and written once, all weights are read by each part's forward and backward pass.
        moved_bytes=2 * sum(size for name, size in resident.items() if name != "frozen")
        + parts * 2 * jnp.dtype(cfg.dtype).itemsize * count_of((state.params, frozen.params)),
    )


def step_arguments(cfg: TrainConfig, batch: BatchShape, known: Networks, mesh: Mesh) -> StepArguments:
    """What `train_step` is called with, as shapes with their places.

    Raises:
        ValueError: a batch that does not divide over the devices.
    """
    check_batch_size(cfg, mesh)
    network = known.vae if cfg.network == "vae" else known.dit
    learner = networks.learner_of(cfg, network, mesh)
    start = networks.Start(cfg, learner)
    return learner, start.shapes(), start.frozen_shapes(), _arrays(cfg, batch, network, known, mesh), batch.kind


def held_bytes(state: TrainState, frozen: Frozen) -> dict[str, int]:
    """What lies on one device all the time, by component; those that are not there are left out."""
    fake = state.fake if isinstance(state, SelfForcingState) else None
    trees = {
        "parameters": (state.params, fake and fake.params),
        "moments": (state.opt_state, fake and fake.opt_state),
        "average": state.ema,
        "frozen": (frozen.params, frozen.adapters),
    }
    return {name: size for name, tree in trees.items() if (size := bytes_each(tree))}


def bytes_each(tree: PyTree) -> int:
    """Of a tree of shapes with their places, on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def count_of(tree: PyTree) -> int:
    """Numbers in a tree of shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _arrays(
    cfg: TrainConfig, batch: BatchShape, network: DiTConfig | VAEConfig, known: Networks, mesh: Mesh
) -> dict[str, Any]:
    """A batch as training/inputs.py makes it, of clips that were encoded with the defaults."""
    B, (T, H, W) = cfg.batch_size, batch.size
    split, whole = batch_sharding(mesh, B), NamedSharding(mesh, PartitionSpec())

    def shape(sizes: tuple[int, ...], dtype: Any, place: NamedSharding = split) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

    if isinstance(network, VAEConfig):
        keep = {"keep_B": shape((B,), jnp.float32)} if "teacher" in cfg.objective.needs else {}
        return {"video_BTHWC": shape((B, T, H, W, 3), jnp.uint8), **keep}
    latents = shape((B, *latent_shape(batch.size, network, known)), jnp.float32)
    assert isinstance(cfg.data, DataConfig | PromptsConfig)
    length, width = cfg.data.max_sequence_length, network.caption_channels
    states, numbers = ["latents_BTHWC"], list[str]()
    if isinstance(cfg.objective, GRPO):
        states, numbers = ["x_BTHWC", "next_BTHWC"], ["log_prob_B", "advantage_B", "kept_B", "t_B", "dt_B", "s_B"]
    arrays = {
        **dict.fromkeys(states, latents),
        **dict.fromkeys(numbers, shape((B,), jnp.float32)),
        "text_BLD": shape((B, length, width), jnp.bfloat16),
        "text_mask_BL": shape((B, length), jnp.bool_),
    }
    if batch.kind.task == "refine":
        arrays["upsampled_BTHWC"] = latents
    if "negative_text" in cfg.objective.needs:
        arrays["negative_text_1LD"] = shape((1, length, width), jnp.bfloat16, whole)
        arrays["negative_mask_1L"] = shape((1, length), jnp.bool_, whole)
    return arrays


def latent_shape(size: Size, network: DiTConfig, known: Networks) -> tuple[int, int, int, int]:
    """Of a clip of a size."""
    (T, H, W), factor, side = size, known.vae.temporal_factor, known.vae.spatial_factor
    return (T - 1) // factor + 1, H // side, W // side, network.in_channels


def step_flops(cfg: TrainConfig, learner: Learner, arrays: dict[str, Any], kind: BatchKind) -> tuple[float, float]:
    """Operations of a step, by formula: those that it cannot do without, and with those that remat computes again."""
    _, model_flops = tokens_and_flops(learner, arrays, kind)
    if isinstance(learner.model, Tuned) and cfg.remat != "none":
        return model_flops, model_flops * (1 + 1 / learner.model.passes)
    network = learner.model.cfg
    if not isinstance(network, DiTConfig) or cfg.remat == "none":
        return model_flops, model_flops
    B, T, H, W, _ = arrays["x_BTHWC" if isinstance(cfg.objective, GRPO) else "latents_BTHWC"].shape
    grid = T, H // network.patch_size[1], W // network.patch_size[2]
    forward = forward_flops(
        network, grid=grid, num_condition=kind.num_cond_latents, text_tokens=arrays["text_BLD"].shape[1]
    )
    kept = 0.0 if cfg.remat == "full" else forward.attention
    return model_flops, model_flops + B * (forward.total - kept)
