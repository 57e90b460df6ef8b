"""A learned aesthetic score: CLIP's image embedding and a head on it, with weights that the user has.

CLIP runs by `transformers`, which needs PyTorch for it. Heads are LAION's: linear layers without activations between
them, in a .pth or .safetensors file. Nothing is downloaded; without weights there is `aesthetic_heuristic`.
"""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.checkpoint.safetensors_files import open_safetensors
from lcv_jax.checkpoint.torch_files import open_torch_file
from lcv_jax.extras import import_extra

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training images, channel by channel."""

Layers = Sequence[tuple[np.ndarray, np.ndarray]]
Scorer = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Takes frames H W 3, gives back a score each; LAION's range over 1 to 10."""


@functools.lru_cache(maxsize=2)
def load_scorer(clip: Path, head: Path) -> Scorer:
    """A function that scores frames.

    Args:
        clip: folder of a CLIP model as transformers saves it.
        head: file of linear layers.

    Raises:
        ImportError: PyTorch is not installed.
        OSError: a file that cannot be read.
        ValueError: the layers do not fit.
    """
    torch = import_extra("torch", "aesthetic", "the aesthetic score needs")
    transformers = import_extra("transformers", "aesthetic", "the aesthetic score needs")
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(clip, local_files_only=True).eval()
    layers = read_head(head, model.config.projection_dim)
    side = model.config.image_size

    def score(frames: Sequence[np.ndarray]) -> np.ndarray:
        pixels = np.stack([clip_pixels(frame_HWC, side) for frame_HWC in frames])
        with torch.inference_mode():
            embeddings_ND = model(pixel_values=torch.from_numpy(pixels)).image_embeds.float().numpy()
        return apply_head(embeddings_ND, layers)

    return score


def clip_pixels(frame_HWC: UInt8[np.ndarray, "H W 3"], side: int) -> Float[np.ndarray, "3 side side"]:
    """A frame as CLIP sees it: the shorter side resized, the middle cut out, normalised."""
    image_module = import_extra("PIL.Image", "video", "images need")
    H, W = frame_HWC.shape[:2]
    size = max(side, int(W * side / min(H, W))), max(side, int(H * side / min(H, W)))
    image = image_module.fromarray(frame_HWC).resize(size, image_module.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    cut_HWC = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    return np.ascontiguousarray(((cut_HWC - _MEAN) / _STD).transpose(2, 0, 1).astype(np.float32))


def read_head(path: Path, width: int) -> Layers:
    """The linear layers of a head, in their order.

    Raises:
        ValueError: they do not lead from an embedding to one number.
    """
    file = open_safetensors(path) if path.suffix == ".safetensors" else open_torch_file(path)
    arrays = {tensor.name: file.read(tensor).astype(np.float32) for tensor in file.tensors}
    stems = {name.removesuffix("weight") for name in arrays if name.endswith("weight")}
    ordered = sorted(stems, key=lambda stem: [int(number) for number in re.findall(r"\d+", stem)])
    layers = [(arrays[f"{stem}weight"], arrays[f"{stem}bias"]) for stem in ordered if f"{stem}bias" in arrays]
    widths = [width, *(len(bias) for _, bias in layers)]
    if not layers or [weight.shape[1] for weight, _ in layers] != widths[:-1] or widths[-1] != 1:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(arrays.items()))
        raise ValueError(f"{path}: expected linear layers from {width} values to one, got {shapes or 'nothing'}")
    return layers


def apply_head(embeddings_ND: Float[np.ndarray, "N D"], layers: Layers) -> Float[np.ndarray, " N"]:
    """Scores of embeddings, which are brought to length 1."""
    values_ND = embeddings_ND / np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    for weight, bias in layers:
        values_ND = values_ND @ weight.T + bias
    return values_ND[:, 0]
