"""A tiny vision tower learns to see before it is taught to speak, as Qwen2-VL's was trained on pictures before.

    python -m lcv_jax.toy.tower examples/toy_judge outputs/judges/seeing --clips outputs/judges/toy_model

From two frames it names colour, shape, motion and whatever else a scene is, each by a linear layer over an average of
its tokens that is weighted by attention. Only the tower is kept. Drawn scenes are known; of a model's clips it learns
what simulated raters call them (names.jsonl of toy/judges.py), half of a batch from each.
"""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from lcv_jax.array_types import Array, Float, Int, Params, UInt8
from lcv_jax.bounds import Bounds, Seed, check_fields
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.judge_conversion import load_judge_config, load_judge_params
from lcv_jax.checkpoint.new_judge import write_judge
from lcv_jax.checkpoint.workspace import check_free
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments, positional
from lcv_jax.config import Qwen2VisionConfig
from lcv_jax.data.media_reader import read_video
from lcv_jax.data.patches import FRAMES, cells
from lcv_jax.models.judges import normalised
from lcv_jax.models.qwen2_vision import VisionTower
from lcv_jax.rewards.videoreward import Views, frame_patches
from lcv_jax.toy.matches import NAMES
from lcv_jax.toy.world import CHOICES, DURATION, render, sample_scene
from lcv_jax.user_files import read_rows

GLANCES, BATCH_SIZE, LEARNING_RATE, WARMUP = 12_000, 64, 1e-3, 50
A_CLIP = 3
"""Glances of a clip that raters have named, from its beginning to its end."""
SIDE, FPS = 64, 8.0
"""Of drawn scenes."""


class Glances(NamedTuple):
    """Two frames of scenes, and what they show."""

    patches_NSC: UInt8[np.ndarray, "N S C"]
    names_NV: Float[np.ndarray, "N V"]
    """How sure each value of each of `CHOICES` is, one attribute after the other, 0..1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a tiny judge's vision tower to name what raters say clips show."""

    judge: Annotated[tyro.conf.Positional[Path], positional("JUDGE")]
    """A judge of toy.judges, trained or not."""
    out: Annotated[tyro.conf.Positional[Path], positional("OUT")]
    """The folder to write: it must not exist, or be empty."""
    clips: Path
    """What toy.judges wrote."""
    steps: Annotated[int, Bounds(least=1, most=10**6)] = 2500
    """Of AdamW, the learning rate falling to nothing."""
    seed: Seed = 0
    """Of drawn scenes and batches."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.tower") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with mistakes_in_one_line("interrupted; nothing was left behind"):
        write(parse_arguments(Arguments, arguments, prog=prog))


def write(arguments: Arguments) -> None:
    """Writes the same judge with its tower trained.

    Raises:
        ValueError: no judge, no names, or OUT is there already.
        OSError: a file that cannot be read or written.
    """
    check_free(arguments.out)
    cfg = load_judge_config(arguments.judge)
    params = load_judge_params(arguments.judge, cfg, jnp.float32)
    tokenizer = (store.tokenizer_folder(arguments.judge) / "tokenizer.json").read_text(encoding="utf-8")
    named = named_glances(arguments.clips, cfg)
    seen = (drawn_glances(cfg, arguments.seed), named)
    tower = learn_to_see(params["visual"], cfg.network.vision_config, seen, arguments.steps, arguments.seed)
    params = {**params, "visual": tower}
    write_judge(arguments.out, cfg, tokenizer, params, arguments.judge)
    print(f"wrote a judge to {arguments.out}")


def learn_to_see(
    tower: Params,
    cfg: Qwen2VisionConfig,
    seen: Sequence[Glances],
    steps: int,
    seed: int,
    say: Callable[[str], None] = print,
) -> Params:
    """Trains a tower on glances.

    Args:
        tower: its parameters.
        cfg: of the tower.
        seen: sets of glances at square frames, of which each batch has as many.
        steps: of AdamW, the learning rate falling to nothing.
        seed: of batches.
        say: gets a line now and then.
    """
    rows = round(seen[0].patches_NSC.shape[1] ** 0.5)
    network, places_S2 = VisionTower(cfg), jnp.asarray(cells(rows, rows))
    heads = {name: jnp.zeros((cfg.hidden_size, 1 + len(values))) for name, values in CHOICES.items()}
    trained: Any = {"tower": jax.tree.map(jnp.asarray, tower), "heads": heads}
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, min(WARMUP, steps // 2), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.01))
    loss = functools.partial(naming_loss, network, jnp.broadcast_to(places_S2, (BATCH_SIZE, *places_S2.shape)))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(trained: Any, state: Any, patches_BSC: Array, names_BV: Array) -> tuple[Any, Any, Array]:
        grads, right_A = jax.grad(loss, has_aux=True)(trained, patches_BSC, names_BV)
        updates, state = optimizer.update(grads, state, trained)
        return optax.apply_updates(trained, updates), state, right_A

    state, rng, right = optimizer.init(trained), np.random.default_rng([seed, 1]), []
    for number in range(1, steps + 1):
        trained, state, right_A = step(trained, state, *_batch(seen, rng))
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
    names_BV: Float[Array, "B V"],
) -> tuple[Float[Array, ""], Float[Array, " A"]]:
    """The sum of the attributes' cross entropies, and the share of each whose surest value is the surest by name."""
    tokens_BLD: Any = network.apply({"params": trained["tower"]}, normalised(patches_BSC), cells_BS2)
    total, right, ends = jnp.zeros(()), [], itertools.accumulate(map(len, CHOICES.values()))
    for (name, values), end in zip(CHOICES.items(), ends, strict=True):
        head_DO = trained["heads"][name]
        weights_BL = jax.nn.softmax(tokens_BLD @ head_DO[:, 0], axis=-1)
        logits_BO = jnp.einsum("bl,bld->bd", weights_BL, tokens_BLD) @ head_DO[:, 1:]
        named_BO = names_BV[:, end - len(values) : end]
        total += optax.softmax_cross_entropy(logits_BO, named_BO).mean()
        right.append((logits_BO.argmax(-1) == named_BO.argmax(-1)).mean())
    return total, jnp.stack(right)


