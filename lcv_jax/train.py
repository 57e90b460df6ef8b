"""Trains a stage: `python -m lcv_jax.train CONFIG.py ...`.

    python -m lcv_jax.train configs/toy/pretrain_3.py
    python -m lcv_jax.train configs/toy/pretrain_3.py --optimizer.learning-rate 3e-4 --run outputs/faster
    python -m lcv_jax.train configs/toy/pretrain_3.py --help

The config is a file whose `get_config()` returns a TrainConfig (training/config.py); every field of it is a flag. The
same command again goes on where the run was stopped or killed, or with more --steps where it ended.
"""

import ast
import contextlib
import dataclasses
import itertools
import logging
import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import tyro
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lcv_jax.command_line import handling, mistakes_in_one_line, parse_arguments
from lcv_jax.config import PublishedConfig
from lcv_jax.data.batches import BatchKind
from lcv_jax.gpus.speeds import peak_flops
from lcv_jax.models.vae import WanVAE
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.parallel.launch import check_same_config, initialize, leaving_at_once
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.pipeline import Pipeline
from lcv_jax.training import networks
from lcv_jax.training.base import Base, network_of, open_base, start_of
from lcv_jax.training.config import AdapterConfig, TrainConfig
from lcv_jax.training.console import note
from lcv_jax.training.cost import tokens_and_flops
from lcv_jax.training.folder import Checkpoints, begin, check_config, check_data, content_of, locked, with_warmup
from lcv_jax.training.inputs import Inputs
from lcv_jax.training.metrics import Metrics, Work
from lcv_jax.training.observe import Observer
from lcv_jax.training.rollouts import Rollouts
from lcv_jax.training.start_check import check_sizes, check_start
from lcv_jax.training.state import Frozen, TrainState
from lcv_jax.training.step import Learner, Measured, train_step
from lcv_jax.training.weights import LatentStatistics, WhichWeights, choose, kept_weights, save_weights
from lcv_jax.user_files import PROJECT, call_in_file

WEIGHTS, RAW_WEIGHTS = "weights", "weights_raw"
STATISTICS_BATCHES = 32
"""Batches that the mean and the spread of an autoencoder's latents are measured on."""
AHEAD = 2
"""Steps that are handed to the devices before the first of them is done."""


# 1. The command line


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.train") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax reports its inner workings there, and raises as well
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] in (["--help"], ["-h"]):
        print(usage(prog))
        return
    with leaving_at_once(), mistakes_in_one_line("interrupted; the same command goes on after the last checkpoint"):
        begun = with_adapter(read_config(arguments[0] if arguments else ""), arguments)
        cfg = parse_arguments(
            TrainConfig,
            arguments[1:],
            default=begun,
            prog=f"{prog} {arguments[0]}",
            description=sys.modules[TrainConfig.__module__].__doc__,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed),
        )
        train(cfg)


def usage(prog: str) -> str:
    """Help without a config: how a run is started, and the configs of this folder and of the project, a line each."""
    lines = [
        f"usage: {prog} CONFIG.py [--FIELD VALUE ...]",
        "",
        "Trains, fine-tunes or resumes with a config, a Python file with get_config(). Every field of it is a flag:",
        f"`{prog} CONFIG.py --help` lists them. The same command resumes a run after its last checkpoint.",
    ]
    for root in dict.fromkeys((Path(), PROJECT)):
        paths = [path for path in sorted(root.glob("configs/**/*.py")) if "def get_config(" in path.read_text()]
        if paths and not (root == PROJECT and Path().resolve() == PROJECT):
            lines += ["", f"Configs in {root.resolve()}:", ""]
            lines += [f"  {path.relative_to(root)!s:51}{_first_line(path)}" for path in paths]
    return "\n".join(lines)


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def with_adapter(cfg: TrainConfig, arguments: Sequence[str]) -> TrainConfig:
    """The config, with an adapter where flags set its fields and it has none.

    Raises:
        ValueError: the flags do not name it.
    """
    if cfg.adapter is not None or not any(argument.startswith("--adapter.") for argument in arguments):
        return cfg
    flag = "--adapter.name"
    names = [value for argument, value in itertools.pairwise(arguments) if argument == flag]
    names += [argument.removeprefix(f"{flag}=") for argument in arguments if argument.startswith(f"{flag}=")]
    if not names:
        raise ValueError(f"this config trains the whole network; give the adapter a name: {flag} NAME")
    return dataclasses.replace(cfg, adapter=AdapterConfig(name=names[-1]))


