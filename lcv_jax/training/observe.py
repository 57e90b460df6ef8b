"""What a run shows of itself along the way: grids of samples, the loss on held-out clips, scores of a suite."""

from typing import Any

import jax
import numpy as np

from lcv_jax.array_types import Params
from lcv_jax.data.config import DataConfig
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.vae import WanVAE
from lcv_jax.pipeline import Pipeline
from lcv_jax.training.base import Base
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.evaluation import Evaluation
from lcv_jax.training.metrics import Metrics
from lcv_jax.training.probes import probes
from lcv_jax.training.samples import Sampler, grid, reconstructions
from lcv_jax.training.state import Frozen, TrainState, variables_of
from lcv_jax.training.step import Learner
from lcv_jax.training.validation import Validation
from lcv_jax.training.weights import choose, kept_weights


class Observer:
    """Looks at a state before the first step, and whenever the config says so; this is no part of a step's time."""

    def __init__(self, cfg: TrainConfig, learner: Learner, frozen: Frozen, base: Base, metrics: Metrics):
        """Opens the held-out clips and the judges, and encodes the prompts of samples and of the suite.

        Raises:
            OSError, ValueError: there are no such clips or no such suite, they do not suit the run, or a judge cannot
                be reached.
        """
        self._cfg, self._learner, self._frozen, self._metrics = cfg, learner, frozen, metrics
        self._validation = Validation(cfg, learner, learner.mesh, base) if cfg.validation.every else None
        self._sampler: Sampler | None = None
        self._evaluation: Evaluation | None = None
        if isinstance(base, Pipeline) and isinstance(cfg.data, DataConfig | PromptsConfig):
            if cfg.samples.every and cfg.network == "dit":
                self._sampler = Sampler(cfg.samples, base, cfg.data.max_sequence_length, cfg.samples.prompts)
            if cfg.evaluation.every:
                self._evaluation = Evaluation(cfg, base)
        self._reference: np.ndarray | None = None

    def validate(self, step: int, state: TrainState) -> None:
        """The loss on held-out clips, if it is due at this step, as it is at the last one.

        Raises:
            FloatingPointError: it is far above the one before the first step.
        """
        every = self._cfg.validation.every
        if self._validation is None or every is None or (step % every and step != self._cfg.steps):
            return
        jax.block_until_ready(state)
        with self._metrics.paused():
            found = self._validation.measure(state, choose(state, kept_weights(self._cfg)[0]), self._frozen)
            self._metrics.add_values(found, step)
        # Targets made by an average change along with the weights, and a judge's loss that doubles is overfitting.
        if self._cfg.network == "dit" and "average" not in self._cfg.objective.needs:
            self._metrics.check_validation(found["validation_loss"], step)

    def __call__(self, step: int, state: TrainState, batch: dict[str, Any]) -> None:
        """The samples and scores that are due at this step."""
        samples, evaluation = self._cfg.samples.every, self._cfg.evaluation.every
        evaluates = evaluation is not None and step % evaluation == 0
        shows = samples is not None and (step % samples == 0 or step == samples // 4)
        if not shows and not evaluates:
            return
        jax.block_until_ready(state)
        params = choose(state, kept_weights(self._cfg)[0])
        with self._metrics.paused():
            if shows:
                self._show(step, params, batch)
            if evaluates:
                self._evaluate(step, params)

    def close(self) -> None:
        """Stops reading held-out clips, and closes the judges."""
        for part in (self._validation, self._evaluation):
            if part is not None:
                part.close()

    def _evaluate(self, step: int, params: Params) -> None:
        assert self._evaluation is not None
        assert isinstance(self._learner.model, LongCatVideo)
        variables = variables_of(params, self._frozen, self._learner.adapted)
        with self._metrics.compiling("sampling of the suite", "evaluation"):
            found, failures = self._evaluation.scores(self._learner.model, variables)
        self._metrics.add_values({f"evaluation/{name}": value for name, value in found.items()}, step)
        if failures:
            reason = next(iter(failures.values()))
            self._metrics.note(f"step {step}: {len(failures)} videos of the suite have no score, such as: {reason}")

    def _show(self, step: int, params: Params, batch: dict[str, Any]) -> None:
        """RUN/samples/STEP.png: a row for each prompt, with the prompt above it.

        Of GRPO, above each video the reference model's; RUN/samples/STEP.json tells how they differ.
        """
        cfg, labels, model = self._cfg, list(self._cfg.samples.prompts), self._learner.model
        with self._metrics.compiling("sampling", "samples"):
            if self._sampler is None:
                assert isinstance(model, WanVAE)
                videos = reconstructions(model, params, batch["video_BTHWC"][: len(labels)])
                labels = ["original beside reconstruction"]
            else:
                assert isinstance(model, LongCatVideo)
                videos = self._sampler.videos(model, variables_of(params, self._frozen, self._learner.adapted))
        if isinstance(cfg.data, PromptsConfig):
            videos = self._beside_reference(videos, step)
            labels = [f"{text} (reference above, policy below)" for text in labels]
        self._metrics.add_image("samples", grid(videos, labels), step)

    def _beside_reference(self, videos: np.ndarray, step: int) -> np.ndarray:
        assert self._sampler is not None
        assert isinstance(self._learner.model, LongCatVideo)
        if self._reference is None:
            self._reference = self._sampler.videos(self._learner.model, {"params": self._frozen.params})
        found = {"policy": probes(videos), "reference": probes(self._reference)}
        self._metrics.add_probes(found, step)
        return np.stack([self._reference, videos], axis=1).reshape(-1, *videos.shape[1:])
