"""How much memory a video takes, whether it fits, and how fast it can be at best: `python -m lcv_jax.plan TASK ...`.

    python -m lcv_jax.plan text-to-video --gpu h200
    python -m lcv_jax.plan text-to-video --gpu rtx4090 --num-gpus 4 --parameters split
    python -m lcv_jax.plan refine --gpu h200 --sweep 1 2 4 8

No GPU is needed, no checkpoint and hardly any memory: the very programs of generation are compiled for GPUs that are
only described. Needs `pip install "lcv_jax[gpu-compile]"`, best in an environment of its own.
"""

import dataclasses
import functools
import json
import logging
import operator
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro
from rich.console import Console

from lcv_jax import gpus
from lcv_jax.generate import Sampling, warnings_in_one_line
from lcv_jax.options import SamplingOptions, check_refinement
from lcv_jax.parallel.context import ContextParallel
from lcv_jax.parallel.mesh import MeshShape, make_mesh
from lcv_jax.parallel.sharding import REPLICATED, full_sharding
from lcv_jax.planning import requests, tables
from lcv_jax.planning.compiling import Machine, Stage, compile_stage
from lcv_jax.planning.report import Plan, Setup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks and how they run."""

    weights: Path | None = None
    """Folder that convert_torch_weights.py wrote, of which the configs are read. None: the released 13.6B model."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What the networks are stored as and compute in."""
    fold_adapters: bool = True
    """Fold adapters into a copy of the weights. Without, they are added at every step: slower, but no copy."""
    vae_tiles: bool = False
    """Encode and decode frames in overlapping tiles: less memory, nearly the same result."""
    keep_text_encoder: Literal["device", "host", "disk"] = "device"
    """Where it stays between encodings; from the host's memory it is copied, from disk read again for the next one."""
    fold: tuple[str, ...] = ()
    """Adapters that the conversion folds into the weights (its own --fold), such as refinement_lora."""

    def load(self) -> requests.Networks:
        """Their configs."""
        read = requests.Networks() if self.weights is None else requests.networks_of(self.weights)
        return dataclasses.replace(read, folded=(*read.folded, *self.fold))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """The GPUs, and how work and parameters are split over them."""

    gpu: str = "h200"
    """One that lcv_jax/gpus describes; an unknown one prints the list."""
    num_gpus: int = 1
    """Products of data, fsdp and seq are their number."""
    gpus_per_host: int = 8
    """More than these are of several hosts."""
    network_bandwidth: float | None = None
    """GB/s that each GPU sends to other hosts. None: what hosts of such GPUs usually have; the report says it."""
    data: int = 1
    """Groups of GPUs that share prompts and the two halves of guidance."""
    fsdp: int = 1
    """Likewise, and with `--parameters split` each keeps its part of the transformer and the text encoder."""
    seq: int = -1
    """GPUs that share the tokens of a video. -1: all that the others leave."""
    parameters: Literal["whole", "split"] = "whole"
    """On every GPU, or in parts over fsdp and seq, fetched layer by layer."""
    context: Literal["ulysses", "ring", "ulysses_ring"] = "ulysses"
    """How attention is split over seq: heads are exchanged for tokens, or keys and values go round."""
    ring_size: int | None = None
    """GPUs of a ring, for ulysses_ring; the others exchange heads."""
    reserve: float = 0.08
    """Share of a GPU's memory that is kept for what XLA does not count."""

    def check(self) -> None:
        """Raises ValueError for what makes no sense."""
        gpus.described_gpu(self.gpu)
        if self.num_gpus < 1:
            raise ValueError(f"num_gpus must be at least 1, got {self.num_gpus}")
        if self.gpus_per_host < 1 or (self.num_gpus > self.gpus_per_host and self.num_gpus % self.gpus_per_host):
            raise ValueError(
                f"{self.num_gpus} GPUs are no whole number of hosts of {self.gpus_per_host}: gpus_per_host"
            )
        if self.network_bandwidth is not None and self.network_bandwidth <= 0:
            raise ValueError(f"network_bandwidth must be above 0, got {self.network_bandwidth}")
        if not 0 <= self.reserve < 1:
            raise ValueError(f"reserve is a share of the memory, in 0..1, got {self.reserve}")
        self.shape()
        self.attention()

    def shape(self) -> MeshShape:
        """Of the mesh."""
        return MeshShape(data=self.data, fsdp=self.fsdp, seq=self.seq).fit(self.num_gpus)

    def per_host(self) -> int | None:
        """GPUs of a host, where there are several hosts."""
        return self.gpus_per_host if self.num_gpus > self.gpus_per_host else None

    def attention(self) -> ContextParallel:
        """How attention is split."""
        return ContextParallel(strategy=self.context, ring_size=self.ring_size)

    def machine(self) -> Machine:
        """The described devices.

        Raises:
            OSError: XLA's compiler for GPUs is not there.
        """
        devices = gpus.described_devices(self.gpu, self.num_gpus, self.per_host())
        platform = f"gpu:{gpus.described_gpu(self.gpu).compute_capability}"
        if self.num_gpus == 1:
            return Machine(devices=devices, platform=platform)
        shape = self.shape()
        rules = full_sharding(("fsdp", "seq")) if self.parameters == "split" else REPLICATED
        mesh = make_mesh(shape.data, shape.fsdp, shape.seq, devices)
        return Machine(devices=devices, per_host=self.per_host(), platform=platform, mesh=mesh, rules=rules)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """What is planned and written."""

    only: tuple[str, ...] = ()
    """Of the stages (encode, encode text, denoise, decode, ...) only these: the autoencoder takes minutes to compile.
    Memory is that of these stages then."""
    json: Path | None = None
    """Write everything to this file too."""
    sweep: tuple[int, ...] = ()
    """Plan for these numbers of GPUs, one after the other, and draw a picture."""
    picture: Path = Path("outputs/plan.png")
    """Of a sweep."""
    markdown: bool = False
    """Print a table for a page instead: stages, or of a sweep numbers of GPUs."""


