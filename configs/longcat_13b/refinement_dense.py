r"""The refinement expert, an adapter for 720p x 93 or 189, with dense attention first (report, table 7).

Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, fine-tuning, and clips rich in texture, encoded with the degraded
versions that refinement starts from: of half the frame rate, and of the same.

    python -m lcv_jax.encode textured.parquet weights data/longcat/refinement --resolutions 720p \
        --granularity 64 --num-frames 93 189 --fps 30 --refine 480p,15 480p,30

    python -m lcv_jax.train configs/longcat_13b/refinement_dense.py
"""

from configs.longcat_13b.published import refinement, weights_of
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """One clip at a time on each four GPUs: 42,240 tokens a GPU at 704 x 1280 x 189."""
    return refinement("refinement_dense", checkpoint=weights_of("sft"), start=None, sparse=None)
