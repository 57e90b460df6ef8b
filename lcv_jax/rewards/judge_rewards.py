"""The four rewards of the report (section 3.3.2) on the released reward models, as factories for a config.

    RewardSource(
        factory="lcv_jax.rewards.judge_rewards:hpsv3",
        options=(("folder", "weights/hpsv3"), ("devices", "local"), ("dtype", "bfloat16")),
        weights=(("hpsv3_general", 1.0), ("hpsv3_percentile", 1.0)),
    )

A video that cannot be scored gives an error, never a number (protocol.py).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lcv_jax.array_types import Float, UInt8
from lcv_jax.checkpoint.judge_conversion import load_judge_config
from lcv_jax.models.judges import DIMENSIONS, HPSV3, VIDEOREWARD
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.parallel.sharding import REPLICATED
from lcv_jax.rewards.judge import BATCH_SIZE, Judge, load_judge
from lcv_jax.rewards.readouts import QUALITY_PROMPT, grayscale, mean_of_best_frames, mean_of_frames

Videos = UInt8[np.ndarray, "B T H W 3"]
GENERAL, PERCENTILE = "hpsv3_general", "hpsv3_percentile"
VIDEO_REWARDS = {"vq": ("VQ", False), "mq": ("MQ", True), "ta": ("TA", False)}
"""VideoReward's rewards: the dimension, and whether it is judged without colour."""


class HPSv3Rewards:
    """Frames under a fixed prompt, and under the caption: each frame is looked at once for both."""

    def __init__(self, judge: Judge, names: tuple[str, ...]):
        self.judge, self.names = judge, names

    def score(
        self, videos_BTHWC: Videos, prompts: Sequence[str], fps: float | int
    ) -> Mapping[str, Float[np.ndarray, " B"]]:
        """The mean of all frames under `QUALITY_PROMPT`, and of the best 30 % under the caption."""
        B, T, H, W, _ = videos_BTHWC.shape
        frames = list(videos_BTHWC.reshape(B * T, H, W, 3))
        captions = {GENERAL: [QUALITY_PROMPT] * len(frames), PERCENTILE: [text for text in prompts for _ in range(T)]}
        asked = [caption for name in self.names for caption in captions[name]]
        mu_NBT = self.judge.score_images(frames * len(self.names), asked)[:, 0].reshape(len(self.names), B, T)
        readouts = {GENERAL: mean_of_frames, PERCENTILE: mean_of_best_frames}
        return {name: readouts[name](mu_BT) for name, mu_BT in zip(self.names, mu_NBT, strict=True)}


class VideoRewards:
    """Dimensions of VideoReward, each of the videos that it is judged on."""

    def __init__(self, judge: Judge, names: tuple[str, ...]):
        self.judge, self.names = judge, names

    def score(
        self, videos_BTHWC: Videos, prompts: Sequence[str], fps: float | int
    ) -> Mapping[str, Float[np.ndarray, " B"]]:
        """Motion quality of the grey videos, the others in colour; normalised where the judge has the statistics."""
        scores: dict[str, np.ndarray] = {}
        for grey in sorted({VIDEO_REWARDS[name][1] for name in self.names}):
            shown = grayscale(videos_BTHWC) if grey else videos_BTHWC
            raw = self.judge.score_videos(list(shown), [float(fps)] * len(shown), prompts)
            values = self.judge.normalise(raw) if self.judge.cfg.statistics else raw
            for name in self.names:
                dimension, on_grey = VIDEO_REWARDS[name]
                if on_grey == grey:
                    scores[name] = values[:, DIMENSIONS.index(dimension)]
        return scores


class MeanRewards:
    """An ensemble: the mean of what several judges find, so that a fault of one counts less."""

    def __init__(self, members: Sequence[HPSv3Rewards] | Sequence[VideoRewards]):
        self.members, self.names = members, members[0].names

    def score(
        self, videos_BTHWC: Videos, prompts: Sequence[str], fps: float | int
    ) -> Mapping[str, Float[np.ndarray, " B"]]:
        """The mean of each reward."""
        scores = [member.score(videos_BTHWC, prompts, fps) for member in self.members]
        return {name: np.mean([each[name] for each in scores], axis=0) for name in self.names}