def make_plan(
    request: requests.Request,
    options: SamplingOptions,
    networks: Networks,
    devices: Devices,
    only: Sequence[str] = (),
    progress: Console | None = None,
) -> Plan:
    """Compiles what a request runs and adds it up.

    Args:
        only: names of the stages to compile; empty: all.
        progress: where to tell what is compiled.

    Raises:
        ValueError: what generation would refuse, an unknown GPU or stage, devices that do not fit.
        OSError: XLA's compiler for GPUs is not there, or it refuses a program.
    """
    devices.check()
    if isinstance(request, requests.Refine):
        check_refinement(options)
    settings = {name: getattr(networks, name) for name in ("dtype", "fold_adapters", "vae_tiles", "keep_text_encoder")}
    programs = requests.programs_of(request, options, networks.load(), context=devices.attention(), **settings)
    names = list(dict.fromkeys(program.name for program in programs))
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"no stage {', '.join(map(repr, unknown))}: there are {', '.join(map(repr, names))}")
    machine = devices.machine()
    stages: list[Stage] = []
    for program in programs:
        if only and program.name not in only:
            continue
        started = time.monotonic()
        try:
            stages.append(compile_stage(program, machine))
        except jax.errors.JaxRuntimeError as error:
            raise OSError(f"the compiler refuses {program.name!r} for {devices.gpu}: {error}") from error
        if progress:
            progress.print(f"compiled {program.name!r} in {time.monotonic() - started:.0f} s", highlight=False)
    guided = options.scale > 1 and not isinstance(request, requests.Refine)
    setup = Setup(
        **settings,
        use_cache=options.use_cache,
        guided=guided,
        num_prompts=getattr(request, "num_prompts", 1),
        parameters=devices.parameters,
        mesh=str(devices.shape()) if devices.num_gpus > 1 else "",
    )
    return Plan(
        gpu=gpus.described_gpu(devices.gpu),
        num_gpus=devices.num_gpus,
        per_host=devices.per_host(),
        network_bandwidth=devices.network_bandwidth and 1e9 * devices.network_bandwidth,
        reserve=devices.reserve,
        setup=setup,
        stages=stages,
    )


def _command(name: str, kind: type) -> Any:
    """A sub-command with the flags of a request, of sampling, the networks, the devices and the output."""
    fields: list[Any] = [("request", kind), ("sampling", Sampling), ("networks", Networks), ("devices", Devices)]
    fields.append(("output", Output))
    command = dataclasses.make_dataclass(kind.__name__, fields, kw_only=True, namespace={"__doc__": kind.__doc__})
    return Annotated[command, tyro.conf.subcommand(name=name)]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    if not jax.config.jax_platforms:  # type: ignore[attr-defined]
        jax.config.update("jax_platforms", "cpu")  # a plugin without a GPU would be an error
    logging.getLogger("absl").setLevel(logging.ERROR)
    commands = [_command(name, kind) for name, kind in requests.REQUESTS.items()]
    chosen: Any = tyro.cli(
        functools.reduce(operator.or_, commands),
        args=arguments,
        prog="python -m lcv_jax.plan",
        description="How much memory a video takes, whether it fits a GPU, and how fast it can be at best.",
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed),
    )
    try:
        with warnings_in_one_line():
            _run(chosen)
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(chosen: Any) -> None:
    output: Output = chosen.output
    options = chosen.sampling.checked()
    counts = output.sweep or (chosen.devices.num_gpus,)
    progress, console = Console(stderr=True), Console(width=None if sys.stdout.isatty() else 140)
    plans = []
    for count in counts:
        devices = dataclasses.replace(chosen.devices, num_gpus=count)
        plan = make_plan(chosen.request, options, chosen.networks, devices, output.only, progress)
        plans.append(plan)
        if not output.markdown:
            tables.show(plan, console)
    if output.markdown:
        print(tables.markdown(plans))
    if output.json:
        written = [plan.to_json() for plan in plans]
        output.json.parent.mkdir(parents=True, exist_ok=True)
        output.json.write_text(json.dumps(written if output.sweep else written[0], indent=2) + "\n", encoding="utf-8")
    if output.sweep:
        tables.draw(plans, output.picture)
        print(f"wrote {output.picture}", file=sys.stderr)


if __name__ == "__main__":
    main()
