"""What the reward models of a GRPO config need: memory and time of scoring a rollout, on the policy's GPUs and apart.

The scoring program is rewards/judge.py's own: each GPU has all weights and scores rows of its own. A row is a frame, or
a video, with all of its captions.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lcv_jax.array_types import PyTree
from lcv_jax.checkpoint import convert
from lcv_jax.checkpoint.judge_names import judge_table
from lcv_jax.checkpoint.judge_source import HPSV3_PIXELS, VIDEO_MIN_PIXELS
from lcv_jax.config import Qwen2VisionConfig, Qwen2VLConfig
from lcv_jax.data.config import Size
from lcv_jax.gpus import GPU
from lcv_jax.models.flops import qwen2_vl_flops
from lcv_jax.models.judges import HPSV3, VIDEOREWARD, JudgeConfig, JudgeNetwork
from lcv_jax.models.qwen2_vision import MERGED
from lcv_jax.models.qwen2_vl import Branches
from lcv_jax.parallel.mesh import AXES
from lcv_jax.planning.compiling import Machine, compile_program
from lcv_jax.planning.report import gigabytes
from lcv_jax.planning.training import TrainingStage, count_of
from lcv_jax.rewards import hpsv3, videoreward
from lcv_jax.rewards.config import RewardSource
from lcv_jax.rewards.judge import BATCH_SIZE, score_packed
from lcv_jax.rewards.judge_batches import END_TOKENS, TOKENS, Shape, bucket
from lcv_jax.rewards.judge_rewards import VIDEO_REWARDS, folders_of
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.judges import JudgeBase

FACTORIES = {f"lcv_jax.rewards.judge_rewards:{kind}": kind for kind in (HPSV3, VIDEOREWARD)}
SEVEN_B = Qwen2VLConfig(
    vision_config=Qwen2VisionConfig(hidden_size=3584), hidden_size=3584, intermediate_size=18944,
    num_attention_heads=28, num_key_value_heads=4, vocab_size=152064,
)  # fmt: skip


def _released(kind: str, network: Qwen2VLConfig, num_embeddings: int, head_widths: tuple[int, ...]) -> JudgeConfig:
    return JudgeConfig(
        kind=kind,
        network=network,
        num_embeddings=num_embeddings,
        head_widths=head_widths,
        before_picture="",
        before_caption="",
        after_caption="",
        min_pixels=HPSV3_PIXELS if kind == HPSV3 else VIDEO_MIN_PIXELS,
        max_pixels=HPSV3_PIXELS,
    )


RELEASED = {
    HPSV3: _released(HPSV3, SEVEN_B, 151658, (1024, 16, 2)),
    VIDEOREWARD: _released(VIDEOREWARD, Qwen2VLConfig(vision_config=Qwen2VisionConfig(hidden_size=1536)), 151660, (1,)),
}
"""What is planned where the config's folder is not there."""
TEMPLATE_TOKENS = {HPSV3: 576, VIDEOREWARD: 900}
"""Of the published prompts without a tokenizer: their characters over 4.5."""
CAPTION_TOKENS = 4 * END_TOKENS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging:
    """A reward model's work for one rollout."""

    kind: str
    judge: JudgeConfig
    shape: Shape
    """Of a row."""
    rows: int
    """Of a rollout."""
    batch: int
    """Rows of a program on one GPU."""
    dtype: str
    here: bool
    """On the policy's GPUs."""

    @property
    def flops(self) -> float:
        """Of all rows."""
        return self.rows * _flops(self.judge, self.shape)

    @property
    def unshared_flops(self) -> float:
        """Of all rows, if every caption were computed from the beginning."""
        alone = self.shape._replace(ends=1)
        return self.rows * self.shape.ends * _flops(self.judge, alone)

    @property
    def weight_bytes(self) -> int:
        """On each of its GPUs."""
        return count_of(_params(self, None)) * jnp.dtype(self.dtype).itemsize

    def describe(self, gpu: GPU, num_gpus: int) -> str:
        """Its cost in words, on the policy's GPUs and on one apart."""
        what, peak = "frames" if self.kind == HPSV3 else "videos", gpu.speed.bf16_flops
        visual = self.shape.pictures * self.shape.patches // MERGED
        here = f"{self.flops / peak / num_gpus:.3g} s on these {num_gpus} GPUs, " if self.here else ""
        text = (
            f"{self.kind} scores {self.rows:,} {what} a rollout, {visual} visual tokens and "
            f"{self.shape.length - visual} of prompts each, {self.flops / 1e15:,.1f} PFLOP: at least {here}"
            f"{self.flops / peak:,.0f} s on one GPU apart; {gigabytes(self.weight_bytes)} of weights on each"
        )
        if self.shape.ends < 2:
            return f"{text}."
        return f"{text}. If captions did not share picture and rubric: {self.unshared_flops / peak:,.0f} s on one GPU."


