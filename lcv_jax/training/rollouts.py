"""Batches of GRPO, which the policy makes itself: groups of videos, their rewards, and what is learnt from them.

A rollout takes `prompts` captions in parts. While the videos of one part are scored, the next is sampled; then come
advantages over all of them, and batches for the step. All processes sample together, each scores a share of the videos,
and all know all scores.
"""

import collections
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lcv_jax.array_types import Array, Float, Params
from lcv_jax.data.batches import BatchKind
from lcv_jax.data.frames import to_uint8
from lcv_jax.data.identity import Row
from lcv_jax.data.prompts import Prompts, PromptsConfig
from lcv_jax.diffusion import schedule as schedules
from lcv_jax.objectives.grpo import GRPO, advantages
from lcv_jax.parallel.sharding import batch_sharding
from lcv_jax.pipeline import Pipeline
from lcv_jax.rewards.config import open_rewards
from lcv_jax.sampling.denoise import decode_latents
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.console import PARTS, REWARD
from lcv_jax.training.inputs import check_batch_size
from lcv_jax.training.rollout import Rollout, policy_rollout
from lcv_jax.training.state import Frozen, TrainState
from lcv_jax.training.step import Learner

KIND = BatchKind("grpo", 0)


class Rollouts:
    """An endless iterator over batches; each depends on the policy at the start of its rollout."""

    def __init__(self, cfg: TrainConfig, mesh: Mesh, pipeline: Pipeline, learner: Learner):
        """Reads captions and finds the rewards.

        Raises:
            ValueError: no captions, sizes that do not fit, a reward that is not there.
        """
        assert cfg.rollout is not None
        assert isinstance(cfg.data, PromptsConfig)
        assert isinstance(cfg.objective, GRPO)
        _check_batches(cfg, mesh)
        self._cfg, self._rollout, self._data, self._objective = cfg, cfg.rollout, cfg.data, cfg.objective
        self._mesh, self._pipeline, self._learner = mesh, pipeline, learner
        self._prompts = Prompts(cfg.data, cfg.rollout.prompts, cfg.seed)
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._schedule = jnp.asarray(schedules.uniform(cfg.rollout.num_steps, cfg.rollout.shift), jnp.float32)
        negative = pipeline.encode_text([cfg.data.negative_prompt], cfg.data.max_sequence_length)
        self._negative = tuple(jax.device_put(each, self._whole) for each in negative)
        self._scorer = open_rewards(cfg.rollout.rewards)
        self._weights = cfg.rollout.rewards.weights
        self._number = 0
        self._waiting: collections.deque[dict[str, Array]] = collections.deque()
        self.told: dict[str, float] = {}
        self.quarantined: dict[str, str] = {}

    @property
    def kinds(self) -> list[tuple[BatchKind, tuple[int, int, int]]]:
        """The kind of batch, with every size of its videos."""
        return [(KIND, size) for size in self._prompts.sizes]

    @property
    def at_rest(self) -> bool:
        """Whether the next batch begins a rollout: only then can a checkpoint say where this stands."""
        return not self._waiting

    def next(self, state: TrainState, frozen: Frozen) -> tuple[BatchKind, dict[str, Array]]:
        """The next batch, of the last rollout or of a new one by this state's policy."""
        if self._waiting:
            self.told = {name: 0.0 if name.startswith(PARTS) else value for name, value in self.told.items()}
        else:
            self._waiting.extend(self._roll(state.params, frozen))
            self._number += 1
        return KIND, self._waiting.popleft()

    def get_state(self) -> dict[str, Any]:
        """How many rollouts are done."""
        return {"rollouts": self._number}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on after so many."""
        self._number = int(state["rollouts"])
        self._waiting.clear()

    def rows(self, known: Mapping[str, Row]) -> Sequence[Row]:
        """The captions, as data/identity.py compares them."""
        return [{"id": f"caption {number}", "text": text} for number, text in enumerate(self._prompts.captions)]

    def close(self) -> None:
        """Ends what scores."""
        self._scorer.close()

    def _roll(self, params: Params, frozen: Frozen) -> list[dict[str, Array]]:
        cfg, times = self._rollout, _Times()
        prompts, (frames, height, width) = self._prompts.at(self._number)
        shape = self._pipeline.latent_shape(frames, height, width)
        with times("rollout"):
            text_PLD, mask_PL = self._pipeline.encode_text(prompts, self._data.max_sequence_length)
        parts: list[tuple[Rollout, Array, Array]] = []
        scored: list[Future] = []
        for first in range(0, len(prompts), cfg.prompts_at_once):
            part = slice(first, first + cfg.prompts_at_once)
            with times("rollout"):
                text, mask = self._placed(text_PLD[part]), self._placed(mask_PL[part])
                found = self._sample(params, frozen, shape, text, mask, first)
                videos_BTHWC = self._decode(found.latents_BTHWC)
            everyone = [prompt for prompt in prompts[part] for _ in range(cfg.group_size)]
            scored.append(self._scorer.submit(videos_BTHWC[self._own], [everyone[at] for at in self._own], cfg.fps))
            parts.append((found, text, mask))
        with times("reward"):
            scores = self._gathered([future.result() for future in scored])
        total_PG, kept_P, self.told = judged(scores, self._weights, cfg.group_size, cfg.spread)
        self.told |= {f"{PARTS}{name}": seconds for name, seconds in times.seconds.items()}
        samples = [
            self._samples(
                *part, total_PG[first : first + cfg.prompts_at_once], kept_P[first : first + cfg.prompts_at_once]
            )
            for part, first in zip(parts, range(0, len(prompts), cfg.prompts_at_once), strict=True)
        ]
        whole = {name: jnp.concatenate([sample[name] for sample in samples]) for name in samples[0]}
        size = self._cfg.batch_size
        batches = [
            {name: self._placed(array[first : first + size]) for name, array in whole.items()} | self._negative_text()
            for first in range(0, cfg.prompts * cfg.group_size, size)
        ]
        return batches * cfg.passes

    def _negative_text(self) -> dict[str, Array]:
        return dict(zip(("negative_text_1LD", "negative_mask_1L"), self._negative, strict=True))

    def _sample(
        self, params: Params, frozen: Frozen, shape: tuple[int, ...], text: Array, mask: Array, first: int
    ) -> Rollout:
        """A part of a rollout: what is drawn depends on the seed, the rollout's number and the place in it alone."""
        cfg = self._rollout
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self._cfg.seed), self._number), first)
        noise_key, step_key, fresh_key = jax.random.split(key, 3)
        noise = self._placed(jax.random.normal(noise_key, (cfg.prompts_at_once, *shape)))
        guided = self._objective.guidance_scale > 1
        return policy_rollout(
            self._learner,
            params,
            frozen,
            noise,
            text,
            mask,
            *(self._negative if guided else (None, None)),
            self._schedule,
            jnp.float32(self._objective.guidance_scale),
            jax.random.randint(step_key, (), 0, cfg.critical_steps),
            fresh_key,
            group_size=cfg.group_size,
            noise=cfg.sde,
        )

    def _decode(self, latents_BTHWC: Array) -> np.ndarray:
        """All videos, uint8, on every process; one at a time."""
        vae, params = self._pipeline.vae, self._pipeline.params("vae")
        everywhere = jax.jit(lambda x: x, out_shardings=self._whole)(latents_BTHWC)
        return np.stack(
            [to_uint8(np.asarray(decode_latents(vae, params, one[None], "decode")))[0] for one in everywhere]
        )

    @property
    def _own(self) -> list[int]:
        """Which videos of a part this process scores."""
        count = self._rollout.prompts_at_once * self._rollout.group_size
        return list(range(jax.process_index(), count, jax.process_count()))

    def _gathered(self, own: list[Any]) -> dict[str, np.ndarray]:
        """All scores of all videos, in their order: NaN where there is none."""
        names = sorted(own[0].values)
        count = self._rollout.prompts_at_once * self._rollout.group_size
        mine = np.full((len(own), len(names), count), np.nan, np.float32)
        for part, scores in enumerate(own):
            for row, name in enumerate(names):
                mine[part, row, self._own] = scores.values[name]
        if jax.process_count() > 1:
            everyone = np.asarray(multihost_utils.process_allgather(mine)).reshape(-1, *mine.shape)
            shares = [range(process, count, jax.process_count()) for process in range(jax.process_count())]
            for process, share in enumerate(shares):
                mine[..., list(share)] = everyone[process][..., list(share)]
        return {name: mine[:, row].reshape(-1) for row, name in enumerate(names)}

    def _samples(
        self, found: Rollout, text: Array, mask: Array, advantage_PG: np.ndarray, kept_P: np.ndarray
    ) -> dict[str, Array]:
        """A part as rows of a batch."""
        G = self._rollout.group_size
        B = found.x_BTHWC.shape[0]
        return {
            "x_BTHWC": found.x_BTHWC,
            "next_BTHWC": found.next_BTHWC,
            "log_prob_B": found.log_prob_B,
            "advantage_B": jnp.asarray(advantage_PG.reshape(-1)),
            "kept_B": jnp.asarray(np.repeat(kept_P, G), jnp.float32),
            "t_B": jnp.broadcast_to(found.t, B),
            "dt_B": jnp.broadcast_to(found.dt, B),
            "s_B": jnp.broadcast_to(found.s, B),
            "text_BLD": jnp.repeat(text, G, axis=0),
            "text_mask_BL": jnp.repeat(mask, G, axis=0),
        }

    def _placed(self, array: Any) -> Array:
        """Split over the mesh by its first axis."""
        return jax.device_put(array, batch_sharding(self._mesh, array.shape[0]))


