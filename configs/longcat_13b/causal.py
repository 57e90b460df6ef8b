"""Causal fine-tuning for streams: chunks of three latent frames after a clean history, at 480p x 93.

Not in the report. Hardware: 32 x H200 (141 GB), 4 hosts of 8. After fine-tuning, with the same clips:

    python -m lcv_jax.train configs/longcat_13b/causal.py

    python -m lcv_jax.generate stream outputs/longcat_13b/causal/weights --prompt "..." --output stream.mp4
"""

from configs.longcat_13b.published import DATA, VIDEO, sizes, stage, weights_of
from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.models.stream_window import StreamWindow
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """A clip's clean and noisy copy, 74,880 tokens, on four GPUs. Of longer clips it sees parts of that length."""
    return stage(
        "causal",
        checkpoint=weights_of("sft"),
        objective=CausalFlowMatching(chunk=3, window=StreamWindow(chunk=3, sink=3, ring=18)),
        data=DataConfig(
            path=DATA / "sft", sizes=sizes("480p", num_frames=(VIDEO,)), tasks=TaskShares(), weight_column="weight"
        ),
        learning_rate=2e-5,
        steps=6_000,
        batch_size=64,
        accumulation=8,
        seq=4,
    )
