r"""Pretraining 2 of 5: images and videos of 256p x 93 (report, table 3).

Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, the stage before, and clips, whose first frames
are the images too, in all of SIZES_256P (published.py), of which these are three:

    python -m lcv_jax.encode clips.parquet weights data/longcat/256p --images-from-clips 1 \
        --sizes 93,192,608 93,224,512 93,256,448

    python -m lcv_jax.train configs/longcat_13b/pretrain_2.py
"""

from configs.longcat_13b.published import DATA, IMAGES, VIDEO, sizes_256p, stage, weights_of
from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """4 clips at a time on each GPU: 43,008 tokens."""
    return stage(
        "pretrain_2",
        checkpoint=weights_of("pretrain_1"),
        objective=FlowMatching(),
        data=DataConfig(path=DATA / "256p", sizes=sizes_256p(IMAGES, VIDEO), tasks=TaskShares(t2i=0.3, t2v=0.7)),
        learning_rate=1e-4,
        steps=140_000,
        batch_size=256,
        accumulation=2,
    )
