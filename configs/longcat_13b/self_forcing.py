r"""Distillation of streams to 4 steps on the student's own rollouts (self-forcing), at 480p x 93.

Not in the report. Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, causal fine-tuning as an adapter, from which
the student starts; the weights below it, which saw whole clips, are the teacher. The clips are those of
cfg_distillation.py: encoded with the general negative prompt. Their captions and sizes are used, not their latents.

    python -m lcv_jax.train configs/longcat_13b/causal.py --adapter.name causal_lora --adapter.rank 128
    python -m lcv_jax.train configs/longcat_13b/self_forcing.py

Then 2 steps, from the student of 4, and a stream:

    python -m lcv_jax.train configs/longcat_13b/self_forcing.py --objective.num-steps 2 \
      --run outputs/longcat_13b/self_forcing_2 --checkpoint outputs/longcat_13b/self_forcing/weights \
      --adapter.start stream_lora
    python -m lcv_jax.generate stream outputs/longcat_13b/self_forcing/weights --prompt "..." --distilled \
      --num-steps 4 --output stream.mp4
"""

from configs.longcat_13b.published import DATA, VIDEO, adapter, sizes, stage, weights_of
from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.models.stream_window import StreamWindow
from lcv_jax.objectives.self_forcing import SelfForcing
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """One clip at a time on each four GPUs, with the keys and values of all its frames."""
    return stage(
        "self_forcing",
        checkpoint=weights_of("causal"),
        objective=SelfForcing(num_steps=4, window=StreamWindow(chunk=3, sink=3, ring=18), shift=12.0),
        data=DataConfig(
            path=DATA / "sft",
            sizes=sizes("480p", num_frames=(VIDEO,)),
            tasks=TaskShares(),
            weight_column="weight",
            caption_dropout=0.0,
        ),
        adapter=adapter("stream_lora", "causal_lora"),
        learning_rate=2e-5,
        steps=1_000,
        batch_size=64,
        accumulation=8,
        seq=4,
        warmup_steps=20,
        ema_decay=0.99,
    )
