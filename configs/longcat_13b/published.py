"""What the stages share: how the 13.6B model is trained (report section 4), and what was decided where it is silent.

The report gives tasks, sizes, learning rates, iterations, AdamW, adapters, and ZeRO-2 with context parallelism. Not in
it, and so decided here: batch sizes, shares of tasks, moments, weight decay, warm-up, clipping, averages, the buckets
of 256p, and how all lies on GPUs of 141 GB:

- The GPUs of a host keep parameters, gradients, moments and averages in parts (sharding "full"); between hosts only
  gradients travel. ZeRO-2 keeps 54 GB of float32 parameters on every GPU: `--devices.sharding zero_2`.
- Attention is kept for the backward pass and all else computed again. `--remat offload` needs far less memory.
- More hosts make more groups: the batch stays, `--optimizer.accumulation` shrinks with their number.
"""

from pathlib import Path

from lcv_jax.config import BlockSparseConfig
from lcv_jax.data.buckets import buckets
from lcv_jax.data.config import DataConfig, Size, TaskShares
from lcv_jax.objectives.refinement import Refinement
from lcv_jax.training.config import (
    AdapterConfig,
    CheckpointsConfig,
    DevicesConfig,
    Objective,
    OptimizerConfig,
    TrainConfig,
)

RELEASED = Path("weights")
"""The released folder, converted."""
RUNS = Path("outputs/longcat_13b")
DATA = Path("data/longcat")
PER_HOST = 8

IMAGES, VIDEO, TWICE_THE_RATE = 1, 93, 189
ALL_TASKS = TaskShares(t2i=0.2, t2v=0.4, i2v=0.2, vc=0.2)
"""Image to video and continuation begin from what text to video learnt: half of the videos have no condition."""

SIZES_256P = (
    (192, 608), (224, 512), (256, 448), (288, 384), (320, 352), (352, 320), (384, 288), (448, 256), (512, 224),
    (608, 192),
)  # fmt: skip
"""There is no published table of 256p: these are 480p's shapes around the area of 256 x 448."""


def sizes_256p(*num_frames: int) -> tuple[Size, ...]:
    """Buckets of 256p."""
    return tuple((frames, *size) for frames in num_frames for size in SIZES_256P)


def sizes(*resolutions: str, num_frames: tuple[int, ...] = (IMAGES, VIDEO), granularity: int = 32) -> tuple[Size, ...]:
    """The published buckets."""
    return tuple(
        (frames, *size) for name in resolutions for frames in num_frames for size in buckets(name, granularity)
    )


def weights_of(stage: str) -> Path:
    """Where a run leaves what the next stage starts from."""
    return RUNS / stage / "weights"


def on_hosts(seq: int = 1) -> DevicesConfig:
    """State in parts over the GPUs of a host, `seq` of which share the tokens of a sample; any number of hosts."""
    return DevicesConfig(data=-1, fsdp=PER_HOST // seq, seq=seq, sharding="full")


def stage(
    name: str,
    *,
    checkpoint: Path,
    objective: Objective,
    data: DataConfig,
    learning_rate: float,
    steps: int,
    batch_size: int,
    accumulation: int,
    seq: int = 1,
    warmup_steps: int = 100,
    ema_decay: float = 0.9999,
    **fields: object,
) -> TrainConfig:
    """A stage of the report.

    Args:
        seq: GPUs that share the tokens of a sample.
        fields: further ones of TrainConfig.
    """
    return TrainConfig(
        run=RUNS / name,
        checkpoint=checkpoint,
        objective=objective,
        data=data,
        steps=steps,
        batch_size=batch_size,
        optimizer=OptimizerConfig(
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            accumulation=accumulation,
            ema_decay=ema_decay,
        ),
        devices=on_hosts(seq),
        checkpoints=CheckpointsConfig(every=min(500, steps // 2), keep=3),
        **fields,  # type: ignore[arg-type]
    )


def adapter(name: str, start: str | None = None) -> AdapterConfig:
    """As published: rank 128, alpha 64."""
    return AdapterConfig(name=name, rank=128, alpha=64.0, start=start)


def distillation(
    name: str, *, checkpoint: Path, start: str | None, objective: Objective, steps: int, ema_decay: float
) -> TrainConfig:
    """A stage of distillation. Captions are kept: the student will always have one."""
    return stage(
        name,
        checkpoint=checkpoint,
        objective=objective,
        data=DataConfig(
            path=DATA / "sft",
            sizes=sizes("480p", "720p"),
            tasks=ALL_TASKS,
            weight_column="weight",
            caption_dropout=0.0,
        ),
        adapter=adapter("cfg_step_lora", start),
        learning_rate=5e-5,
        steps=steps,
        batch_size=64,
        accumulation=4,
        seq=2,
        ema_decay=ema_decay,
    )


def refinement(name: str, *, checkpoint: Path, start: str | None, sparse: BlockSparseConfig | None) -> TrainConfig:
    """A stage of the refinement expert: both differ in attention alone.

    A later segment of a long video is refined with 13 or 26 frames of the one before, in blocks of four latent frames.
    """
    return stage(
        name,
        checkpoint=checkpoint,
        objective=Refinement(t_thresh=0.5),
        data=DataConfig(
            path=DATA / "refinement",
            sizes=sizes("720p", num_frames=(VIDEO, TWICE_THE_RATE), granularity=64),
            tasks=TaskShares(t2v=0.0, refine=1.0),
            refine_condition_latents=((0, 0.5), (4, 0.25), (8, 0.25)),
        ),
        adapter=adapter("refinement_lora", start),
        sparse=sparse,
        learning_rate=5e-5,
        steps=500,
        batch_size=32,
        accumulation=4,
        seq=4,
        warmup_steps=20,
        ema_decay=0.99,
    )
