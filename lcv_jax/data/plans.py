"""Which samples are in which batch: pure functions of (seed, step), whoever asks and in whatever order.

Random numbers come from Philox, a counter-based generator: its counter holds what is asked for (a step, a row, an
epoch), so that nothing has to be drawn before. One thing does depend on earlier steps, and only on their number: in
an epoch every clip of a bucket comes once, so a step must know how many steps before it took the same bucket. Those
counts are summed up chunk by chunk, a few microseconds for a thousand steps.
"""

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np

CHUNK = 1024
_CHOICE, _RECORDS, _EPOCH, _ROW, _REPLACEMENT = range(5)
_extending = threading.Lock()  # of all plans: they are pickled for workers, a lock of their own could not be


@dataclasses.dataclass(frozen=True)
class Choice:
    """What all samples of a batch share."""

    task: str
    num_cond_latents: int
    bucket: int


class Plans:
    """The batches of a run.

    Args:
        choices: all that a batch can be.
        shares: their probabilities.
        num_records: of each bucket.
        weights: of each bucket's records, to draw them in proportion; None: each once in an epoch.
        batch_size: of all processes together.
        seed: of everything.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        shares: Sequence[float],
        num_records: Sequence[int],
        weights: Sequence[np.ndarray] | None,
        batch_size: int,
        seed: int,
    ):
        self.choices, self.num_records, self.batch_size, self.seed = list(choices), list(num_records), batch_size, seed
        self._edges = np.cumsum(shares)[:-1] / np.sum(shares)
        self._bucket_of = np.array([choice.bucket for choice in choices])
        self._sums = None if weights is None else [np.cumsum(each, dtype=np.float64) for each in weights]
        self._before = [np.zeros(len(num_records), np.int64)]
        self._chunks: dict[int, np.ndarray] = {}
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def choice(self, step: int) -> Choice:
        """Task, condition and bucket of a step."""
        return self.choices[self._chunk(step // CHUNK)[step % CHUNK]]

    def records(self, step: int) -> np.ndarray:
        """The records of the step's bucket that are in its batch, one a row."""
        bucket = self.choice(step).bucket
        if self._sums is not None:
            sums = self._sums[bucket]
            drawn = self._generator(_RECORDS, step).random(self.batch_size)
            return np.minimum(np.searchsorted(sums, drawn * sums[-1], side="right"), len(sums) - 1)
        positions = self._uses_before(step, bucket) * self.batch_size + np.arange(self.batch_size)
        epochs, places = np.divmod(positions, self.num_records[bucket])
        return np.array(
            [self._order(bucket, epoch)[place] for epoch, place in zip(epochs.tolist(), places, strict=True)]
        )

    def replacement(self, step: int, row: int, attempt: int) -> int:
        """Another record for a row whose own cannot be read."""
        count = self.num_records[self.choice(step).bucket]
        return int(self._generator(_REPLACEMENT, step, row, attempt).integers(count))

    def row_generator(self, step: int, row: int) -> np.random.Generator:
        """For what is drawn for one row of the whole batch."""
        return self._generator(_ROW, step, row)

    def _generator(self, purpose: int, *place: int) -> np.random.Generator:
        # The lowest word of the counter counts what is drawn.
        counter = [0, *place, *[0] * (3 - len(place))]
        return np.random.Generator(np.random.Philox(key=[self.seed, purpose], counter=counter))

    def _chunk(self, number: int) -> np.ndarray:
        """The choices, by their numbers, of CHUNK steps."""
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = np.searchsorted(self._edges, self._generator(_CHOICE, number).random(CHUNK), side="right")
            if len(self._chunks) > 8:
                self._chunks = {}
            self._chunks[number] = chunk
        return chunk

    def _uses_before(self, step: int, bucket: int) -> int:
        number, place = divmod(step, CHUNK)
        with _extending:
            while len(self._before) <= number:
                used = np.bincount(self._bucket_of[self._chunk(len(self._before) - 1)], minlength=len(self.num_records))
                self._before.append(self._before[-1] + used)
        in_chunk = np.count_nonzero(self._bucket_of[self._chunk(number)[:place]] == bucket)
        return int(self._before[number][bucket] + in_chunk)

    def _order(self, bucket: int, epoch: int) -> np.ndarray:
        order = self._orders.get((bucket, epoch))
        if order is None:
            order = self._generator(_EPOCH, bucket, epoch).permutation(self.num_records[bucket])
            # One epoch ends where the next begins: both are needed at once, older ones never again.
            # A new dictionary, as other threads read the old one.
            kept = [item for item in list(self._orders.items()) if item[0][0] != bucket or item[0][1] >= epoch - 1]
            self._orders = dict([*kept, ((bucket, epoch), order)])
        return order