def judged(
    scores: Mapping[str, Float[np.ndarray, " B"]], weights: Mapping[str, float], group_size: int, spread: str
) -> tuple[Float[np.ndarray, "P G"], np.ndarray, dict[str, float]]:
    """Weighted sums of advantages, 0 where a group lacks a score; which groups have all; and what to tell.

    Args:
        scores: of every reward, group after group; NaN is a missing one.
        weights: of rewards.
        group_size: videos of a group.
        spread: as RolloutConfig has it.
    """
    groups = {name: scores[name].reshape(-1, group_size) for name in weights}
    kept_P = ~np.isnan(np.stack(list(groups.values()))).any(axis=(0, 2))
    total_PG = np.zeros((len(kept_P), group_size), np.float32)
    told = {"groups/kept": float(kept_P.sum()), "groups/dropped": float((~kept_P).sum())}
    for name, weight in weights.items():
        found_PG = groups[name][kept_P]
        if not len(found_PG):
            continue
        deviations_P = found_PG.std(axis=1)
        largest = float(deviations_P.max()) if spread == "largest" else None
        total_PG[kept_P] += weight * np.asarray(advantages(found_PG, largest))
        told |= {
            f"{REWARD}{name}": float(found_PG.mean()),
            f"reward_spread/{name}": float(deviations_P.mean()),
            f"reward_largest_spread/{name}": float(deviations_P.max()),
        }
    told["advantage_spread"] = float(total_PG[kept_P].std()) if kept_P.any() else 0.0
    return total_PG, kept_P, told


def _check_batches(cfg: TrainConfig, mesh: Mesh) -> None:
    """Raises ValueError unless a run is whole rollouts, these whole batches, and both divide over the devices."""
    assert cfg.rollout is not None
    videos = cfg.rollout.prompts * cfg.rollout.group_size
    if videos % cfg.batch_size:
        raise ValueError(f"batch_size {cfg.batch_size} does not divide a rollout's {videos} videos")
    batches = videos // cfg.batch_size * cfg.rollout.passes
    if cfg.steps % batches:
        raise ValueError(f"steps {cfg.steps} is no multiple of the {batches} that a rollout is learnt from in")
    check_batch_size(cfg, mesh)
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    if cfg.rollout.prompts_at_once % groups:
        raise ValueError(
            f"rollout.prompts_at_once {cfg.rollout.prompts_at_once} does not divide over data x fsdp = {groups} devices"
        )


class _Times:
    """Seconds by what they went to."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
