"""What a plan adds up to: whether it fits, how fast it can be at best, and what to change when it does not fit."""

import dataclasses
from typing import Any

from lcv_jax.checkpoint.streamed import LAYERS_UNDER_WAY
from lcv_jax.diffusion.step_cache import FIRST_STEPS, LAST_STEPS
from lcv_jax.gpus import GPU
from lcv_jax.planning.compiling import Stage
from lcv_jax.planning.requests import ADAPTERS, FOLDED

PREALLOCATED = 0.75
"""Share of a GPU's memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Floor:
    """Seconds that a stage takes at the very least, on one of the devices that share it."""

    compute: float
    memory: float
    links: float
    network: float = 0.0
    host: float = 0.0

    @property
    def seconds(self) -> float:
        """The longest of them, the others hidden behind it."""
        return getattr(self, self.bound)

    @property
    def bound(self) -> str:
        """Which one is the longest."""
        return max((field.name for field in dataclasses.fields(self)), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What was asked for, beside the task; advice depends on it."""

    dtype: str = "bfloat16"
    fold_adapters: bool = True
    vae_tiles: bool = False
    keep_text_encoder: str = "device"
    weights: str = "resident"
    use_cache: bool = True
    step_cache: float = 0.0
    guided: bool = False
    num_prompts: int = 1
    parameters: str = "whole"
    mesh: str = ""
    chunk_frames: int = 0
    """Of a stream: frames of video that one run of the stages makes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole answer."""

    gpu: GPU
    num_gpus: int
    per_host: int | None = None
    """GPUs of a host, where there are several hosts."""
    network_bandwidth: float | None = None
    """Bytes a second of each GPU between hosts; None: what such machines usually have."""
    reserve: float
    """Share of a GPU's memory that is left for what XLA does not count."""
    setup: Setup
    stages: list[Stage]

    @property
    def usable_bytes(self) -> int:
        """Of one GPU's memory."""
        return int(self.gpu.memory_bytes * (1 - self.reserve))

    @property
    def peak(self) -> Stage:
        """The stage that needs the most."""
        return max(self.stages, key=lambda stage: stage.peak_bytes)

    @property
    def host_bytes(self) -> int:
        """Host memory for parameters, once all are loaded."""
        return max(stage.host_bytes for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        return self.peak.peak_bytes <= self.usable_bytes

    @property
    def seconds(self) -> float:
        """Of all stages, at the least."""
        return sum(stage.times * self.floor(stage).seconds for stage in self.stages)

    def floor(self, stage: Stage) -> Floor:
        """Of one run of a stage."""
        speed = self.gpu.speed
        return Floor(
            compute=stage.flops / stage.shares / speed.bf16_flops,
            memory=stage.moved_bytes / self.gpu.memory_bandwidth,
            links=stage.sent_bytes / speed.link_bandwidth,
            network=stage.network_bytes / (self.network_bandwidth or speed.network.bandwidth),
            host=stage.fetched_bytes / speed.host_bandwidth,
        )

    def parameters(self) -> dict[str, int]:
        """Bytes of parameters on one GPU when all are loaded, by component."""
        return {name: size for stage in self.stages for name, size in stage.resident_bytes.items()}

    def assumptions(self) -> list[str]:
        """What the numbers rest on."""
        speed = self.gpu.speed
        lines = [
            f"Memory: {gigabytes(self.gpu.memory_bytes)} on the GPU, of which {self.reserve:.0%} are left for what XLA "
            "does not count: the driver, collectives, cuDNN's workspace (which is known only where the GPU is), "
            "arrays between programs, fragmentation.",
            f"Floors: {speed.bf16_flops / 1e12:,.0f} TFLOP/s of dense bfloat16, "
            f"{self.gpu.memory_bandwidth / 1e12:.2f} TB/s of memory ({speed.source})"
            + (f", {speed.link_bandwidth / 1e9:.0f} GB/s each way over {speed.link}" if self.num_gpus > 1 else "")
            + self._between_hosts()
            + ", all at their peaks; the longest of them, the others hidden behind it. Of memory traffic only "
            "parameters, caches, inputs and outputs are counted. Real programs take longer.",
        ]
        if self.setup.chunk_frames:
            seconds = sum(self.floor(stage).seconds for stage in self.stages if stage.name != "encode text")
            lines.append(
                f"Stream: {self.setup.chunk_frames} frames in at least {seconds:.3g} s, so at most "
                f"{self.setup.chunk_frames / seconds:.3g} frames a second."
            )
        if self.setup.weights == "stream":
            lines.append(
                f"Streamed weights: {gigabytes(self.host_bytes)} of host memory, {LAYERS_UNDER_WAY} layers more while "
                f"they load; copies at {self.gpu.speed.host_bandwidth / 1e9:.0f} GB/s at best."
            )
        if self.setup.step_cache:
            lines.append(
                f"Step cache: how many steps it skips depends on the video, so the floor of 'denoise' counts only the "
                f"{FIRST_STEPS + LAST_STEPS} steps that always evaluate. Leave --step-cache out for that of all steps."
            )
        if self.setup.dtype == "float32":
            lines.append("float32 multiplies several times slower than the bfloat16 that the floors are about.")
        if self.fits and self.peak.peak_bytes > PREALLOCATED * self.gpu.memory_bytes:
            share = min(0.99, 1 - self.reserve / 2)
            lines.append(
                f"JAX takes {PREALLOCATED:.0%} of a GPU's memory by itself, which is not enough here: "
                f"set XLA_PYTHON_CLIENT_MEM_FRACTION={share:.2f}."
            )
        return lines

    def _between_hosts(self) -> str:
        if self.per_host is None:
            return ""
        bandwidth = self.network_bandwidth or self.gpu.speed.network.bandwidth
        given = "as told" if self.network_bandwidth else f"assumed: {self.gpu.speed.network.name}"
        return f" within a host of {self.per_host}, and {bandwidth / 1e9:.1f} GB/s a GPU between hosts ({given})"

    def advice(self) -> list[str]:
        """What to change, what saves the most at the worst stage first; nothing where it fits."""
        if self.fits:
            return []
        peak, setup, all_of = self.peak, self.setup, self.parameters()
        found: list[tuple[int, str]] = []
        if setup.dtype == "float32":
            found.append((peak.peak_bytes // 2, "--dtype bfloat16"))
        if FOLDED in peak.resident_bytes:
            own = "convert the checkpoint with --fold ADAPTER, or --no-fold-adapters"
            found.append((peak.resident_bytes[FOLDED], own))
        if "text_encoder" in peak.resident_bytes and peak.name != "encode text" and setup.keep_text_encoder == "device":
            found.append((peak.resident_bytes["text_encoder"], "--keep-text-encoder host (or disk)"))
        if peak.name in ("encode", "decode") and not setup.vae_tiles:
            found.append((peak.temporary_bytes // 2, "--vae-tiles"))
        if peak.cache_bytes and setup.use_cache:
            found.append((peak.cache_bytes, "--no-use-cache (the same video, slower)"))
        if peak.name == "denoise":
            working = peak.temporary_bytes - peak.cache_bytes
            if setup.num_prompts > 1:
                rest = working * (setup.num_prompts - 1) // setup.num_prompts
                found.append((rest, "one prompt at a time"))
            elif setup.guided:
                found.append((working // 2, "--guidance-scale 1 (another video, in half the time)"))
            more = f"--num-gpus {2 * self.num_gpus}, with tokens split over twice as many"
            found.append((peak.temporary_bytes // 2, more))
        if setup.parameters == "whole":
            split = sum(all_of.get(name, 0) for name in ("dit", "text_encoder", FOLDED, ADAPTERS))
            gpus = max(2, self.num_gpus)
            found.append((split * (gpus - 1) // gpus, f"--parameters split on {gpus} GPUs, fetched layer by layer"))
        elif self.num_gpus > 1:
            found.append(
                (sum(peak.resident_bytes.values()) // 2, f"--num-gpus {2 * self.num_gpus}, with smaller parts")
            )
        if self.num_gpus == 1 and setup.weights == "resident":
            streamed = sum(all_of.get(name, 0) for name in ("dit", FOLDED) if name in peak.resident_bytes)
            found.append((int(0.95 * streamed), "--weights stream (layers in host memory)"))
            found.append((int(0.47 * all_of.get("dit", 0)), "convert the checkpoint with --quantize int8"))
        missing = peak.peak_bytes - self.usable_bytes
        lines = [
            f"{text}: saves about {gigabytes(saved)}" + (", enough alone" if saved >= missing else "")
            for saved, text in sorted(found, reverse=True)
            if saved > 0
        ]
        return [*lines, "fewer or smaller frames"]

    def to_json(self) -> dict[str, Any]:
        """Everything, in bytes, seconds and operations."""
        return {
            "gpu": self.gpu.name,
            "num_gpus": self.num_gpus,
            "gpus_per_host": self.per_host or self.num_gpus,
            "memory_bytes": self.gpu.memory_bytes,
            "reserve": self.reserve,
            "usable_bytes": self.usable_bytes,
            "fits": self.fits,
            "peak_bytes": self.peak.peak_bytes,
            "peak_stage": self.peak.name,
            "host_bytes": self.host_bytes,
            "floor_seconds": self.seconds,
            "parameter_bytes": self.parameters(),
            "setup": dataclasses.asdict(self.setup),
            "stages": [self._stage_json(stage) for stage in self.stages],
            "assumptions": self.assumptions(),
            "advice": self.advice(),
        }

    def _stage_json(self, stage: Stage) -> dict[str, Any]:
        floor = self.floor(stage)
        times = {"compute_seconds": floor.compute, "memory_seconds": floor.memory, "link_seconds": floor.links}
        times["network_seconds"] = floor.network
        return {**dataclasses.asdict(stage), "peak_bytes": stage.peak_bytes, "sent_bytes": stage.sent_bytes, **times}


def gigabytes(num_bytes: int | float) -> str:
    """10^9 bytes each, as data sheets count."""
    if num_bytes >= 9.995e8:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e7 else f"{num_bytes / 1e6:.0f} MB"