def judgings(cfg: TrainConfig, size: Size) -> list[Judging]:
    """The reward models of a config that run in its processes.

    Args:
        cfg: of GRPO.
        size: of the videos.

    Raises:
        ValueError: a reward model's folder is damaged.
    """
    if cfg.rollout is None:
        return []
    videos = cfg.rollout.prompts * cfg.rollout.group_size
    found = []
    for source in cfg.rollout.rewards.sources:
        if (kind := FACTORIES.get(source.factory)) is None:
            continue
        options = dict(source.options)
        times, ends = _work(source, kind, size[0])
        for folder in folders_of(str(options["folder"])):
            judge, template = judge_of(Path(folder), kind)
            found.append(
                Judging(
                    kind=kind,
                    judge=judge,
                    shape=row_shape(judge, size, cfg.rollout.fps, template, ends),
                    rows=videos * times,
                    batch=int(options.get("batch_size", BATCH_SIZE)),
                    dtype=str(options.get("dtype", "float32")),
                    here=options.get("devices", "") in ("", "local"),
                )
            )
    return found


def costs(cfg: TrainConfig, size: Size, gpu: GPU, num_gpus: int) -> tuple[str, ...]:
    """What a config's reward models cost, a sentence each."""
    return tuple(work.describe(gpu, num_gpus) for work in judgings(cfg, size))


def with_weights(stages: Sequence[TrainingStage], cfg: TrainConfig, size: Size) -> list[TrainingStage]:
    """Programs with the weights of the reward models that lie on the policy's GPUs all the time."""
    held = sum(work.weight_bytes for work in judgings(cfg, size) if work.here)
    more = {"judges": held} if held else {}
    return [dataclasses.replace(stage, resident_bytes={**stage.resident_bytes, **more}) for stage in stages]


def compile_judgings(cfg: TrainConfig, size: Size, machine: Machine, rollout: TrainingStage) -> list[TrainingStage]:
    """The scoring programs on the policy's GPUs; a share is how often all GPUs run one for an optimiser step.

    Args:
        cfg: of GRPO.
        size: of the videos.
        machine: the policy's.
        rollout: a program of the rollout, beside whose parameters these are.

    Raises:
        jax.errors.JaxRuntimeError: the compiler refuses one.
    """
    assert cfg.rollout is not None
    videos = cfg.rollout.prompts * cfg.rollout.group_size
    rollouts_a_step = cfg.batch_size / (videos * cfg.rollout.passes)
    resident = {name: size for name, size in rollout.resident_bytes.items() if name != "encoders"}
    return [_compiled(work, machine, rollouts_a_step, resident) for work in judgings(cfg, size) if work.here]


def _compiled(work: Judging, machine: Machine, rollouts_a_step: float, resident: Mapping[str, int]) -> TrainingStage:
    assert machine.mesh is not None
    network = JudgeNetwork(work.judge, jnp.dtype(work.dtype), jnp.dtype(work.dtype))
    params, arguments = _shapes(work, machine.mesh)
    memory_of = compile_program(score_packed, (network, params, arguments), {}, machine)
    memory, rows = memory_of.memory, work.batch * machine.mesh.size
    flops = rows * _flops(work.judge, work.shape)
    inputs = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(arguments)) // machine.mesh.size
    return TrainingStage(
        name=f"score {work.kind}",
        task="rollout",
        share=rollouts_a_step * work.rows / rows,
        times=1,
        resident_bytes=dict(resident),
        argument_bytes=memory.argument_size_in_bytes,
        input_bytes=inputs,
        output_bytes=memory.output_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        cache_bytes=0,
        gradient_bytes=0,
        host_bytes=0,
        host_traffic_bytes=0,
        largest=memory_of.largest,
        collectives=[],
        flops=flops,
        flops_by_part={},
        model_flops=flops,
        shares=machine.mesh.size,
        moved_bytes=work.weight_bytes + inputs,
    )