def drawn_glances(views: Views, seed: int) -> Glances:
    """Of `GLANCES` scenes at random moments; what they show is known."""
    patches, names = [], []
    for number in range(GLANCES):
        scene = sample_scene((seed, 3, number))
        start = (DURATION - 1 / FPS) * np.random.default_rng([seed, 4, number]).random()
        patches.append(frame_patches(render(scene, SIDE, SIDE, FRAMES, FPS, start=start), views)[0])
        names.append(sureness({name: {getattr(scene, name): 1.0} for name in CHOICES}))
    return Glances(np.stack(patches), np.stack(names))


def named_glances(folder: Path, views: Views) -> Glances:
    """Of the clips that toy.judges wrote to train on.

    Raises:
        ValueError: no clips.
        OSError: no names there, or a clip that cannot be read.
    """
    patches, names = [], []
    for row in read_rows(folder / NAMES):
        frames_THWC, _ = read_video(folder / row["path"])
        for first in np.linspace(0, len(frames_THWC) - FRAMES, A_CLIP).round().astype(int):
            patches.append(frame_patches(frames_THWC[first : first + FRAMES], views)[0])
            names.append(sureness(row["names"]))
    if not patches:
        raise ValueError(f"{folder / NAMES}: names no clips")
    return Glances(np.stack(patches), np.stack(names))


def sureness(names: dict[str, dict[str, float]]) -> Float[np.ndarray, " V"]:
    """A number for each value of each of `CHOICES`; 0 for those that are not named."""
    return np.array([names[name].get(value, 0.0) for name, values in CHOICES.items() for value in values], np.float32)


def _batch(seen: Sequence[Glances], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """As many glances of each set."""
    counts = [len(part) for part in np.array_split(np.arange(BATCH_SIZE), len(seen))]
    chosen = [rng.integers(0, len(one.names_NV), count) for one, count in zip(seen, counts, strict=True)]
    parts = [(one.patches_NSC[rows], one.names_NV[rows]) for one, rows in zip(seen, chosen, strict=True)]
    patches, names = zip(*parts, strict=True)
    return np.concatenate(patches), np.concatenate(names)


if __name__ == "__main__":
    main()
