"""Toy causal fine-tuning for streams: chunks of one latent frame after a clean history.

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py:

    python -m lcv_jax.train configs/toy/causal.py
"""

import dataclasses

from configs.toy.common import FLOW_MATCHING, stage, with_data
from lcv_jax.data.config import TaskShares
from lcv_jax.models.stream_window import StreamWindow
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """All weights; clips of five latent frames: a stream's sink of 1, ring of 3 and chunk of 1."""
    objective = CausalFlowMatching(
        chunk=1,
        window=StreamWindow(chunk=1, sink=1, ring=3),
        shift=FLOW_MATCHING.shift,
        condition=FLOW_MATCHING.condition,
    )
    cfg = stage(
        "causal",
        after="sft",
        tasks=TaskShares(t2v=1.0),
        steps=1000,
        learning_rate=2e-4,
        objective=objective,
    )
    cfg = dataclasses.replace(cfg, samples=dataclasses.replace(cfg.samples, every=None))
    return with_data(cfg, weight_column="weight")
