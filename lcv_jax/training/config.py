"""What a training run is told: one frozen dataclass, whose fields are the flags of train.py.

A file of configs/ returns one from `get_config()`. Fields that a run may change when it goes on (how long it trains,
how it is split over devices, what it writes) are in `CHANGEABLE`; a checkpoint made with others is refused.
"""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from lcv_jax.bounds import (
    Axis,
    Bounds,
    Count,
    Finite,
    Positive,
    Seed,
    Whole,
    check_fields,
)
from lcv_jax.captioning.pairs import CaptionsConfig
from lcv_jax.config import BlockSparseConfig
from lcv_jax.data.config import DataConfig
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.objectives.self_forcing import SelfForcing
from lcv_jax.parallel.context import ContextParallel
from lcv_jax.training.kinds import DATA, NETWORKS, Network, Objective
from lcv_jax.training.observe_config import EvaluationConfig, SamplesConfig, ValidationConfig
from lcv_jax.training.rollout_config import RolloutConfig

CHANGEABLE = (
    "run", "steps", "devices", "checkpoints", "logging", "samples", "validation", "evaluation", "remat", "data.workers",
    "data.prefetch", "optimizer.max_skipped",
    "checkpoint", "data.path", "data.tokenizer", "adapter.start", "adapter.teacher",
)  # fmt: skip
"""Fields, or groups of them, that may differ from what a run was begun with. What paths lead to counts by its content,
which training/folder.py compares."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and then a constant rate (report, table 5), or one that falls by a half cosine."""

    learning_rate: Positive = 1e-4
    """After the warm-up."""
    warmup_steps: Whole = 0
    """Steps over which the rate grows from 0. If the run is shorter than that when it first starts, the warm-up takes a
    tenth of it instead."""
    decay_steps: Count | None = None
    """Step at which the rate has fallen to a tenth, by a half cosine after the warm-up. None: constant."""
    b1: Annotated[float, Bounds(least=0, below=1)] = 0.9
    """Decay of the gradients' average."""
    b2: Annotated[float, Bounds(least=0, below=1)] = 0.99
    """Decay of the squared gradients' average."""
    eps: Annotated[float, Bounds(above=0, most=1)] = 1e-8
    """Added to its square root."""
    weight_decay: Annotated[float, Bounds(least=0, most=1000)] = 0.01
    """Of kernels and adapters; biases, norms and embeddings have none."""
    clip_norm: Positive = 1.0
    """The gradient's norm is cut to this."""
    accumulation: Count = 1
    """Parts that a batch is computed in, one after the other: less memory, the same gradient."""
    ema_decay: Annotated[float, Bounds(least=0, below=1)] | None = 0.9999
    """Of the exponential moving average (EMA) of the weights, which samples use and which is exported by default. At
    step t the decay is min(ema_decay, (1 + t) / (10 + t)), so that short runs are averaged too. None: no average."""
    max_skipped: Whole = 0
    """Steps in a row with a loss or gradient that is not finite that are passed over; one more ends the run."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise ValueError(f"decay_steps must be above warmup_steps, got {self.decay_steps} and {self.warmup_steps}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """A low-rank adapter to train instead of all parameters, on every linear of the blocks as published.

    Of a judge or a captioner it adapts the text model, and is folded in when exported; the vision tower (see
    `train_vision`), and a judge's head and reward tokens, are trained in full.
    """

    name: str
    """What it is called when exported, such as cfg_step_lora."""
    rank: Annotated[int, Bounds(least=1, most=2**16)] = 128
    """Columns of its narrow side."""
    alpha: Positive = 64.0
    """What it adds is multiplied by alpha / rank."""
    start: str | None = None
    """An adapter to start from: one of the checkpoint, FOLDER/adapters/NAME of another one, or a .safetensors file."""
    teacher: str | None = None
    """The adapter, likewise, that a distillation's teacher has. None: that of `start`; of self-forcing none."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"adapter.name must be of letters, digits, '.', '_' and '-', got {self.name!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DevicesConfig:
    """Which devices work together; they are those of all processes. Products of data, fsdp and seq are their number."""

    data: Axis = -1
    """Groups that each take a part of the batch. -1: all that the others leave."""
    fsdp: Axis = 1
    """Likewise, and each keeps its part of the optimiser's state."""
    seq: Axis = 1
    """Devices that share the tokens of a video."""
    sharding: Literal["zero_2", "full"] = "zero_2"
    """What is kept in parts over fsdp and seq: gradients, moments and averages, or the parameters too."""
    context: Literal["ulysses", "ring", "ulysses_ring"] = "ulysses"
    """How attention is split over seq: heads are exchanged for tokens, or keys and values go round."""
    ring_size: Count | None = None
    """Devices of a ring, for ulysses_ring; the others exchange heads."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where there are several that SLURM, Open MPI or Kubernetes did not start."""
    num_processes: Count | None = None
    """How many there are."""
    process_id: Whole | None = None
    """Which one this is, from 0."""

    def __post_init__(self) -> None:
        check_fields(self)

    def attention(self) -> ContextParallel:
        """How attention is split."""
        return ContextParallel(strategy=self.context, ring_size=self.ring_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointsConfig:
    """What is saved so that the run can go on."""

    every: Count = 1000
    """Steps between two checkpoints; the last step and SIGTERM save one too."""
    keep: Count = 2
    """How many of the latest are kept."""
    keep_every: Count | None = None
    """Those at multiples of this many steps are kept for good."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.keep_every is not None and self.keep_every % self.every:
            raise ValueError(
                f"checkpoints.keep_every must be a multiple of checkpoints.every = {self.every}: no other step has a "
                f"checkpoint to keep; got {self.keep_every}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What is told while training."""

    every: Count = 10
    """Steps that a line of metrics.jsonl, of TensorBoard and of the console are averaged over."""
    timestep_bins: Annotated[int, Bounds(least=1, most=1000)] = 4
    """Parts of [0, 1] whose errors are told apart."""
    profile: tuple[Count, Count] | None = None
    """First and last step of a trace for XProf or Perfetto, written to RUN/profile."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.profile is not None and self.profile[0] > self.profile[1]:
            raise ValueError(f"logging.profile must be the first and the last step of a trace, got {self.profile}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run of one stage."""

    run: Path
    """Folder of the run: checkpoints, metrics, samples and, at the end, weights/ to generate from. A run whose folder
    is there already goes on after its last checkpoint."""
    checkpoint: Path
    """Converted folder, or the weights/ of an earlier run, with the networks to start from."""
    objective: Objective
    """What is minimised."""
    data: DataConfig | PromptsConfig | PreferencesConfig | CaptionsConfig
    """What is trained on: clips, of GRPO captions, of judges pairs or ratings, of a captioner clips with captions."""
    steps: Count
    """Optimiser steps of the whole run."""
    batch_size: Annotated[int, Bounds(least=1, most=2**20)]
    """Samples a step, over all devices."""
    from_scratch: bool = False
    """Start the trained network from random weights; the checkpoint gives its config and the other networks."""
    adapter: AdapterConfig | None = None
    """Train this and freeze the network. None: train all parameters."""
    train_vision: bool | None = None
    """Of a judge or a captioner: train the vision tower in full. None: a judge's is trained, a captioner's is not."""
    fold: tuple[tuple[str, Finite], ...] = ()
    """Adapters of the checkpoint, with multipliers, that are folded into the weights to start from."""
    sparse: BlockSparseConfig | None = None
    """Block-sparse attention. None is dense."""
    rollout: RolloutConfig | None = None
    """Of GRPO: what is sampled, and how it is judged."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """What the network computes in; trained weights and their moments are float32, frozen weights are of this type."""
    remat: Literal["full", "attention", "offload", "none"] = "attention"
    """What the backward pass computes again: all of each block; all but attention; the same, with what it keeps in the
    host's memory; or nothing."""
    optimizer: OptimizerConfig = OptimizerConfig()
    devices: DevicesConfig = DevicesConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    logging: LoggingConfig = LoggingConfig()
    samples: SamplesConfig = SamplesConfig()
    validation: ValidationConfig = ValidationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: Seed = 0
    """Of the data's order, the noise, the times and random weights."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch_size % self.optimizer.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by optimizer.accumulation {self.optimizer.accumulation}"
            )
        if isinstance(self.objective, Autoencoder) and (self.adapter or self.sparse or self.fold):
            raise ValueError("the autoencoder takes no adapter, fold or sparse attention")
        if self.from_scratch and self.adapter:
            raise ValueError("an adapter is trained on weights that are there: from_scratch excludes it")
        kind = type(self.objective)
        if type(self.data) is not (wanted := DATA.get(kind, DataConfig)):
            raise ValueError(
                f"data and objective must agree: {kind.__name__} is trained on a {wanted.__name__}, got "
                f"{type(self.data).__name__}"
            )
        if isinstance(self.objective, Autoencoder):
            self._check_kept_latents(self.objective)
        if self.network in ("judge", "captioner"):
            self._check_tuned()
        elif self.train_vision is not None:
            raise ValueError("train_vision is of judges and captioners: leave it out")
        grpo = kind is GRPO
        if grpo != (self.rollout is not None):
            raise ValueError("GRPO wants a rollout, and prompts as data; other objectives want neither")
        if grpo and self.adapter is None:
            raise ValueError("GRPO trains an adapter: the model without it is what it is held near; set adapter.name")
        if isinstance(self.objective, CausalFlowMatching):
            self._check_chunks("causal training", ("t2v", "t2i"))
        if isinstance(self.objective, SelfForcing):
            self._check_chunks("self-forcing", ("t2v",))
            if self.adapter is None:
                raise ValueError(
                    "self-forcing trains an adapter: the model without it is the teacher; set adapter.name"
                )
        if "average" in self.objective.needs and self.optimizer.ema_decay is None:
            raise ValueError(f"{type(self.objective).__name__} compares with the weights' average: set ema_decay")
        if self.evaluation.every is not None:
            if self.network == "vae":
                raise ValueError("an autoencoder has no prompts: leave evaluation.every out, and watch the samples")
            if self.samples.num_frames < 3:
                raise ValueError(
                    f"evaluation measures motion: samples.num_frames must be 5 or more, got {self.samples.num_frames}"
                )
        if self.validation.every is not None:
            if grpo or isinstance(self.objective, SelfForcing):
                raise ValueError(
                    f"{kind.__name__} has no validation loss: leave validation.every out, and watch what it generates"
                )
            assert not isinstance(self.data, PromptsConfig)
            if self.validation.path is None and not self.data.held_out:
                raise ValueError("validation needs data: set data.held_out (a share, such as 0.1) or validation.path")

    def _check_kept_latents(self, objective: Autoencoder) -> None:
        assert isinstance(self.data, DataConfig)
        if bool(objective.keep_weight) != (self.data.keep_column is not None):
            raise ValueError(
                "objective.keep_weight and data.keep_column belong together: the column says which clips' latents are "
                f"to stay; got {objective.keep_weight} and {self.data.keep_column}"
            )
        if objective.keep_weight and self.from_scratch:
            raise ValueError("objective.keep_weight keeps latents as they are when training starts: not from_scratch")
        if not objective.encoder and (objective.keep_weight or self.from_scratch or self.optimizer.weight_decay):
            raise ValueError(
                "objective.encoder False keeps all latents as they are when training starts: it wants keep_weight 0, "
                "not from_scratch, and optimizer.weight_decay 0, or the encoder would shrink; got keep_weight "
                f"{objective.keep_weight}, from_scratch {self.from_scratch}, "
                f"weight_decay {self.optimizer.weight_decay}"
            )

    def _check_chunks(self, what: str, tasks: tuple[str, ...]) -> None:
        """Of training for streams."""
        assert isinstance(self.data, DataConfig)
        if self.sparse is not None:
            raise ValueError(f"{what} has dense attention only: leave sparse out")
        wrong = [name for name in self.data.tasks.positive() if name not in tasks]
        if wrong:
            reason = "makes whole clips" if wrong[0] == "t2i" else "has no condition frames"
            raise ValueError(f"{what} {reason}: set data.tasks.{wrong[0]} to 0, and {' and '.join(tasks)} only")

    def _check_tuned(self) -> None:
        what = f"a {self.network}"
        if self.sparse or self.fold or self.from_scratch:
            raise ValueError(f"{what} takes no sparse attention and no fold, and starts from the weights of checkpoint")
        if self.adapter and (self.adapter.start or self.adapter.teacher):
            raise ValueError(f"an adapter of {what} starts fresh: leave adapter.start and adapter.teacher out")
        if self.samples.every is not None or self.evaluation.every is not None:
            raise ValueError(f"{what} makes no videos: leave samples.every and evaluation.every out, use validation")
        if self.devices.seq > 1:
            raise ValueError(f"the tokens of {what} are not split: devices.seq must be 1, got {self.devices.seq}")

    @property
    def network(self) -> Network:
        """Which network is trained."""
        return NETWORKS.get(type(self.objective), "dit")

    def to_json(self) -> dict[str, Any]:
        """All fields, for config.json."""
        fields = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        fields["objective"] = {"kind": type(self.objective).__name__, **fields["objective"]}
        if not isinstance(self.data, DataConfig):
            fields["data"] = {"kind": type(self.data).__name__, **fields["data"]}
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "TrainConfig":
        """The config that `to_json` gave these of; what an older version did not have yet is as it is by default.

        Raises:
            ValueError: a field is unknown here, or lacks and has no default.
        """
        try:
            return _read(cls, fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"a config of another version of lcv_jax: {error}") from None


def _read(hint: Any, value: Any) -> Any:
    """A value of JSON as an annotation says: dataclasses, tuples and paths; what is as it should be stays."""
    if isinstance(hint, types.UnionType):
        choices = [one for one in typing.get_args(hint) if one is not types.NoneType]
        if value is None:
            return value
        if isinstance(value, Mapping) and "kind" in value:
            named = {one.__name__: one for one in choices}[value["kind"]]
            return _read(named, {name: each for name, each in value.items() if name != "kind"})
        return _read(choices[0], value)
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        inner = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_read(one, each) for one, each in zip(inner, value, strict=True))
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        assert isinstance(hint, type)
        hints = typing.get_type_hints(hint)
        return hint(**{name: _read(hints[name], each) for name, each in value.items()})
    return Path(value) if hint is Path else value


def differences(begun: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """What differs between two configs as `to_json` gives them and may not: "path was X, is Y"."""
    found = []
    for name in sorted({*begun, *now}):
        place = f"{path}{name}"
        if place in CHANGEABLE:
            continue
        was, is_now = begun.get(name, math.nan), now.get(name, math.nan)
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            found += differences(was, is_now, f"{place}.")
        elif was != is_now:
            told = ["absent" if value is math.nan else json.dumps(value) for value in (was, is_now)]
            found.append(f"{place} was {told[0]}, is {told[1]}")
    return found
