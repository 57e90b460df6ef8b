"""How much memory a video or a training takes, whether it fits, how fast it can be: `python -m lcv_jax.plan TASK ...`.

    python -m lcv_jax.plan text-to-video --gpu h200
    python -m lcv_jax.plan text-to-video --gpu rtx4090 --num-gpus 4 --parameters split
    python -m lcv_jax.plan refine --gpu h200 --sweep 1 2 4 8
    python -m lcv_jax.plan stream --gpu h200 --distilled
    python -m lcv_jax.plan train configs/longcat_13b/pretrain_4.py --gpu h200 --num-gpus 32 --remat offload

No GPU is needed, no checkpoint and hardly any memory: the very programs of generation and training are compiled for
GPUs that are only described. Needs `pip install "lcv_jax[gpu-compile]"`, best in an environment of its own.
"""

import contextlib
import dataclasses
import functools
import logging
import operator
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro
from rich.console import Console

from lcv_jax import gpus
from lcv_jax.bounds import Axis, Bounds, Count, Positive, check_fields
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.data.manifest_config import ManifestConfig
from lcv_jax.generate import Sampling
from lcv_jax.own_files import write_json
from lcv_jax.parallel.context import ContextParallel
from lcv_jax.parallel.mesh import MeshShape, make_mesh
from lcv_jax.parallel.sharding import REPLICATED, full_sharding
from lcv_jax.planning import judges, requests, rollouts, tables, training, training_tables, tuned
from lcv_jax.planning.compiling import Machine, Stage, compile_stage
from lcv_jax.planning.report import Plan, Setup
from lcv_jax.planning.training_report import TrainingPlan, TrainingSetup
from lcv_jax.sampling.options import SamplingOptions, check_refinement
from lcv_jax.train import read_config
from lcv_jax.training.config import TrainConfig
from lcv_jax.user_files import check_writable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks and how they run."""

    checkpoint: Path | None = None
    """Folder that convert_torch_weights.py wrote, of which the configs are read. None: the released 13.6B model."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What the networks are stored as and compute in."""
    fold_adapters: bool = True
    """Fold adapters into a copy of the weights. Without, they are added at every step: slower, but no copy."""
    weights: Literal["resident", "stream"] = "resident"
    """stream: the layers of the transformer and the text encoder stay in host memory, and each is copied as it runs."""
    vae_tiles: bool = False
    """Encode and decode frames in overlapping tiles: less memory, nearly the same result."""
    keep_text_encoder: Literal["device", "host", "disk"] = "device"
    """Where it stays between encodings; from the host's memory it is copied, from disk read again for the next one."""
    fold: tuple[str, ...] = ()
    """Adapters that the conversion folds into the weights (its own --fold), such as refinement_lora."""

    quantize: Literal["none", "int8"] = "none"
    """What the conversion quantizes the transformer's blocks to (its own --quantize)."""

    def load(self) -> requests.Networks:
        """Their configs."""
        read = requests.Networks() if self.checkpoint is None else requests.networks_of(self.checkpoint)
        quantized = read.quantized or self.quantize == "int8"
        return dataclasses.replace(read, folded=(*read.folded, *self.fold), quantized=quantized)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPUs:
    """Which GPUs, and what lies between them."""

    gpu: str = "h200"
    """One that lcv_jax/gpus describes; an unknown one prints the list."""
    gpu_memory: Positive | None = None
    """GB of a smaller card of the same family. None: as described; floors stay those of the described one."""
    num_gpus: Annotated[int, Bounds(least=1, most=2**16)] = 1
    """Products of data, fsdp and seq are their number."""
    gpus_per_host: Annotated[int, Bounds(least=1, most=1024)] = 8
    """More than these are of several hosts."""
    network_bandwidth: Positive | None = None
    """GB/s that each GPU sends to other hosts. None: what hosts of such GPUs usually have; the report says it."""
    reserve: Annotated[float, Bounds(least=0, below=1)] = 0.08
    """Share of a GPU's memory that is kept for what XLA does not count."""

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Raises ValueError for what makes no sense."""
        gpus.described_gpu(self.gpu)
        if self.num_gpus > self.gpus_per_host and self.num_gpus % self.gpus_per_host:
            raise ValueError(
                f"{self.num_gpus} GPUs are no whole number of hosts of {self.gpus_per_host}: gpus_per_host"
            )

    def per_host(self) -> int | None:
        """GPUs of a host, where there are several hosts."""
        return self.gpus_per_host if self.num_gpus > self.gpus_per_host else None

    def described(self) -> list[jax.Device]:
        """The described devices.

        Raises:
            OSError: XLA's compiler for GPUs is not there.
        """
        return gpus.described_devices(self.gpu, self.num_gpus, self.per_host(), self.gpu_memory)

    @property
    def platform(self) -> str:
        """As kernels/platform.py's `compiling_for` takes it."""
        return f"gpu:{gpus.described_gpu(self.gpu).compute_capability}"

    def facts(self) -> dict[str, Any]:
        """Fields of a plan."""
        return {
            "gpu": gpus.described_gpu(self.gpu, self.gpu_memory),
            "num_gpus": self.num_gpus,
            "per_host": self.per_host(),
            "network_bandwidth": self.network_bandwidth and 1e9 * self.network_bandwidth,
            "reserve": self.reserve,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices(GPUs):
    """The GPUs, and how work and parameters are split over them."""

    data: Axis = 1
    """Groups of GPUs that share prompts and the two halves of guidance."""
    fsdp: Axis = 1
    """Likewise, and with `--parameters split` each keeps its part of the transformer and the text encoder."""
    seq: Axis = -1
    """GPUs that share the tokens of a video. -1: all that the others leave."""
    parameters: Literal["whole", "split"] = "whole"
    """On every GPU, or in parts over fsdp and seq, fetched layer by layer."""
    context: Literal["ulysses", "ring", "ulysses_ring"] = "ulysses"
    """How attention is split over seq: heads are exchanged for tokens, or keys and values go round."""
    ring_size: Count | None = None
    """GPUs of a ring, for ulysses_ring; the others exchange heads."""

    def check(self) -> None:
        """Raises ValueError for what makes no sense."""
        super().check()
        self.shape()
        self.attention()

    def shape(self) -> MeshShape:
        """Of the mesh."""
        return MeshShape(data=self.data, fsdp=self.fsdp, seq=self.seq).fit(self.num_gpus)

    def attention(self) -> ContextParallel:
        """How attention is split."""
        return ContextParallel(strategy=self.context, ring_size=self.ring_size)

    def machine(self) -> Machine:
        """The described devices.

        Raises:
            OSError: XLA's compiler for GPUs is not there.
        """
        devices = self.described()
        if self.num_gpus == 1:
            return Machine(devices=devices, platform=self.platform)
        shape = self.shape()
        rules = full_sharding(("fsdp", "seq")) if self.parameters == "split" else REPLICATED
        mesh = make_mesh(shape.data, shape.fsdp, shape.seq, devices)
        return Machine(devices=devices, per_host=self.per_host(), platform=self.platform, mesh=mesh, rules=rules)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """What is planned and written."""

    only: tuple[str, ...] = ()
    """Of the stages (encode, encode text, denoise, decode, ...) only these: the autoencoder takes minutes to compile.
    Memory is that of these stages then. Of training: tasks."""
    json: Path | None = None
    """Write everything to this file too."""
    sweep: tuple[Annotated[int, Bounds(least=1, most=2**16)], ...] = ()
    """Plan for these numbers of GPUs, one after the other, and draw a picture."""
    picture: Path = Path("outputs/plan.png")
    """Of a sweep."""
    markdown: bool = False
    """Print a table for a page instead: stages, or of a sweep numbers of GPUs."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Plan a training run; after CONFIG, all flags of `python -m lcv_jax.train CONFIG` are understood too."""

    config: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG.py")]
    """One of configs/."""
    samples: Count | None = None
    """Samples that each group of GPUs (those that share tokens) computes at a time: the config's batch is computed in
    so many parts then. None: as the config says."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """What is planned of a training run."""

    training: Annotated[TrainConfig, tyro.conf.arg(name="")]
    request: Annotated[Train, tyro.conf.arg(name="")]
    gpus: Annotated[GPUs, tyro.conf.arg(name="")] = GPUs()
    output: Annotated[Output, tyro.conf.arg(name="")] = Output()


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
    names = ("dtype", "fold_adapters", "vae_tiles", "keep_text_encoder", "weights")
    settings = {name: getattr(networks, name) for name in names}
    if networks.weights == "stream" and devices.num_gpus > 1:
        raise ValueError("weights=stream is for one GPU: on several use --parameters split instead")
    programs = requests.programs_of(request, options, networks.load(), context=devices.attention(), **settings)
    stage_names = list(dict.fromkeys(program.name for program in programs))
    if unknown := [name for name in only if name not in stage_names]:
        raise ValueError(f"no stage {', '.join(map(repr, unknown))}: there are {', '.join(map(repr, stage_names))}")
    machine = devices.machine()
    stages: list[Stage] = []
    for program in programs:
        if only and program.name not in only:
            continue
        with _compiling(program.name, devices.gpu, progress):
            stages.append(compile_stage(program, machine))
    guided = options.scale > 1 and not isinstance(request, requests.Refine)
    setup = Setup(
        **settings,
        use_cache=options.use_cache,
        step_cache=options.step_cache,
        guided=guided,
        num_prompts=getattr(request, "num_prompts", 1),
        parameters=devices.parameters,
        mesh=str(devices.shape()) if devices.num_gpus > 1 else "",
        chunk_frames=4 * request.chunk if isinstance(request, requests.StreamVideo) else 0,
    )
    return Plan(**devices.facts(), setup=setup, stages=stages)


def make_training_plan(
    cfg: TrainConfig,
    name: str,
    devices: GPUs,
    samples: int | None = None,
    only: Sequence[str] = (),
    progress: Console | None = None,
) -> TrainingPlan:
    """Compiles the step of a training config for every kind of batch.

    Args:
        cfg: the config.
        name: what to call it.
        devices: the GPUs.
        samples: that each group of GPUs computes at a time; None: as the config says.
        only: tasks to compile; empty: all.
        progress: where to tell what is compiled.

    Raises:
        ValueError: what training would refuse, an unknown GPU or task, devices that do not fit.
        OSError: XLA's compiler for GPUs is not there, or it refuses a program.
    """
    devices.check()
    step = tuned.tuned_step(cfg) if isinstance(cfg.data, ManifestConfig) else None
    batches = [step.batch] if step else training.batch_shapes(cfg.data)  # type: ignore[arg-type]
    tasks = [*dict.fromkeys(batch.kind.task for batch in batches), *(["rollout"] if cfg.rollout else [])]
    if unknown := [task for task in only if task not in tasks]:
        raise ValueError(f"no task {', '.join(map(repr, unknown))}: there are {', '.join(map(repr, tasks))}")
    cfg = training.on_devices(cfg, devices.num_gpus, samples)
    known, network = requests.Networks(), step.known if step else "the released 13.6B model"
    if step is None and cfg.checkpoint.is_dir():
        known, network = requests.networks_of(cfg.checkpoint), str(cfg.checkpoint)
    described = devices.described()
    mesh = training.training_mesh(cfg, described)
    machine = Machine(devices=described, per_host=devices.per_host(), platform=devices.platform, mesh=mesh)
    stages = []
    for batch in batches:
        if not only or batch.kind.task in only:
            with _compiling(batch.name, devices.gpu, progress):
                compiled = step.compile(cfg, machine) if step else training.compile_step(cfg, batch, known, machine)
                stages.append(compiled)
    if cfg.rollout and (not only or "rollout" in only):
        with _compiling("rollout", devices.gpu, progress):
            stages += rollouts.compile_rollout(cfg, batches[0], known, machine)
        with _compiling("scoring", devices.gpu, progress):
            stages += judges.compile_judgings(cfg, batches[0].size, machine, stages[-1])
    stages = judges.with_weights(stages, cfg, batches[0].size)
    facts = devices.facts()
    rewards = judges.costs(cfg, batches[0].size, facts["gpu"], devices.num_gpus)
    split = cfg.devices
    described_setup = TrainingSetup(
        config=name,
        network=network,
        steps=cfg.steps,
        batch_size=cfg.batch_size,
        accumulation=cfg.optimizer.accumulation,
        groups=split.data * split.fsdp,
        mesh=f"data={split.data} x fsdp={split.fsdp} x seq={split.seq}",
        fsdp=split.fsdp,
        sharding=split.sharding,
        remat=cfg.remat,
        dtype=cfg.dtype,
        adapted=cfg.adapter is not None,
        averaged=cfg.optimizer.ema_decay is not None,
    )
    setup = Setup(dtype=cfg.dtype)
    return TrainingPlan(**facts, setup=setup, training=described_setup, stages=stages, rewards=rewards)


@contextlib.contextmanager
def _compiling(name: str, gpu: str, progress: Console | None) -> Iterator[None]:
    """Within, something is compiled: tells how long it took, or that the compiler refuses it."""
    started = time.monotonic()
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise OSError(f"the compiler refuses {name!r} for {gpu}: {error}") from error
    if progress:
        progress.print(f"compiled {name!r} in {time.monotonic() - started:.0f} s", highlight=False)


def _command(name: str, kind: type) -> Any:
    """A sub-command with the flags of a request, of sampling, the networks, the devices and the output."""
    fields: list[Any] = [("request", kind), ("sampling", Sampling), ("networks", Networks), ("devices", Devices)]
    fields.append(("output", Output))
    command = dataclasses.make_dataclass(kind.__name__, fields, kw_only=True, namespace={"__doc__": kind.__doc__})
    return Annotated[command, tyro.conf.subcommand(name=name)]


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.plan") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    if not jax.config.jax_platforms:  # type: ignore[attr-defined]
        jax.config.update("jax_platforms", "cpu")  # a plugin without a GPU would be an error
    logging.getLogger("absl").setLevel(logging.ERROR)
    arguments = sys.argv[1:] if arguments is None else arguments
    with mistakes_in_one_line():
        chosen = parse(arguments, prog)
        _run(chosen)


def parse(arguments: list[str], prog: str) -> Any:
    """The command that was given; of training, with the config's fields as flags."""
    if arguments[:1] == ["train"] and len(arguments) > 1 and not arguments[1].startswith("-"):
        path = arguments[1]
        default = TrainCommand(training=read_config(path), request=Train(config=Path(path)))
        return parse_arguments(
            TrainCommand,
            arguments[1:],
            default=default,
            prog=f"{prog} train",
            config=(tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed),
        )
    commands = [_command(name, kind) for name, kind in requests.REQUESTS.items()]
    train = dataclasses.make_dataclass(
        "Train",
        [("request", Train), ("gpus", GPUs), ("output", Output)],
        kw_only=True,
        namespace={"__doc__": Train.__doc__},
    )
    commands.append(Annotated[train, tyro.conf.subcommand(name="train")])
    return parse_arguments(
        functools.reduce(operator.or_, commands),
        arguments,
        prog=prog,
        description="How much memory a video or a training takes, whether it fits a GPU, how fast it can be at best.",
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed),
    )


