"""A tiny vision tower learns to see before it is taught to speak, as Qwen2-VL's was trained on pictures before.

From two frames it names colour, shape, motion and whatever else a scene is, each by a linear layer over an average of
its tokens that is weighted by attention. Only the tower is kept.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lcv_jax.array_types import Array, Float, Int, Params, UInt8
from lcv_jax.config import Qwen2VisionConfig
from lcv_jax.data.patches import PATCH, cells
from lcv_jax.models.judges import normalised
from lcv_jax.models.qwen2_vision import VisionTower
from lcv_jax.rewards.videoreward import Views, video_patches
from lcv_jax.toy.world import CHOICES, DURATION, render, sample_scene

GLANCES, BATCH_SIZE, LEARNING_RATE, WARMUP = 12_000, 64, 1e-3, 50


def learn_to_see(
    tower: Params,
    cfg: Qwen2VisionConfig,
    views: Views,
    steps: int,
    seed: int,
    side: int,
    fps: float,
    say: Callable[[str], None] = print,
) -> Params:
    """Trains a tower on two frames of random scenes at random moments.

    Args:
        tower: its parameters.
        cfg: of the tower.
        views: how large it sees frames.
        steps: of AdamW, the learning rate falling to nothing.
        seed: of scenes and batches.
        side: of frames, in pixels.
        fps: frames a second.
        say: gets a line now and then.
    """
    patches_NSC, labels_NA = glances(views, seed, side, fps, GLANCES)
    rows = views.max_pixels**0.5 // PATCH
    cells_BS2 = jnp.broadcast_to(jnp.asarray(cells(int(rows), int(rows))), (BATCH_SIZE, patches_NSC.shape[1], 2))
    width = cfg.hidden_size
    heads = {name: jnp.zeros((width, 1 + len(values))) for name, values in CHOICES.items()}
    trained: Any = {"tower": jax.tree.map(jnp.asarray, tower), "heads": heads}
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, min(WARMUP, steps // 2), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.01))
    loss = functools.partial(naming_loss, VisionTower(cfg), cells_BS2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(trained: Any, state: Any, patches_BSC: Array, labels_BA: Array) -> tuple[Any, Any, Array]:
        grads, right_A = jax.grad(loss, has_aux=True)(trained, patches_BSC, labels_BA)
        updates, state = optimizer.update(grads, state, trained)
        return optax.apply_updates(trained, updates), state, right_A

    state, rng, right = optimizer.init(trained), np.random.default_rng([seed, 1]), []
    for number in range(1, steps + 1):
        batch = rng.integers(0, len(labels_NA), BATCH_SIZE)
        trained, state, right_A = step(trained, state, patches_NSC[batch], labels_NA[batch])
        right.append(right_A)
        if number % 100 == 0 or number == steps:
            shares = zip(CHOICES, np.mean(right[-100:], axis=0), strict=True)
            say(f"step {number} of {steps}: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares))
    return jax.tree.map(np.asarray, trained["tower"])


def naming_loss(
    network: VisionTower,
    cells_BS2: Int[Array, "B S 2"],
    trained: Any,
    patches_BSC: UInt8[Array, "B S C"],
    labels_BA: Int[Array, "B A"],
) -> tuple[Float[Array, ""], Float[Array, " A"]]:
    """The sum of the attributes' cross entropies, and the share of each that is right."""
    tokens_BLD: Any = network.apply({"params": trained["tower"]}, normalised(patches_BSC), cells_BS2)
    total, right = jnp.zeros(()), []
    for place, name in enumerate(CHOICES):
        head_DO = trained["heads"][name]
        weights_BL = jax.nn.softmax(tokens_BLD @ head_DO[:, 0], axis=-1)
        logits_BO = jnp.einsum("bl,bld->bd", weights_BL, tokens_BLD) @ head_DO[:, 1:]
        labels_B = labels_BA[:, place]
        total += optax.softmax_cross_entropy_with_integer_labels(logits_BO, labels_B).mean()
        right.append((logits_BO.argmax(-1) == labels_B).mean())
    return total, jnp.stack(right)


def glances(
    views: Views, seed: int, side: int, fps: float, count: int
) -> tuple[UInt8[np.ndarray, "N S C"], Int[np.ndarray, "N A"]]:
    """Patches of two frames of scenes, and which value of each attribute they show."""
    patches, labels = [], []
    for number in range(count):
        scene = sample_scene((seed, 3, number))
        start = (DURATION - 1 / fps) * np.random.default_rng([seed, 4, number]).random()
        patches.append(video_patches(render(scene, side, side, 2, fps, start=start), fps, views)[0])
        labels.append([values.index(getattr(scene, name)) for name, values in CHOICES.items()])
    return np.stack(patches), np.array(labels, np.int32)
