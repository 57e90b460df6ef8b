"""What the toy stages share."""

import dataclasses
from pathlib import Path

from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.objectives.drawing import ConditionNoise, TimeShift
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.training.config import (
    CheckpointsConfig,
    LoggingConfig,
    Objective,
    OptimizerConfig,
    SamplesConfig,
    TrainConfig,
)

OUT = Path("outputs/toy")
SHIFT = 1.0
"""Of times, none: a clip has few latents, and little noise hides its shape."""
PROMPTS = (
    "a red circle moves slowly to the right over a striped grey background",
    "a blue square moves quickly up over a plain brown background",
    "a yellow triangle grows slowly over a dotted slate background",
    "a green cross moves quickly to the left over a checked mauve background",
)

FLOW_MATCHING = FlowMatching(shift=TimeShift(base=SHIFT, base_tokens=None), condition=ConditionNoise(max_level=0.2))


def stage(
    name: str,
    *,
    after: str,
    tasks: TaskShares,
    steps: int,
    learning_rate: float,
    batch_size: int = 16,
    objective: Objective = FLOW_MATCHING,
) -> TrainConfig:
    """A stage of the transformer on the encoded clips, from the weights of the one before."""
    return TrainConfig(
        run=OUT / name,
        checkpoint=OUT / after / "weights",
        objective=objective,
        data=DataConfig(
            path=OUT / "encoded", tasks=tasks, condition_latents=((2, 0.5), (3, 0.5)), max_sequence_length=24
        ),
        steps=steps,
        batch_size=batch_size,
        dtype="float32",
        remat="none",
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup_steps=100, ema_decay=0.998),
        checkpoints=CheckpointsConfig(every=500),
        logging=LoggingConfig(every=25),
        samples=SamplesConfig(every=1000, prompts=PROMPTS, num_frames=17, size=(64, 64), num_steps=25),
    )


def with_data(cfg: TrainConfig, **fields: object) -> TrainConfig:
    """A stage on other data."""
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **fields))  # type: ignore[arg-type]
