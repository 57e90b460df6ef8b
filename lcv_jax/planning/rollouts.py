"""What GRPO runs beside its optimiser step, compiled for described GPUs: captions encoded, groups sampled, decoded."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.models.flops import forward_flops
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.parallel.sharding import batch_sharding
from lcv_jax.planning.compiling import Machine, compile_program, compile_stage
from lcv_jax.planning.hlo import collectives
from lcv_jax.planning.requests import Networks, TextToVideo, parameter_shapes, programs_of
from lcv_jax.planning.training import BatchShape, TrainingStage, count_of, held_bytes, latent_shape
from lcv_jax.sampling.options import SamplingOptions
from lcv_jax.training import networks
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.rollout import policy_rollout
from lcv_jax.training.state import Frozen, TrainState
from lcv_jax.training.step import Learner


def compile_rollout(cfg: TrainConfig, batch: BatchShape, known: Networks, machine: Machine) -> list[TrainingStage]:
    """The programs of a rollout; their shares are how often they run for one optimiser step.

    Raises:
        ValueError: what training would refuse too.
        jax.errors.JaxRuntimeError: the compiler refuses it.
    """
    assert cfg.rollout is not None
    assert isinstance(cfg.data, PromptsConfig)
    assert machine.mesh is not None
    learner = networks.learner_of(cfg, known.dit, machine.mesh)
    start = networks.Start(cfg, learner)
    state, frozen = start.shapes(), start.frozen_shapes()
    held = held_bytes(state, frozen)
    videos = cfg.rollout.prompts * cfg.rollout.group_size
    rollouts_a_step = cfg.batch_size / (videos * cfg.rollout.passes)
    sampled = _sampling(cfg, batch, known, machine, (learner, state, frozen))
    found = [dataclasses.replace(sampled, share=rollouts_a_step * cfg.rollout.prompts / cfg.rollout.prompts_at_once)]
    frames, height, width = batch.size
    request = TextToVideo(height=height, width=width, num_frames=frames)
    options = SamplingOptions(max_sequence_length=cfg.data.max_sequence_length)
    for program in programs_of(request, options, known, keep_text_encoder="host"):
        if program.name == "denoise":
            continue
        stage = compile_stage(program, machine)
        times = cfg.rollout.prompts if program.name == "encode text" else videos
        fields = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)}
        own = sum(stage.resident_bytes[name] for name in program.own)  # sampling's transformer is the state's
        fields["resident_bytes"] = held | {"encoders": own}
        found.append(_stage(fields, task="rollout", share=rollouts_a_step * times, model_flops=stage.flops))
    return found


def _sampling(
    cfg: TrainConfig,
    batch: BatchShape,
    known: Networks,
    machine: Machine,
    trained: tuple[Learner, TrainState, Frozen],
) -> TrainingStage:
    """`policy_rollout` of the groups that are sampled at once."""
    learner, state, frozen = trained
    assert cfg.rollout is not None
    assert machine.mesh is not None
    assert isinstance(cfg.objective, GRPO)
    assert isinstance(cfg.data, PromptsConfig)
    asked, mesh, network = cfg.rollout, machine.mesh, known.dit
    P, L, D = asked.prompts_at_once, cfg.data.max_sequence_length, network.caption_channels
    split, whole = batch_sharding(mesh, P), NamedSharding(mesh, PartitionSpec())

    def shape(sizes: tuple[int, ...], dtype: Any, place: NamedSharding = whole) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

    guided = cfg.objective.guidance_scale > 1
    latents = latent_shape(batch.size, network, known)
    negative = (shape((1, L, D), jnp.bfloat16), shape((1, L), jnp.bool_)) if guided else (None, None)
    arguments = (
        learner,
        state.params,
        frozen,
        shape((P, *latents), jnp.float32, split),
        shape((P, L, D), jnp.bfloat16, split),
        shape((P, L), jnp.bool_, split),
        *negative,
        shape((asked.num_steps,), jnp.float32),
        shape((), jnp.float32),
        shape((), jnp.int32),
        jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=whole),
    )
    options = {"group_size": asked.group_size, "noise": asked.sde}
    compiled = compile_program(policy_rollout, arguments, options, machine)
    memory, held = compiled.memory, held_bytes(state, frozen)
    T, H, W, _ = latents
    grid = T, H // network.patch_size[1], W // network.patch_size[2]
    rank = cfg.adapter.rank if cfg.adapter else 0
    forward = forward_flops(network, grid=grid, text_tokens=L, adapter_rank=rank).total
    flops = P * evaluations(cfg) * forward * (2 if guided else 1)
    weights = jnp.dtype(cfg.dtype).itemsize * count_of(frozen.params)
    fields = {
        "name": f"rollout {batch.name.split()[-1]}",
        "times": 1,
        "resident_bytes": held | {"encoders": machine.bytes_each(_autoencoder(known), "vae")},
        "argument_bytes": memory.argument_size_in_bytes,
        "input_bytes": P * (math.prod(latents) * 4 + L * D * 2) // machine.mesh.size,
        "output_bytes": memory.output_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "cache_bytes": 0,
        "largest": compiled.largest,
        "collectives": collectives(compiled.text, machine.per_host),
        "flops": flops,
        "flops_by_part": {},
        "shares": mesh.size,
        "moved_bytes": asked.num_steps * weights,
    }
    return _stage(fields, task="rollout", share=1.0, model_flops=flops)


def evaluations(cfg: TrainConfig) -> float:
    """Of the transformer for a group, the mean over critical steps; each half of guidance is one of them."""
    assert cfg.rollout is not None
    steps, size = cfg.rollout.num_steps, cfg.rollout.group_size
    if cfg.rollout.sde.noisy_steps == "all":
        return float(steps * size)
    shared = (cfg.rollout.critical_steps - 1) / 2 + 1
    return shared + (steps - shared) * size


def _autoencoder(known: Networks) -> Any:
    return parameter_shapes(known, "vae", jnp.dtype("bfloat16"))


def _stage(fields: dict[str, Any], *, task: str, share: float, model_flops: float) -> TrainingStage:
    return TrainingStage(
        **{"host_bytes": 0, **fields},
        task=task,
        share=share,
        gradient_bytes=0,
        host_traffic_bytes=0,
        model_flops=model_flops,
    )
