r"""Toy distillation of streams to 4 steps on the student's own rollouts (self-forcing).

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py and, as an adapter, configs/toy/causal.py:

    python -m lcv_jax.train configs/toy/causal.py --adapter.name causal_lora --adapter.rank 32 --adapter.alpha 16 \
      --optimizer.learning-rate 1e-3
    python -m lcv_jax.train configs/toy/self_forcing.py

Then 2 steps, from the student of 4:

    python -m lcv_jax.train configs/toy/self_forcing.py --objective.num-steps 2 --run outputs/toy/self_forcing_2 \
      --checkpoint outputs/toy/self_forcing/weights --adapter.start stream_lora
"""

import dataclasses

from configs.toy.common import SHIFT, stage, with_data
from lcv_jax.data.config import TaskShares
from lcv_jax.models.stream_window import StreamWindow
from lcv_jax.objectives.self_forcing import SelfForcing
from lcv_jax.training.config import AdapterConfig, TrainConfig


def get_config() -> TrainConfig:
    """The student starts from the causal adapter, which is the teacher too."""
    cfg = stage(
        "self_forcing",
        after="causal",
        tasks=TaskShares(t2v=1.0),
        steps=300,
        learning_rate=5e-4,
    )
    cfg = dataclasses.replace(
        cfg,
        objective=SelfForcing(
            teacher="chunks", num_steps=4, window=StreamWindow(chunk=1, sink=1, ring=3), shift=SHIFT, fake_updates=3
        ),
        adapter=AdapterConfig(name="stream_lora", rank=32, alpha=16.0, start="causal_lora", teacher="causal_lora"),
        optimizer=dataclasses.replace(cfg.optimizer, warmup_steps=20, ema_decay=0.98),
        samples=dataclasses.replace(cfg.samples, every=None),
    )
    return with_data(cfg, weight_column="weight", caption_dropout=0.0)
