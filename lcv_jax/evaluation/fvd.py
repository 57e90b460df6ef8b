"""Fréchet video distance (Unterthiner et al. 2018): how far the features of two sets of clips lie apart.

The network that gives the features is the user's: any function of a clip. Distances of different networks, clip lengths
or numbers of clips do not compare.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.data.media_reader import read_video
from lcv_jax.rewards.factory import call_factory

Features = Callable[[UInt8[np.ndarray, "T H W 3"]], np.ndarray]
"""The features of a clip, a vector."""
FEWEST_CLIPS = 256
"""With fewer the distance says more about their number than about the clips."""


def frechet_distance(a_ND: Float[np.ndarray, "N _"], b_MD: Float[np.ndarray, "M _"]) -> float:
    """The Fréchet distance of two Gaussians with the means and covariances of these samples.

    |mean_a - mean_b|^2 + trace(S_a + S_b - 2 (S_a S_b)^(1/2)), where the last root's trace is that of the symmetric
    (S_a^(1/2) S_b S_a^(1/2))^(1/2).

    Raises:
        ValueError: fewer than two samples, other dimensions, or values that are not finite.
    """
    if a_ND.shape[1] != b_MD.shape[1] or min(len(a_ND), len(b_MD)) < 2:
        raise ValueError(
            f"two sets of at least two vectors of one length are compared, got {a_ND.shape} and {b_MD.shape}"
        )
    a, b = a_ND.astype(np.float64), b_MD.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features must be finite")
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    both = np.sqrt(np.maximum(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0)).sum()
    apart = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return float(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * both)


def features_of(
    videos: Sequence[Path],
    features: Features,
    num_frames: int,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, dict[str, str]]:
    """Features of the first frames of each video, and of those without, why.

    Args:
        videos: files.
        features: of a clip.
        num_frames: of each video, the first so many; shorter ones are left out.
        on_video: progress callback.

    Raises:
        ValueError: no video has features.
    """
    found, failures = [], {}
    for done, path in enumerate(videos):
        on_video(done, len(videos))
        try:
            frames = read_video(path, first=num_frames)[0]
            if len(frames) < num_frames:
                raise ValueError(f"{len(frames)} frames, {num_frames} are needed")
            found.append(np.asarray(features(frames), np.float64).reshape(-1))
        except (ValueError, OSError) as error:
            failures[str(path)] = str(error)
    on_video(len(videos), len(videos))
    if not found:
        raise ValueError(f"no video has features; {next(iter(failures.values()), 'there is none')}")
    return np.stack(found), failures


def make_features(factory: str, options: Mapping[str, Any]) -> Features:
    """Calls module:factory, such as lcv_jax.evaluation.fvd:i3d.

    Raises:
        ValueError: there is no such factory, it raises an exception, or gives no function.
    """
    made = call_factory(factory, options, "a network for features", "lcv_jax.evaluation.fvd:i3d")
    if not callable(made):
        raise ValueError(f"{factory} gave {type(made).__name__}; features are a function of a clip")
    return made


def i3d(weights: str, device: str = "cpu") -> Features:
    """I3D trained on Kinetics-400, whose features before the last layer are what published FVDs are of.

    Args:
        weights: `i3d_torchscript.pt`, the TorchScript file of StyleGAN-V (Skorokhodov et al. 2022).
        device: cpu or cuda.

    Raises:
        ImportError: PyTorch is not installed.
        OSError: there is no such file.
        ValueError: it is no TorchScript.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(f"{weights}: no such file; the features need the user's copy of i3d_torchscript.pt")
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise ImportError("the I3D features need PyTorch: pip install torch") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and what the weights are published in
            network = torch.jit.load(weights, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"{weights} is no TorchScript file: {str(error).splitlines()[0]}") from None

    def features(frames_THWC: np.ndarray) -> np.ndarray:
        clip = torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames_THWC, -1, 0))[None]).to(device).float()
        with torch.no_grad():
            # It maps 0..255 to -1..1, and frames to 224 x 224.
            return network(clip, rescale=True, resize=True, return_features=True)[0].cpu().numpy()

    return features
