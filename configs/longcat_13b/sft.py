"""Supervised fine-tuning on chosen clips of 480p and 720p x 93 (report, table 4).

Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, pretraining, and filtered clips with a column "weight": the
inverse of how dense a clip's caption lies among the others in an embedding space (report, section 4.1).

    python -m lcv_jax.encode chosen.parquet weights data/longcat/sft --images-from-clips 1 --resolutions 480p 720p

    python -m lcv_jax.train configs/longcat_13b/sft.py
"""

from configs.longcat_13b.published import ALL_TASKS, DATA, sizes, stage, weights_of
from lcv_jax.data.config import DataConfig
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """One clip at a time on each two GPUs."""
    return stage(
        "sft",
        checkpoint=weights_of("pretrain_5"),
        objective=FlowMatching(),
        data=DataConfig(path=DATA / "sft", sizes=sizes("480p", "720p"), tasks=ALL_TASKS, weight_column="weight"),
        learning_rate=1e-5,
        steps=7_500,
        batch_size=64,
        accumulation=4,
        seq=2,
    )
