"""The text alignment judge of the report (section 3.3.2): pairs of videos in colour, from VideoReward's weights.

Hardware: 8 x H200 (141 GB). Before it, VideoReward converted to judges/videoreward, and a manifest of pairs with labels
of TA (docs/judges.md).

    python -m lcv_jax.train configs/judges/text_alignment.py
"""

from configs.judges.common import DATA, judge
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.objectives.preferences import PairPreference
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """Bradley-Terry with ties, on text alignment alone."""
    data = PreferencesConfig(path=DATA / "alignment.jsonl", dimensions=("TA",), held_out=0.02)
    return judge("text_alignment", objective=PairPreference(), data=data)
