"""Fine-tunes Qwen2-VL-7B as a captioner on clips with captions of your own (report section 2.1.2).

Hardware: one H200 (141 GB), by arithmetic: 17 GB of frozen bfloat16 weights, 3 GB of the adapter's float32 weights,
average, gradients and moments, and what is kept for the backward pass. Before it, the published model converted to
captioners/qwen2_vl_7b, and a manifest of clips with captions (docs/captioning.md).

    python convert_torch_weights.py Qwen2-VL-7B-Instruct captioners/qwen2_vl_7b --dtype bfloat16
    python -m lcv_jax.train configs/captioner.py --data.path captions.jsonl
"""

from pathlib import Path

from lcv_jax.captioning.pairs import CaptionsConfig
from lcv_jax.objectives.next_token import NextToken
from lcv_jax.training.config import (
    AdapterConfig,
    CheckpointsConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)


def get_config() -> TrainConfig:
    """LoRA on the text model; `--train-vision True` trains the vision tower as well, in full."""
    return TrainConfig(
        run=Path("outputs/captioner"),
        checkpoint=Path("captioners/qwen2_vl_7b"),
        objective=NextToken(),
        data=CaptionsConfig(path=Path("captions.jsonl"), held_out=0.02),
        steps=2000,
        batch_size=32,
        remat="full",
        adapter=AdapterConfig(name="captioner", rank=64, alpha=128.0),
        optimizer=OptimizerConfig(
            learning_rate=1e-4, warmup_steps=100, decay_steps=2000, weight_decay=0.0, ema_decay=0.999, accumulation=32
        ),
        checkpoints=CheckpointsConfig(every=200),
        validation=ValidationConfig(every=100, batches=16),
    )
