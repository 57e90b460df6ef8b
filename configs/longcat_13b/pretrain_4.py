"""Pretraining 4 of 5: all four tasks at 480p x 93 (report, table 3).

Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, the stage before, and clips, whose first frames
are the images:

    python -m lcv_jax.encode clips.parquet weights data/longcat/480p --images-from-clips 1 --resolutions 480p

    python -m lcv_jax.train configs/longcat_13b/pretrain_4.py
"""

from configs.longcat_13b.published import ALL_TASKS, DATA, sizes, stage, weights_of
from lcv_jax.data.config import DataConfig
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """One clip at a time on each GPU: 37,440 tokens."""
    return stage(
        "pretrain_4",
        checkpoint=weights_of("pretrain_3"),
        objective=FlowMatching(),
        data=DataConfig(path=DATA / "480p", sizes=sizes("480p"), tasks=ALL_TASKS),
        learning_rate=5e-5,
        steps=36_000,
        batch_size=128,
        accumulation=4,
    )
