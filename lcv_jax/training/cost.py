"""What a step costs by formula, for tokens a second and model FLOPs utilisation."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax

from lcv_jax.config import DiTConfig
from lcv_jax.data.batches import BatchKind
from lcv_jax.models.flops import causal_flops, counted_flops, forward_flops
from lcv_jax.models.vae import WanVAE
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.objectives.cfg_distillation import CFGDistillation
from lcv_jax.objectives.consistency_distillation import ConsistencyDistillation
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.objectives.self_forcing import SelfForcing
from lcv_jax.training.step import Learner
from lcv_jax.training.tuned import Tuned


def tokens_and_flops(learner: Learner, batch: Mapping[str, Any], kind: BatchKind) -> tuple[int, float]:
    """Of a batch: tokens (of an autoencoder: pixels), and operations that its step cannot do without.

    A forward and a backward pass, which is two forward passes, or one where the weights are frozen; what is computed
    again is not counted (that is what makes it "model" FLOPs). Teachers add forward passes.

    Args:
        learner: what the step is compiled for.
        batch: arrays, or their shapes.
        kind: of the batch.
    """
    if isinstance(learner.model, WanVAE):
        shape = batch["video_BTHWC"].shape
        flops = 3 * _autoencoder_flops(learner.model, shape[1:])
        if "teacher" in learner.objective.needs:
            flops += _autoencoder_flops(learner.model, shape[1:], "encode")
        return math.prod(shape[:4]), shape[0] * flops
    if isinstance(learner.model, Tuned):
        return learner.model.cost(batch)
    B, T, H, W, _ = batch["x_BTHWC" if isinstance(learner.objective, GRPO) else "latents_BTHWC"].shape
    cfg = learner.model.cfg
    grid = T, H // cfg.patch_size[1], W // cfg.patch_size[2]
    text_tokens = batch["text_BLD"].shape[1]
    if isinstance(learner.objective, CausalFlowMatching):
        grid = learner.objective.part_length(T), *grid[1:]
        forward = causal_flops(cfg, grid=grid, chunk=learner.objective.chunk, text_tokens=text_tokens).total
    elif isinstance(learner.objective, SelfForcing):
        return B * math.prod(grid), B * _self_forcing_flops(learner.objective, cfg, grid, text_tokens)
    else:
        num_condition = kind.num_cond_latents
        forward = forward_flops(cfg, grid=grid, num_condition=num_condition, text_tokens=text_tokens).total
    passes = (2 if learner.adapted else 3) + _further_passes(learner.objective)
    if isinstance(learner.objective, GRPO) and learner.objective.guidance_scale > 1:
        passes *= 2
    return B * grid[0] * grid[1] * grid[2], B * passes * forward


def _self_forcing_flops(objective: SelfForcing, cfg: DiTConfig, grid: tuple[int, int, int], text_tokens: int) -> float:
    """Of a sample: a rollout with a mean cut, the gradient of its last steps, three scores, and the fake's updates."""
    c = objective.window.chunk
    rollout = 0.0
    for before in range(0, grid[0], c):
        forward = functools.partial(forward_flops, cfg, grid=(c, *grid[1:]), cached=min(before, objective.window.size))
        step = forward(text_tokens=text_tokens).total
        rollout += ((objective.num_steps + 1) / 2 + 1) * step  # its last step has a backward pass, of activations alone
        rollout += forward(text_tokens=0).total
    scores = (2 if objective.guidance_scale > 1 else 1) + 1 + 2 * objective.fake_updates
    if objective.teacher == "clips":
        return rollout + scores * forward_flops(cfg, grid=grid, text_tokens=text_tokens).total
    part = objective.causal.part_length(grid[0]), *grid[1:]
    return rollout + scores * causal_flops(cfg, grid=part, chunk=c, text_tokens=text_tokens).total


def _further_passes(objective: Any) -> int:
    """Forward passes of a sample besides the student's."""
    if isinstance(objective, CFGDistillation):
        return 2
    if isinstance(objective, ConsistencyDistillation):
        return objective.teacher_steps + 1
    if isinstance(objective, GRPO):
        return 1
    return 0


@functools.cache
def _autoencoder_flops(model: WanVAE, shape: tuple[int, ...], method: str = "__call__") -> float:
    """Of encoding and decoding a clip, or of one of them."""
    apply: Any = functools.partial(model.apply, method=method)
    video = jax.ShapeDtypeStruct((1, *shape), "float32")
    params = jax.eval_shape(model.init, jax.random.key(0), video)
    return counted_flops(jax.make_jaxpr(apply)(params, video))
