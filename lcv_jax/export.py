"""A run's last checkpoint as a folder to generate from: `python -m lcv_jax.export RUN DEST ...`.

    python -m lcv_jax.export outputs/toy/pretrain_1 outputs/halfway --dtype bfloat16
    python convert_torch_weights.py outputs/halfway outputs/published --to-torch

A run that is done has such folders already, in float32: RUN/weights with the EMA weights, and RUN/weights_raw with
those of the last step. The second command turns one into the published layout, adapters into the published adapter
format.
"""

import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.training import networks
from lcv_jax.training.base import network_of, open_base, start_of
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.folder import CHECKPOINTS, CONFIG, Checkpoints
from lcv_jax.training.weights import WhichWeights, kept_weights, save_weights
from lcv_jax.user_files import read_json, reading


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Writes the trained weights of a run's last checkpoint, with everything else that generation needs."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    dest: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DEST")]
    """The folder to write: it must not exist, or be empty."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the trained weights are written as."""
    weights: WhichWeights | None = None
    """The exponential moving average of the weights, or the weights of the last step. None: the average, where the run
    has one."""


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.export") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with mistakes_in_one_line():
        export(parse_arguments(Export, arguments, prog=prog))


def export(chosen: Export) -> None:
    """Writes the folder.

    Raises:
        ValueError: no run, one without a checkpoint, or an autoencoder's, whose latents are measured
            when it is done.
    """
    written = chosen.run / CONFIG
    for name in (CONFIG, CHECKPOINTS):  # other folders have a config.json too
        if not (chosen.run / name).exists():
            raise ValueError(f"{chosen.run} is no run: it has no {name}; give a folder that lcv_jax.train wrote")
    with reading(written):
        cfg = dataclasses.replace(TrainConfig.from_json(read_json(written)), run=chosen.run)
    if cfg.network == "vae":
        raise ValueError("an autoencoder is exported when it is done: its latents have to be measured on data")
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh), contextlib.closing(Checkpoints(cfg.run, cfg.checkpoints)) as checkpoints:
        if checkpoints.latest is None:
            raise ValueError(f"{cfg.run} has no checkpoint yet")
        learner = networks.learner_of(cfg, network_of(cfg, open_base(cfg, mesh)), mesh)
        start = start_of(cfg, learner)
        state, _ = checkpoints.resume(start.shapes())
        which = chosen.weights or kept_weights(cfg)[0]
        save_weights(cfg, learner, chosen.dest, state, start.frozen(), which=which, dtype=chosen.dtype)
    print(f"wrote {chosen.dest}: {which} weights of step {int(state.step)} of {cfg.steps}")


if __name__ == "__main__":
    main()