def judge_of(folder: Path, kind: str) -> tuple[JudgeConfig, int]:
    """The reward model, and the tokens of its prompt without the caption."""
    if not folder.is_dir():
        return RELEASED[kind], TEMPLATE_TOKENS[kind]
    conversation = JudgeBase.open(folder).conversation
    return conversation.cfg, len(conversation.opening) + len(conversation.prompt("").ids)


def _work(source: RewardSource, kind: str, frames: int) -> tuple[int, int]:
    """Rows of a video, and captions of a row."""
    names = dict(source.options).get("rewards") or ",".join(name for name, _ in source.weights)
    chosen = [name.strip() for name in str(names).split(",")]
    if kind == HPSV3:
        return frames, len(chosen)
    return len({VIDEO_REWARDS[name][1] for name in chosen}), 1


def row_shape(judge: JudgeConfig, size: Size, fps: float, template: int, ends: int) -> Shape:
    """The buckets of a row."""
    frames, height, width = size
    if judge.kind == HPSV3:
        pictures, rows, columns = hpsv3.picture_grid((height, width), judge)
    else:
        pictures, rows, columns = videoreward.video_grid((frames, height, width), fps, judge)
    visual = pictures * rows * columns // MERGED
    return Shape(
        pictures=bucket(pictures),
        patches=MERGED * bucket(rows * columns // MERGED),
        begun=bucket(template + visual, TOKENS),
        ends=bucket(ends),
        end=CAPTION_TOKENS,
    )


def _flops(judge: JudgeConfig, shape: Shape) -> float:
    own = {"ends": shape.ends, "end": shape.end}
    return qwen2_vl_flops(judge.network, pictures=shape.pictures, patches=shape.patches, begun=shape.begun, **own)


def _params(work: Judging, place: Any) -> PyTree:
    tree: dict[str, Any] = {}
    for leaf in judge_table(work.judge):
        convert.place(tree, leaf.path, jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(work.dtype), sharding=place))
    return tree


def _shapes(work: Judging, mesh: Mesh) -> tuple[PyTree, dict[str, Any]]:
    """Parameters, whole on every GPU, and arguments of the scoring program, whose rows are split over all."""
    rows = work.batch * mesh.size
    split, whole = NamedSharding(mesh, PartitionSpec(AXES)), NamedSharding(mesh, PartitionSpec())
    arguments: dict[str, Any] = {
        name: jax.ShapeDtypeStruct((rows, *sizes), dtype, sharding=split)
        for name, (sizes, dtype) in argument_shapes(work.judge, work.shape).items()
    }
    arguments["branches"] = Branches(begun_BP=arguments.pop("begun_BP"), num_ends=work.shape.ends)
    return _params(work, whole), arguments


def argument_shapes(judge: JudgeConfig, shape: Shape) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The arguments of `JudgeNetwork` for one row, by name: sizes and type."""
    return {
        "patches_BTSC": ((shape.pictures, shape.patches, judge.network.vision_config.patch_features), jnp.uint8),
        "cells_BS2": ((shape.patches, 2), jnp.int32),
        "mask_BTS": ((shape.pictures, shape.patches), jnp.bool_),
        "ids_BL": ((shape.length,), jnp.int32),
        "visual_BL": ((shape.length,), jnp.int32),
        "positions": ((shape.length,), jnp.int32),
        "begun_BP": ((shape.begun,), jnp.bool_),
        "reward_BQR": ((shape.ends, len(judge.reward_tokens)), jnp.int32),
    }
