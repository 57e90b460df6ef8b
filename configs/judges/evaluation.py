"""The judge that the report evaluates models with (section 5.1): people's ratings of all three dimensions.

Hardware: 8 x H200 (141 GB). Before it, VideoReward converted to judges/videoreward, and a manifest of ratings of VQ, MQ
and TA (docs/judges.md).

    python -m lcv_jax.train configs/judges/evaluation.py
"""

from configs.judges.common import DATA, judge
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.objectives.preferences import RatingRegression
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """Squared error to ratings from 1 to 5."""
    data = PreferencesConfig(path=DATA / "ratings.jsonl", held_out=0.02)
    return judge("evaluation", objective=RatingRegression(), data=data)