def read_config(path: str) -> TrainConfig:
    """What a config file's `get_config()` returns.

    It imports from its own folder, and the project's configs from anywhere: `from configs.toy.sft import get_config`.

    Raises:
        ValueError: there is no such file, it has no such function, or it raises an exception; the line is named.
    """
    if not path.endswith(".py") or not Path(path).is_file():
        given = f"no such file: {path}" if path and not path.startswith("-") else "no config was given"
        raise ValueError(f"{given}; usage: python -m lcv_jax.train CONFIG.py [--help], with one of configs/")
    cfg = call_in_file(path, "get_config")
    if not isinstance(cfg, TrainConfig):
        raise ValueError(f"{path} must define get_config() that returns a lcv_jax.training.config.TrainConfig")
    return cfg


# 2. The run


def train(cfg: TrainConfig) -> None:
    """Trains from where the run stands to its last step, and writes its weights.

    Raises:
        ValueError: a config that makes no sense, or another one than the run was begun with; a run that is in use.
        FloatingPointError: a loss or gradient that is not finite, too often in a row.
        OSError: files that cannot be read or written.
    """
    devices = cfg.devices
    initialize(devices.coordinator, devices.num_processes, devices.process_id)
    same = dataclasses.replace(cfg, checkpoint=Path(), devices=dataclasses.replace(devices, process_id=None))
    check_same_config({"config": same, "content": content_of(cfg)})
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "lcv_jax" / "xla"))
    mesh = make_mesh(devices.data, devices.fsdp, devices.seq)
    base = open_base(cfg, mesh)
    check_start(cfg, base)
    learner = networks.learner_of(with_warmup(cfg), network_of(cfg, base), mesh)
    with locked(cfg.run), jax.set_mesh(mesh), _asked_to_stop() as stop:
        check_config(cfg)
        start = start_of(cfg, learner)
        inputs = (
            Rollouts(cfg, mesh, base, learner)
            if isinstance(base, Pipeline) and cfg.rollout
            else Inputs(cfg, mesh, base)
        )
        with contextlib.closing(inputs), contextlib.closing(Checkpoints(cfg.run, cfg.checkpoints)) as checkpoints:
            if isinstance(base, Pipeline):
                check_sizes(cfg, base, [(size, kind.num_cond_latents) for kind, size in inputs.kinds])
            rows = check_data(cfg, inputs.rows)
            if (checkpoints.latest or 0) >= cfg.steps and (cfg.run / WEIGHTS).exists():
                print(f"{cfg.run} is done already: its weights are in {cfg.run / WEIGHTS}", file=sys.stderr)
                return
            note(_summary(cfg, learner, start, checkpoints.latest))
            frozen = start.frozen()
            if checkpoints.latest is None:
                state = start.state()
            else:
                state, place = checkpoints.resume(start.shapes(), move_damaged=True)
                inputs.set_state(place)
            begin(cfg, rows)
            state = _steps(cfg, learner, state, frozen, inputs, base, checkpoints, stop)
            checkpoints.wait()
            if int(state.step) >= cfg.steps:
                _finish(cfg, learner, state, frozen, inputs)


def open_inputs(cfg: TrainConfig, mesh: Mesh, base: Base, learner: Learner) -> Inputs | Rollouts:
    """Where batches come from: data, or the policy itself."""
    if cfg.rollout is None:
        return Inputs(cfg, mesh, base)
    assert isinstance(base, Pipeline)
    return Rollouts(cfg, mesh, base, learner)