def hpsv3(
    folder: str,
    rewards: str = f"{GENERAL},{PERCENTILE}",
    devices: str = "",
    dtype: str = "float32",
    batch_size: int = BATCH_SIZE,
) -> HPSv3Rewards | MeanRewards:
    """HPSv3's rewards of videos.

    Args:
        folder: a converted HPSv3, or several with commas between, whose mean is the reward.
        rewards: which of hpsv3_general and hpsv3_percentile, with commas between.
        devices: those that score, each with all weights: "" the default one, "local" all of this process, or the
            numbers of some, such as "6,7", which then do nothing else where the policy's mesh leaves them out.
        dtype: float32 or bfloat16.
        batch_size: frames of one call on each device.

    Raises:
        ValueError: no converted HPSv3, or a reward or devices that are not there.
    """
    names = _chosen(rewards, (GENERAL, PERCENTILE))
    return _rewards(HPSv3Rewards, HPSV3, names, folder, devices, dtype, batch_size)


def videoreward(
    folder: str,
    rewards: str = "mq,ta",
    devices: str = "",
    dtype: str = "float32",
    batch_size: int = BATCH_SIZE,
) -> VideoRewards | MeanRewards:
    """VideoReward's rewards of videos: mq on grey videos; ta and vq in colour.

    Args:
        folder: a converted VideoReward, or several with commas between, whose mean is the reward.
        rewards: which of vq, mq and ta, with commas between.
        devices: as in `hpsv3`.
        dtype: float32 or bfloat16.
        batch_size: videos of one call on each device.

    Raises:
        ValueError: no converted VideoReward, or a reward or devices that are not there.
    """
    names = _chosen(rewards, tuple(VIDEO_REWARDS))
    return _rewards(VideoRewards, VIDEOREWARD, names, folder, devices, dtype, batch_size)


def folders_of(folder: str) -> list[str]:
    """The judges that a reward is the mean of."""
    return [each.strip() for each in folder.split(",")]


def _chosen(rewards: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in rewards.split(","))
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"rewards must be different ones of {', '.join(known)}, got {rewards!r}")
    return names


def _rewards(
    rewards: Callable[[Judge, tuple[str, ...]], Any], kind: str, names: tuple[str, ...], folder: str, *how: Any
) -> Any:
    members = [rewards(_judge(kind, each, *how), names) for each in folders_of(folder)]
    return members[0] if len(members) == 1 else MeanRewards(members)


def _judge(kind: str, folder: str, devices: str, dtype: str, batch_size: int) -> Judge:
    found = load_judge_config(folder).kind
    if found != kind:
        raise ValueError(f"{folder} is a {found}, wanted a {kind}")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be float32 or bfloat16, got {dtype!r}")
    return _load(Path(folder).absolute(), devices, dtype, batch_size)


@functools.lru_cache(maxsize=4)
def _load(folder: Path, devices: str, dtype: str, batch_size: int) -> Judge:
    """Two sources with the same judge share it."""
    return load_judge(folder, dtype=dtype, mesh=_mesh(devices), rules=REPLICATED, batch_size=batch_size)


def _mesh(devices: str) -> Mesh | None:
    """Devices that share a batch; weights on each, so that a program sends nothing while the policy's programs do."""
    if not devices:
        return None
    local = jax.local_devices()
    if devices == "local":
        return make_mesh(data=len(local), devices=local)
    try:
        chosen = [local[int(number)] for number in devices.split(",")]
    except (ValueError, IndexError):
        raise ValueError(f'devices must be "local" or numbers of 0..{len(local) - 1}, got {devices!r}') from None
    return make_mesh(data=len(chosen), devices=chosen)
