r"""Pretraining 5 of 5: all four tasks at 480p and 720p x 93 (report, table 3).

Hardware: 128 x H200 (141 GB), 16 hosts of 8. Before it, the stage before, and clips, whose first frames
are the images:

    python -m lcv_jax.encode clips.parquet weights data/longcat/480p_720p --images-from-clips 1 \
        --resolutions 480p 720p

    python -m lcv_jax.train configs/longcat_13b/pretrain_5.py
"""

from configs.longcat_13b.published import ALL_TASKS, DATA, sizes, stage, weights_of
from lcv_jax.data.config import DataConfig
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """One clip at a time on each two GPUs: 42,240 tokens a GPU at 704 x 1280."""
    return stage(
        "pretrain_5",
        checkpoint=weights_of("pretrain_4"),
        objective=FlowMatching(),
        data=DataConfig(path=DATA / "480p_720p", sizes=sizes("480p", "720p"), tasks=ALL_TASKS),
        learning_rate=2e-5,
        steps=53_000,
        batch_size=128,
        accumulation=2,
        seq=2,
    )
