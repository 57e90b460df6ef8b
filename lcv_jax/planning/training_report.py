"""What a plan of training adds up to, and what to change when it does not fit."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from lcv_jax.planning.compiling import Stage
from lcv_jax.planning.report import Floor, Plan, gigabytes
from lcv_jax.planning.training import TrainingStage

USUAL_UTILISATION = 0.35
"""Of published peaks, by operations of the model: the report (section 4.4) has 33 to 38 % for these trainings."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What the config says that advice depends on."""

    config: str
    network: str
    """What is known of the network that is trained."""
    steps: int
    batch_size: int
    accumulation: int
    groups: int
    """Of GPUs that each compute samples of their own; those of a group share the tokens of a sample."""
    mesh: str
    fsdp: int
    """GPUs along this axis of the mesh."""
    sharding: str
    remat: str
    dtype: str
    adapted: bool
    averaged: bool

    @property
    def samples(self) -> int:
        """That a group of GPUs computes at a time."""
        return self.batch_size // self.accumulation // self.groups

    def describe(self, num_gpus: int) -> str:
        """The batch in words."""
        each = num_gpus // self.groups
        group = "each GPU" if each == 1 else f"each group of {each} GPUs"
        parts = f" in {self.accumulation} parts" if self.accumulation > 1 else ""
        return f"A batch of {self.batch_size}{parts}: {self.samples} at a time on {group}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan(Plan):
    """The whole answer: a step of every kind of batch."""

    training: TrainingSetup
    rewards: Sequence[str] = ()
    """What its reward models cost, a sentence each."""
    stages: Sequence[TrainingStage]  # type: ignore[assignment]

    @property
    def seconds(self) -> float:
        """Of one step at the least, the mean over kinds of batches by their shares, with its part of a rollout."""
        return self.mean([self.floor(stage).seconds for stage in self.stages])

    @property
    def usual_seconds(self) -> float:
        """Of one step at the utilisation that the report has."""
        return self.mean([self.usual(stage) for stage in self.stages])

    def usual(self, stage: TrainingStage) -> float:
        """Of a step of this kind at the utilisation that the report has."""
        return stage.model_flops / stage.shares / self.gpu.speed.bf16_flops / USUAL_UTILISATION

    def mean(self, values: Sequence[float]) -> float:
        """Over the planned kinds of batches, by their shares; what a rollout runs for a step is added to them."""
        shares = [stage.share for stage in self.stages]
        kinds = sum(stage.share for stage in self.stages if stage.task != "rollout") or 1.0
        return sum(share * value for share, value in zip(shares, values, strict=True)) / kinds

    def floor(self, stage: Stage) -> Floor:
        """Of one step of this kind, with what goes to the host's memory and back."""
        assert isinstance(stage, TrainingStage)
        host = stage.host_traffic_bytes / self.gpu.speed.host_bandwidth
        return dataclasses.replace(super().floor(stage), host=host)

    def assumptions(self) -> list[str]:
        """What the numbers rest on."""
        lines = super().assumptions()
        lines.append(
            "Of each kind of batch the largest bucket. Model TFLOP leave out what is computed again; the floors count "
            f"it. The usual time is that of {USUAL_UTILISATION:.0%} of the peak by model TFLOP (the report has 33 to "
            "38 %). Samples, checkpoints, and networks that encode data while training are not counted."
        )
        if self.rewards:
            lines += [
                *self.rewards,
                "Prompts of reward models are counted in characters unless their folders are there.",
            ]
        if any(stage.host_bytes for stage in self.stages):
            most = max(stage.host_bytes for stage in self.stages) * min(self.num_gpus, self.per_host or self.num_gpus)
            lines.append(
                f"A host needs {gigabytes(most)} of its own memory for what is kept there; floors assume "
                f"{self.gpu.speed.host_bandwidth / 1e9:.0f} GB/s each way for every GPU."
            )
        return lines

    def advice(self) -> list[str]:
        """What to change, what saves the most first; nothing where it fits."""
        if self.fits:
            return []
        peak, setup = self.peak, self.training
        assert isinstance(peak, TrainingStage)
        state = sum(size for name, size in peak.resident_bytes.items() if name not in ("frozen", "encoders", "judges"))
        activations = peak.temporary_bytes - peak.gradient_bytes
        found: list[tuple[int, str]] = []
        if setup.dtype == "float32":
            found.append((activations // 2, "--dtype bfloat16"))
        if setup.sharding == "zero_2" and self.num_gpus > 1:
            whole = sum(peak.resident_bytes.get(name, 0) for name in ("parameters", "frozen"))
            found.append((whole * (self.num_gpus - 1) // self.num_gpus, "--devices.sharding full"))
        if setup.samples > 1:
            found.append((activations // 2, f"--optimizer.accumulation {2 * setup.accumulation}"))
        if setup.remat == "none":
            found.append((activations // 2, "--remat attention"))
        elif setup.remat == "attention":
            found.append((activations // 3, "--remat full: a forward pass more"))
        if setup.remat != "offload":
            found.append((activations // 2, "--remat offload: what is kept lies in the host's memory"))
        seq = self.num_gpus // setup.groups
        if setup.groups > 1 and setup.samples == 1:
            fewer = f"--devices.seq {2 * seq}, and --devices.fsdp or --devices.data half as many"
            found.append((activations // 2, f"{fewer}: twice as many GPUs share the tokens of a sample"))
        more = f"--num-gpus {2 * self.num_gpus}"
        if setup.groups == 1 or setup.samples > 1:
            more += f" with --devices.seq {2 * seq}"
            found.append((activations // 2 + (state + peak.gradient_bytes) // 2, more))
        else:
            more += f" with --devices.fsdp {2 * setup.fsdp}"
            found.append(((state + peak.gradient_bytes) // 2, f"{more}: smaller parts of the state"))
        if setup.averaged:
            found.append(
                (peak.resident_bytes.get("average", 0), "--optimizer.ema-decay None: no average of the weights")
            )
        missing = peak.peak_bytes - self.usable_bytes
        lines = [
            f"{text}: saves about {gigabytes(saved)}" + (", enough alone" if saved >= missing else "")
            for saved, text in sorted(found, reverse=True)
            if saved > 0
        ]
        adapter = [] if setup.adapted else ["an adapter (another training: of frozen weights, in bfloat16)"]
        return [*lines, "smaller buckets: --data.sizes FRAMES HEIGHT WIDTH", *adapter]

    def to_json(self) -> dict[str, Any]:
        """Everything, in bytes, seconds and operations."""
        setup = {**dataclasses.asdict(self.training), "samples": self.training.samples}
        return {**super().to_json(), "setup": setup, "usual_seconds": self.usual_seconds, "rewards": [*self.rewards]}

    def _stage_json(self, stage: Stage) -> dict[str, Any]:
        assert isinstance(stage, TrainingStage)
        found = super()._stage_json(stage)
        del found["cache_bytes"], found["flops_by_part"]
        return {**found, "host_seconds": self.floor(stage).host, "usual_seconds": self.usual(stage)}