def _run(chosen: Any) -> None:
    output: Output = chosen.output
    for path in (output.json, output.picture if output.sweep else None):
        if path is not None:
            check_writable(path)
    trains = isinstance(chosen, TrainCommand)
    shown: Any = training_tables if trains else tables
    split = chosen.gpus if trains else chosen.devices
    progress, console = Console(stderr=True), Console(width=None if sys.stdout.isatty() else 140)
    plans = []
    for count in output.sweep or (split.num_gpus,):
        devices = dataclasses.replace(split, num_gpus=count)
        plan = plan_of(chosen, devices, progress)
        plans.append(plan)
        if not output.markdown:
            shown.show(plan, console)
    if output.markdown:
        print(shown.markdown(plans))
    if output.json:
        written = [plan.to_json() for plan in plans]
        write_json(output.json, written if output.sweep else written[0])
    if output.sweep:
        tables.draw(plans, output.picture)
        print(f"wrote {output.picture}", file=sys.stderr)


def plan_of(chosen: Any, devices: Any, progress: Console | None = None) -> Plan:
    """The plan of a parsed command for these devices."""
    only = chosen.output.only
    if isinstance(chosen, TrainCommand):
        request = chosen.request
        return make_training_plan(chosen.training, str(request.config), devices, request.samples, only, progress)
    return make_plan(chosen.request, chosen.sampling.checked(), chosen.networks, devices, only, progress)


if __name__ == "__main__":
    main()
