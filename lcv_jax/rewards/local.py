"""A reward in this process."""

import dataclasses
import queue
import threading
from collections.abc import Sequence

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.bounds import Seconds, check_fields
from lcv_jax.rewards.factory import make_reward
from lcv_jax.rewards.protocol import Reward, RewardError, Scores, check_names, checked


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """A reward that is imported."""

    factory: str
    """module:factory."""
    options: tuple[tuple[str, bool | int | float | str], ...] = ()
    """Keywords of the factory."""
    timeout: Seconds = 600.0
    """Seconds for one batch."""

    def __post_init__(self) -> None:
        check_fields(self)


class LocalReward:
    """Calls a reward in a thread of its own, for `timeout` seconds at most.

    A thread cannot be stopped: while a late call goes on, further calls wait for it, and fail where it takes longer
    than their own time. A reward that may hang belongs into a process.

    Raises:
        ValueError: the factory is not there or gives no reward.
        ImportError: its module cannot be imported.
    """

    def __init__(self, cfg: LocalConfig):
        self.cfg = cfg
        self._reward: Reward = make_reward(cfg.factory, dict(cfg.options))
        self.names = check_names(self._reward.names, cfg.factory)
        self._idle = threading.Semaphore()
        self._closed = False
        self._awaited: queue.SimpleQueue | None = None

    def score(self, videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], fps: float | int) -> Scores:
        """Scores, checked.

        Raises:
            RewardError: the reward raised an exception, was late, or answered with something else; or this is closed.
        """
        source = self.cfg.factory
        if not self._idle.acquire(timeout=self.cfg.timeout):
            raise RewardError(f"{source}: an earlier call still runs after {self.cfg.timeout:g} s: put it in a process")
        returned: queue.SimpleQueue = queue.SimpleQueue()
        self._awaited = returned
        if self._closed:
            self._idle.release()
            raise RewardError(f"{source}: closed")

        def call() -> None:
            try:
                returned.put((self._reward.score(videos_BTHWC, prompts, fps), None))
            except Exception as error:
                returned.put((None, error))
            finally:
                self._idle.release()

        threading.Thread(target=call, name=source, daemon=True).start()
        try:
            scores, error = returned.get(timeout=self.cfg.timeout)
        except queue.Empty:
            raise RewardError(f"{source}: no scores within {self.cfg.timeout:g} s: raise timeout") from None
        if error is not None:
            raise RewardError(f"{source}: {type(error).__name__}: {error}") from error
        return checked(scores, self.names, len(prompts), source)

    def close(self) -> None:
        """Closes the reward, where it can be; a call that waits for it fails."""
        self._closed = True
        if self._awaited is not None:
            self._awaited.put((None, RewardError("closed")))
        getattr(self._reward, "close", lambda: None)()
