"""Motion of a clip: how much of it is the camera's, how much the objects'.

The camera's part of optical flow is a similarity (translation, zoom, rotation) that is fitted robustly to the flow
where there is texture; the objects' part is what remains. Nothing here holds more than a few small frames.
"""

import dataclasses
import math

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.data.flow import flow_estimator
from lcv_jax.extras import import_extra

FLOW_RATE = 15.0
"""Pairs of frames a second, at most about, between which flow is computed."""
_GRID = 4
"""Pixels between the places where the camera's motion is fitted."""
_ITERATIONS = 4
_MOVES = 0.02
"""Shorter sides a second from which on a pixel moves by itself."""


@dataclasses.dataclass
class Motion:
    """Takes the small grey frames of a clip one after the other.

    Args:
        fps: rate of the frames.
    """

    fps: float

    def __post_init__(self) -> None:
        self._stride = max(1, round(self.fps / FLOW_RATE))
        self._count, self._last = 0, np.empty((0, 0), np.uint8)
        self._flow = flow_estimator()
        self.path_T4: list[np.ndarray] = []
        """The camera: x, y (shares of the shorter side), zoom (natural logarithm), rotation (radians) a second."""
        self._pairs: list[tuple[float, float, float, float, float]] = []

    def add(self, grey_HW: UInt8[np.ndarray, "H W"]) -> None:
        """The next frame."""
        if self._count % self._stride == 0:
            if self._count:
                self._add_pair(self._last, grey_HW)
            self._last = grey_HW
        self._count += 1

    def _add_pair(self, before_HW: np.ndarray, after_HW: np.ndarray) -> None:
        flow_HW2, weights_HW = self._flow(before_HW, after_HW), texture(before_HW)
        places_N2, flow_N2, weights_N = _on_grid(flow_HW2, weights_HW)
        camera_4 = fit_similarity(places_N2, flow_N2, weights_N)
        scale = self.fps / self._stride
        side = min(before_HW.shape)
        model_N2 = similarity_flow(camera_4, places_N2)
        residual_N = np.linalg.norm(flow_N2 - model_N2, axis=1) * scale / side
        speed_N = np.linalg.norm(flow_N2, axis=1) * scale / side
        fastest = np.partition(speed_N, -max(1, len(speed_N) // 20))[-max(1, len(speed_N) // 20) :]
        self._pairs.append(
            (
                float(speed_N.mean()),
                float(fastest.mean()),
                float(np.linalg.norm(model_N2, axis=1).mean()) * scale / side,
                float(residual_N.mean()),
                float((residual_N > _MOVES).mean()),
            )
        )
        x, y, zoom, rotation = camera_4
        self.path_T4.append(np.array((x / side, y / side, zoom, rotation)) * scale)

    def result(self) -> dict[str, float]:
        """Measures of the frames so far; none where there is no pair of frames."""
        names = ("motion", "dynamic_degree", "camera_motion", "object_motion", "moving_share")
        if not self._pairs:
            return dict.fromkeys(names, math.nan)
        means = np.mean(self._pairs, axis=0)
        return {name: float(value) for name, value in zip(names, means * (100, 100, 100, 100, 1), strict=True)}


def texture(grey_HW: UInt8[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """How well each place can be followed: from the smaller eigenvalue of the structure tensor, 0 to 1."""
    cv2 = import_extra("cv2", "curate", "measuring needs")
    eigenvalue_HW = np.sqrt(np.maximum(cv2.cornerMinEigenVal(grey_HW, 9, ksize=3), 0))
    return eigenvalue_HW / (eigenvalue_HW + 0.01)


def _on_grid(flow_HW2: np.ndarray, weights_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (from the middle), flow and weights, without the margin that flow often leaves."""
    H, W = weights_HW.shape
    rows, columns = np.arange(_GRID, H - _GRID, _GRID), np.arange(_GRID, W - _GRID, _GRID)
    y_N, x_N = (part.ravel() for part in np.meshgrid(rows, columns, indexing="ij"))
    places_N2 = np.stack([x_N - (W - 1) / 2, y_N - (H - 1) / 2], axis=1)
    return places_N2, flow_HW2[y_N, x_N].astype(np.float64), weights_HW[y_N, x_N].astype(np.float64) + 1e-3


def fit_similarity(
    places_N2: Float[np.ndarray, "N 2"], flow_N2: Float[np.ndarray, "N 2"], weights_N: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " 4"]:
    """Translation x and y, zoom and rotation that most of the flow follows: iteratively reweighted least squares.

    Args:
        places_N2: x and y, from the middle of the frame.
        flow_N2: displacements.
        weights_N: confidence in each, above 0.
    """
    x_N, y_N = places_N2.T
    zero_N, one_N = np.zeros_like(x_N), np.ones_like(x_N)
    design_M4 = np.concatenate([np.stack([one_N, zero_N, x_N, -y_N], 1), np.stack([zero_N, one_N, y_N, x_N], 1)])
    target_M = flow_N2.T.ravel()
    # From the median, which objects smaller than half of the texture cannot move.
    order = np.argsort(flow_N2, axis=0)
    halves = np.cumsum(weights_N[order], axis=0) >= weights_N.sum() / 2
    middle = [flow_N2[order[np.argmax(halves[:, axis]), axis], axis] for axis in range(2)]
    camera_4 = np.array([*middle, 0.0, 0.0])
    for _ in range(_ITERATIONS):
        error_N = np.linalg.norm((target_M - design_M4 @ camera_4).reshape(2, -1), axis=0)
        width = max(0.1, 1.5 * float(np.median(error_N)))
        robust_M = np.tile(weights_N / (1 + (error_N / width) ** 2) ** 2, 2)
        normal_44 = design_M4.T @ (design_M4 * robust_M[:, None])
        camera_4 = np.linalg.solve(normal_44 + 1e-9 * np.eye(4), design_M4.T @ (robust_M * target_M))
    return camera_4


def similarity_flow(camera_4: Float[np.ndarray, " 4"], places_N2: Float[np.ndarray, "N 2"]) -> np.ndarray:
    """The flow that a camera's motion leads to."""
    x_N, y_N = places_N2.T
    x, y, zoom, rotation = camera_4
    return np.stack([x + zoom * x_N - rotation * y_N, y + zoom * y_N + rotation * x_N], axis=1)