def _summary(cfg: TrainConfig, learner: Learner, start: networks.Start, latest: int | None) -> str:
    """What is about to happen, and where to watch it."""
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(start.shapes().params))
    trained = f"adapter {cfg.adapter.name!r} of rank {cfg.adapter.rank}" if cfg.adapter else f"all of the {cfg.network}"
    place = "from the start" if latest is None else f"resumed after step {latest}"
    return (
        f"training {trained}: {count / 1e6:,.1f} M parameters, {cfg.steps} steps of {cfg.batch_size} samples, {place}\n"
        f"metrics in {cfg.run / 'metrics.jsonl'}; curves: pip install tensorboard, tensorboard --logdir {cfg.run}\n"
        f"loading {cfg.checkpoint} ..."
    )


class Stop:
    """Whether somebody asked for the run to end: SIGTERM, which schedulers send before they kill."""

    def __init__(self) -> None:
        self.asked = False

    def at(self, step: int) -> bool:
        """Whether to stop after this step; of several processes all say the same."""
        if jax.process_count() == 1:
            return self.asked
        return multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Stop]:
    """Within, SIGTERM asks instead of killing; with several processes JAX listens for it and agrees on a step."""
    stop = Stop()
    if jax.process_count() > 1:
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True

    with handling(ask, signal.SIGTERM):
        yield stop


# 3. The loop


def _steps(
    cfg: TrainConfig,
    learner: Learner,
    state: TrainState,
    frozen: Frozen,
    inputs: Inputs | Rollouts,
    base: Base,
    checkpoints: Checkpoints,
    stop: Stop,
) -> TrainState:
    """The state after the last step, or after the one at which the run was asked to stop."""
    first = int(state.step)
    if cfg.samples.every:
        note(f"samples in {cfg.run / 'samples'} show the {kept_weights(cfg)[0]} weights")
    metrics = Metrics(cfg.run, cfg.logging, first_step=first, last_step=cfg.steps, peak_flops=_peak_flops(learner))
    in_flight: list[tuple[int, Measured]] = []
    due = stopping = False
    with metrics, _profiler(cfg) as profile, _observing(cfg, learner, frozen, base, metrics) as observe:
        for step in range(first + 1, cfg.steps + 1):
            profile(step)
            asked = time.perf_counter()
            kind, batch = inputs.next(state, frozen)
            waited = time.perf_counter() - asked
            if step == 1:
                observe.validate(0, state)
                observe(0, state, batch)
            name, shapes = _kind_of(kind, batch)
            with metrics.compiling(f"the step for {name}", (kind, shapes)):
                state, measured = train_step(learner, state, frozen, batch, kind)
            tokens, flops = tokens_and_flops(learner, batch, kind)
            work = Work(task=kind.task, tokens=tokens, flops=flops, waited=waited, told=inputs.told)
            metrics.add(step, measured, work)
            in_flight.append((step, measured))
            if len(in_flight) > AHEAD:
                _check_finite(cfg, *in_flight.pop(0))
            observe.validate(step, state)  # before a checkpoint, lest one of diverged weights takes a good one's place
            stopping = stop.at(step) or stopping
            due = due or step % cfg.checkpoints.every == 0 or step == cfg.steps or stopping
            if due and inputs.at_rest:
                due = False
                while in_flight:  # a checkpoint of weights that are known to be good
                    _check_finite(cfg, *in_flight.pop(0))
                checkpoints.save(state, inputs.get_state(), step)
            observe(step, state, batch)
            if stopping and inputs.at_rest:
                metrics.note(f"asked to stop: saved at step {step}; the same command resumes from there")
                break
        while in_flight:
            _check_finite(cfg, *in_flight.pop(0))
        metrics.flush()
    return state


@contextlib.contextmanager
def _observing(cfg: TrainConfig, learner: Learner, frozen: Frozen, base: Base, metrics: Metrics) -> Iterator[Observer]:
    with contextlib.closing(Observer(cfg, learner, frozen, base, metrics)) as observer:
        yield observer


