"""Scores of a suite's videos along the way: measures without weights, and judges."""

from collections.abc import Sequence

import jax
import numpy as np

from lcv_jax.array_types import Params
from lcv_jax.data.config import DataConfig
from lcv_jax.data.frames import evenly
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.evaluation.measures import measure_clip
from lcv_jax.evaluation.suite_sampling import video_seed
from lcv_jax.evaluation.suites import Item, read_suite
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.pipeline import Pipeline
from lcv_jax.rewards.collect import score_all
from lcv_jax.rewards.config import open_reward
from lcv_jax.rewards.protocol import Reward
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.observe_config import EvaluationConfig
from lcv_jax.training.samples import Sampler


def chosen_items(cfg: EvaluationConfig) -> list[Item]:
    """The prompts of the suite that a run samples.

    Raises:
        OSError: there is no such suite.
        ValueError: it is damaged, or has no prompt for text-to-video.
    """
    items = [item for item in read_suite(cfg.suite).items if not item.image]
    if not items:
        raise ValueError(f"evaluation.suite {cfg.suite} has no text-to-video prompts")
    return [items[place] for place in evenly(len(items), cfg.num_prompts)]


class Evaluation:
    """Samples the suite and scores it; judges are asked by the first process alone."""

    def __init__(self, cfg: TrainConfig, pipeline: Pipeline):
        """Encodes the prompts and opens the judges.

        Raises:
            OSError, ValueError: no such suite, or a judge that cannot be reached.
        """
        assert isinstance(cfg.data, DataConfig | PromptsConfig)
        self._cfg, items = cfg.evaluation, chosen_items(cfg.evaluation)
        self._prompts = [item.prompt for item in items]
        size = min(self._cfg.batch, len(items))
        self._samplers = []
        for first in range(0, len(items), size):
            part = items[first : first + size]
            part += part[-1:] * (size - len(part))  # one program serves all
            seeds = [video_seed(cfg.samples.seed, item.id, 0) for item in part]
            texts = [item.prompt for item in part]
            self._samplers.append(Sampler(cfg.samples, pipeline, cfg.data.max_sequence_length, texts, seeds))
        self._judges: list[Reward] = []
        if jax.process_index() == 0:
            self._judges = [open_reward(source) for source in self._cfg.judges]

    def scores(self, model: LongCatVideo, variables: Params) -> tuple[dict[str, float], dict[int, str]]:
        """Means over the videos by name, and the videos (numbers) that a judge gave no score, with reasons.

        Other processes than the first get no scores.
        """
        parts = [sampler.videos(model, variables) for sampler in self._samplers]
        if jax.process_index() > 0:
            return {}, {}
        videos_BTHWC = np.concatenate(parts)[: len(self._prompts)]
        rows = [measure_clip(video, self._cfg.fps) for video in videos_BTHWC]
        found = {f"measures/{name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}
        if not self._judges:
            return found, {}
        judged = score_all(self._judges, videos_BTHWC, self._prompts, self._cfg.fps)
        means = {f"judges/{name}": _mean(values) for name, values in judged.values.items()}
        return found | {name: mean for name, mean in means.items() if mean is not None}, dict(judged.failures)

    def close(self) -> None:
        """Closes the judges."""
        for judge in self._judges:
            getattr(judge, "close", lambda: None)()


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    """Of those that are there."""
    finite = [float(value) for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None
