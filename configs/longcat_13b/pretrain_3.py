r"""Pretraining 3 of 5: all four tasks at 256p x 93 (report, table 3).

Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, the stage before, and clips, whose first frames
are the images too, in all of SIZES_256P (published.py), of which these are three:

    python -m lcv_jax.encode clips.parquet weights data/longcat/256p --images-from-clips 1 \
        --sizes 93,192,608 93,224,512 93,256,448

    python -m lcv_jax.train configs/longcat_13b/pretrain_3.py
"""

from configs.longcat_13b.published import ALL_TASKS, DATA, IMAGES, VIDEO, sizes_256p, stage, weights_of
from lcv_jax.data.config import DataConfig
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """4 clips at a time on each GPU: 43,008 tokens."""
    return stage(
        "pretrain_3",
        checkpoint=weights_of("pretrain_2"),
        objective=FlowMatching(),
        data=DataConfig(path=DATA / "256p", sizes=sizes_256p(IMAGES, VIDEO), tasks=ALL_TASKS),
        learning_rate=5e-5,
        steps=164_000,
        batch_size=256,
        accumulation=2,
    )