def _kind_of(kind: BatchKind, batch: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """A batch's kind in words, and the shapes that a step is compiled for."""
    shapes = tuple((name, array.shape) for name, array in sorted(batch.items()))
    if "ids_BL" in batch:
        return f"{kind.task} ({batch['ids_BL'].shape[-1]} tokens)", shapes
    sizes = next((array.shape[1:4] for name, array in sorted(batch.items()) if array.ndim == 5), ())
    given = f", {kind.num_cond_latents} condition latents" if kind.num_cond_latents else ""
    return f"{kind.task} ({'x'.join(map(str, sizes))} latents{given})", shapes


def _check_finite(cfg: TrainConfig, step: int, measured: Measured) -> None:
    """Raises FloatingPointError if too many steps in a row were skipped."""
    skipped = int(measured["skipped"])
    if skipped > cfg.optimizer.max_skipped:
        values = f"loss {float(measured['loss'])}, gradient norm {float(measured['grad_norm'])}"
        raise FloatingPointError(
            f"not finite at step {step}: {values}, {skipped} in a row. The same command resumes from the checkpoint "
            "before: allow some with --optimizer.max-skipped, or start a run with a lower learning rate"
        )


@contextlib.contextmanager
def _profiler(cfg: TrainConfig) -> Iterator[Any]:
    """A function that, told each step, begins and ends a trace."""
    tracing = False

    def at(step: int) -> None:
        nonlocal tracing
        if cfg.logging.profile is None:
            return
        first, last = cfg.logging.profile
        if step == first:
            jax.profiler.start_trace(str(cfg.run / "profile"))
            tracing = True
        elif step == last + 1 and tracing:
            jax.profiler.stop_trace()
            tracing = False

    try:
        yield at
    finally:
        if tracing:
            jax.profiler.stop_trace()


def _peak_flops(learner: Learner) -> float | None:
    """Of all devices of the mesh a second, if they are GPUs that are known."""
    one = peak_flops(learner.mesh.devices.flat[0].device_kind)
    return None if one is None else one * learner.mesh.size


# 4. The end


def _finish(cfg: TrainConfig, learner: Learner, state: TrainState, frozen: Frozen, inputs: Any) -> None:
    """Writes RUN/weights and RUN/weights_raw; an autoencoder's latents are measured first, to be normalised by.

    Not where latents are to stay: they are normalised as before.
    """
    kept = kept_weights(cfg)
    configs: dict[WhichWeights, dict[str, PublishedConfig]] = {which: {} for which in kept}
    if isinstance(cfg.objective, Autoencoder) and not cfg.objective.keeps_latents:
        assert isinstance(learner.model, WanVAE)
        statistics = {which: LatentStatistics(learner.model.cfg) for which in kept}
        for _ in range(STATISTICS_BATCHES):
            _, batch = inputs.next()
            for which in kept:
                statistics[which].add(learner.model, choose(state, which), batch["video_BTHWC"])
        configs = {which: {"vae": statistics[which].config()} for which in kept}
    folders = dict(zip(kept, (cfg.run / WEIGHTS, cfg.run / RAW_WEIGHTS), strict=False))
    if jax.process_index() == 0:
        for folder in folders.values():  # of the run before it was given more steps
            shutil.rmtree(folder, ignore_errors=True)
    for which in reversed(kept):  # RUN/weights, which says that the run is done, comes last
        save_weights(cfg, learner, folders[which], state, frozen, which=which, configs=configs[which])
    for name, reason in inputs.quarantined.items():
        print(f"warning: {name} was left out: {reason}", file=sys.stderr)
    others = "".join(f"; {which} weights in {folders[which]}" for which in kept[1:])
    print(f"done: weights in {cfg.run / WEIGHTS} ({kept[0]}){others}", file=sys.stderr)


if __name__ == "__main__":
    main()
