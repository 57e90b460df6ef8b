"""The motion judge of the report (section 3.3.2): pairs of videos without colour, from VideoReward's weights.

Hardware: 8 x H200 (141 GB). Before it, VideoReward converted to judges/videoreward, and a manifest of pairs with labels
of MQ (docs/judges.md).

    python -m lcv_jax.train configs/judges/motion_quality.py
"""

from configs.judges.common import DATA, judge
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.objectives.preferences import PairPreference
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """Bradley-Terry with ties, on motion quality alone."""
    data = PreferencesConfig(path=DATA / "motion.jsonl", dimensions=("MQ",), grayscale=True, held_out=0.02)
    return judge("motion_quality", objective=PairPreference(), data=data)
