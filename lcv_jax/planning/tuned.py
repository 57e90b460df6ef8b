"""The optimiser step of a judge's or a captioner's training, compiled for described GPUs from shapes alone.

What is compiled is training/step.py's own. Where the config's checkpoint is not there, a judge is the released
VideoReward and a captioner Qwen2-VL-7B. Clips are those of the report, of which the network sees what its settings say.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lcv_jax.captioning.pairs import ANSWER_TOKENS, CaptionsConfig
from lcv_jax.data.batches import BatchKind
from lcv_jax.data.config import Size
from lcv_jax.data.preferences import PAIRS, PreferencesConfig
from lcv_jax.models.captioner import Captioner
from lcv_jax.models.judges import VIDEOREWARD, JudgeNetwork
from lcv_jax.models.qwen2_vision import MERGED
from lcv_jax.parallel.sharding import batch_sharding
from lcv_jax.planning import judges
from lcv_jax.planning.compiling import Machine
from lcv_jax.planning.training import BatchShape, StepArguments, TrainingStage, compile_arguments
from lcv_jax.rewards.judge_batches import TOKENS, bucket
from lcv_jax.rewards.videoreward import video_grid
from lcv_jax.training.base import start_of
from lcv_jax.training.caption_inputs import CAPTIONS
from lcv_jax.training.captioners import CaptionerBase, CaptionerModel
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.inputs import check_batch_size
from lcv_jax.training.judges import JudgeBase, JudgeModel
from lcv_jax.training.networks import learner_of
from lcv_jax.training.tuned import Tuned

CLIP: Size = (93, 480, 832)
CLIP_FPS = 15.0
ANSWER = 4 * ANSWER_TOKENS
"""Tokens of a caption."""
QUESTION = 32
"""Tokens around the clip and the caption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunedStep:
    """What a step of a config is made of."""

    model: Tuned
    known: str
    """What is known of the network."""
    task: str
    arrays: dict[str, tuple[tuple[int, ...], Any]]
    """Sizes of one sample's, and their types."""

    @property
    def batch(self) -> BatchShape:
        """The one kind of batch."""
        return BatchShape(kind=BatchKind(self.task, 0), size=CLIP, share=1.0)

    def compile(self, cfg: TrainConfig, machine: Machine) -> TrainingStage:
        """Compiles it for the machine.

        Raises:
            ValueError: what training would refuse too.
            jax.errors.JaxRuntimeError: the compiler refuses it.
        """
        assert machine.mesh is not None
        return compile_arguments(cfg, self.batch, self.arguments(cfg, machine.mesh), machine)

    def arguments(self, cfg: TrainConfig, mesh: Mesh) -> StepArguments:
        """What `train_step` is called with, as shapes with their places.

        Raises:
            ValueError: a batch that does not divide over the devices.
        """
        check_batch_size(cfg, mesh)
        learner = learner_of(cfg, self.model, mesh)
        start, split = start_of(cfg, learner), batch_sharding(mesh, cfg.batch_size)
        arrays = {
            name: jax.ShapeDtypeStruct((cfg.batch_size, *sizes), dtype, sharding=split)
            for name, (sizes, dtype) in self.arrays.items()
        }
        return learner, start.shapes(), start.frozen_shapes(), arrays, self.batch.kind


def tuned_step(cfg: TrainConfig) -> TunedStep:
    """Of a config that trains a judge or a captioner.

    Raises:
        ValueError: its checkpoint is damaged.
    """
    return _judge_step(cfg) if isinstance(cfg.data, PreferencesConfig) else _captioner_step(cfg)


def _judge_step(cfg: TrainConfig) -> TunedStep:
    judge, template = judges.judge_of(cfg.checkpoint, VIDEOREWARD)
    if is_there := cfg.checkpoint.is_dir():
        model = JudgeBase.open(cfg.checkpoint).model(cfg)
    else:
        model = JudgeModel(
            network=JudgeNetwork(judge, jnp.dtype(cfg.dtype), remat=cfg.remat),
            reward_ids=tuple(range(len(judge.reward_tokens))),
            adapted=cfg.adapter is not None,
            vision=cfg.train_vision is not False,
        )
    task = cfg.objective.task  # type: ignore[union-attr]
    videos, shape = 2 if task == PAIRS else 1, judges.row_shape(judge, CLIP, CLIP_FPS, template, 1)
    arrays = {name: ((videos, *sizes), dtype) for name, (sizes, dtype) in judges.argument_shapes(judge, shape).items()}
    labels = ("label_BD", jnp.int32) if task == PAIRS else ("rating_BD", jnp.float32)
    arrays[labels[0]] = ((len(judge.dimensions),), labels[1])
    return TunedStep(
        model=model, known=str(cfg.checkpoint) if is_there else "the released VideoReward", task=task, arrays=arrays
    )


def _captioner_step(cfg: TrainConfig) -> TunedStep:
    assert isinstance(cfg.data, CaptionsConfig)
    if is_there := cfg.checkpoint.is_dir():
        model = CaptionerBase.open(cfg.checkpoint).model(cfg)
    else:
        model = CaptionerModel(
            network=Captioner(judges.SEVEN_B, jnp.dtype(cfg.dtype), remat=cfg.remat),
            adapted=cfg.adapter is not None,
            vision=cfg.train_vision is True,
        )
    pictures, rows, columns = video_grid(CLIP, CLIP_FPS, cfg.data.views)
    patches, features = MERGED * bucket(rows * columns // MERGED), model.cfg.vision_config.patch_features
    length = bucket(pictures * rows * columns // MERGED + QUESTION + ANSWER, TOKENS)
    pictures = bucket(pictures)
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {
        "patches_BTSC": ((pictures, patches, features), jnp.uint8),
        "cells_BS2": ((patches, 2), jnp.int32),
        "mask_BTS": ((pictures, patches), jnp.bool_),
        "ids_BL": ((length,), jnp.int32),
        "visual_BL": ((length,), jnp.int32),
        "positions_BL3": ((length, 3), jnp.int32),
        "places_BA": ((ANSWER,), jnp.int32),
        "target_BA": ((ANSWER,), jnp.int32),
    }
    known = str(cfg.checkpoint) if is_there else "the released Qwen2-VL-7B"
    return TunedStep(model=model, known=known, task=CAPTIONS, arrays=arrays)
