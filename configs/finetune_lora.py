"""Fine-tuning on your own clips: an adapter (LoRA) of the released model for a style, a character, a motion.

Hardware: 1 x H200 (141 GB); other cards: docs/finetune.md. Before it, a manifest of your clips, encoded:

    python -m lcv_jax.encode my/manifest.jsonl weights data/mine --resolutions 480p --num-frames 93

    python -m lcv_jax.train configs/finetune_lora.py --samples.prompts "a cat in my style" "a harbour in my style"
"""

from pathlib import Path

from lcv_jax.data.buckets import buckets
from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.training.config import (
    AdapterConfig,
    CheckpointsConfig,
    DevicesConfig,
    LoggingConfig,
    OptimizerConfig,
    SamplesConfig,
    TrainConfig,
    ValidationConfig,
)

STEPS = 1000


def get_config() -> TrainConfig:
    """Made for ten to a few hundred clips; a tenth of them is held out, to see when the adapter begins to memorise."""
    return TrainConfig(
        run=Path("outputs/finetune"),
        checkpoint=Path("weights"),
        objective=FlowMatching(),
        data=DataConfig(
            path=Path("data/mine"),
            sizes=tuple((93, *size) for size in buckets("480p", 32)),
            tasks=TaskShares(t2v=0.7, i2v=0.2, vc=0.1),
            held_out=0.1,
        ),
        steps=STEPS,
        batch_size=2,
        adapter=AdapterConfig(name="style", rank=32, alpha=32.0),
        remat="full",
        optimizer=OptimizerConfig(
            learning_rate=1e-4, warmup_steps=50, decay_steps=STEPS, ema_decay=0.99, accumulation=2
        ),
        devices=DevicesConfig(data=1, fsdp=-1),
        checkpoints=CheckpointsConfig(every=250),
        logging=LoggingConfig(every=5),
        samples=SamplesConfig(every=250, prompts=("a street in the rain",)),
        validation=ValidationConfig(every=100),
    )
