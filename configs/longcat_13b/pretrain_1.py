"""Pretraining 1 of 5: images of 256p (report, table 3), from random weights.

Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, the released folder without its adapters, of which the
autoencoder, the text encoder and the transformer's config are used; and images, encoded in all of SIZES_256P
(published.py).

    python convert_torch_weights.py LongCat-Video weights --components dit,vae,text_encoder,tokenizer,scheduler
    python -m lcv_jax.encode images.parquet weights data/longcat/images_256p --sizes 1,192,608 1,224,512 1,256,448

    python -m lcv_jax.train configs/longcat_13b/pretrain_1.py
"""

from configs.longcat_13b.published import DATA, IMAGES, RELEASED, sizes_256p, stage
from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """32 images at a time on each GPU: 14,336 tokens."""
    return stage(
        "pretrain_1",
        checkpoint=RELEASED,
        from_scratch=True,
        objective=FlowMatching(),
        data=DataConfig(path=DATA / "images_256p", sizes=sizes_256p(IMAGES), tasks=TaskShares(t2i=1.0, t2v=0.0)),
        learning_rate=1e-4,
        steps=285_000,
        batch_size=2048,
        accumulation=2,
        warmup_steps=1000,
    )
