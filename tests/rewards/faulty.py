"""A reward whose prompts say what goes wrong; workers and servers run it too, so it needs NumPy alone."""

import os
import sys
import time
from pathlib import Path

import numpy as np


class Brightness:
    """Mean level of each clip, unless the first prompt asks for a fault."""

    names = ("brightness",)

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def score(self, videos_BTHWC, prompts, fps):
        values = videos_BTHWC.mean(axis=(1, 2, 3, 4)).astype(np.float32) * self.scale
        fault, _, detail = prompts[0].partition(" ")
        if fault == "die" and not (detail and Path(detail).exists()):
            if detail:
                Path(detail).touch()
            print("the weights melted", file=sys.stderr, flush=True)
            os._exit(3)
        if fault == "hang":
            time.sleep(float(detail or 60))
        if fault == "raise":
            raise ArithmeticError("no clip like this")
        if fault == "short":
            return {"brightness": values[:-1]}
        if fault == "nan":
            values[1] = np.nan
        if fault == "name":
            return {"darkness": values}
        if fault == "print":
            print("a progress bar")
        return {"brightness": values}


class Closing(Brightness):
    """Tells whoever asks that it was closed."""

    names = ("closing",)
    closed: list[str] = []

    def close(self):
        self.closed.append("closed")


def broken():
    raise RuntimeError("no weights here")
