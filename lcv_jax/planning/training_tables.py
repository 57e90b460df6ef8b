"""A plan of training for people: tables for a terminal and for a page."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lcv_jax.planning.report import gigabytes
from lcv_jax.planning.tables import duration, markdown_table, new_table, show_details
from lcv_jax.planning.training import TrainingStage
from lcv_jax.planning.training_report import USUAL_UTILISATION, TrainingPlan

COMPONENTS = ("parameters", "moments", "average", "frozen", "encoders", "judges")


def show(plan: TrainingPlan, console: Console) -> None:
    """Prints a plan."""
    setup, peak = plan.training, plan.peak
    trained = "an adapter" if setup.adapted else "all parameters"
    console.print(f"{setup.config}: {trained} of {setup.network}.", highlight=False)
    console.print(
        f"{setup.describe(plan.num_gpus)} ({setup.mesh}, sharding {setup.sharding}, remat {setup.remat}).",
        highlight=False,
    )
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    console.print(
        f"{plan.num_gpus} x {plan.gpu.name}: {verdict}. Needs {gigabytes(peak.peak_bytes)} a GPU for {peak.name!r}, of "
        f"{gigabytes(plan.usable_bytes)}; a step takes at least {duration(plan.seconds)}, usually "
        f"{duration(plan.usual_seconds)}; {setup.steps:,} steps usually {days(setup.steps * plan.usual_seconds)}.",
        highlight=False,
    )
    show_details(plan, (memory_table(plan), time_table(plan)), console)


def memory_table(plan: TrainingPlan) -> Table:
    """Bytes on one GPU, by kinds of batches."""
    table = new_table("Memory of one GPU", "batch", *COMPONENTS, "data", "gradients", "activations", "together")
    hosts = any(stage.host_bytes for stage in plan.stages)
    if hosts:
        table.add_column("in the host", justify="right")
    for stage in plan.stages:
        held = [stage.resident_bytes.get(name, 0) for name in COMPONENTS]
        sizes = [*held, *_rest(stage), *([stage.host_bytes] if hosts else [])]
        table.add_row(stage.name, *(gigabytes(size) if size else "" for size in sizes))
    return table


def _rest(stage: TrainingStage) -> tuple[int, int, int, int]:
    """Data, gradients, activations, and everything together."""
    data = stage.input_bytes + stage.output_bytes
    return data, stage.gradient_bytes, stage.temporary_bytes - stage.gradient_bytes, stage.peak_bytes


def time_table(plan: TrainingPlan) -> Table:
    """Floors, by kinds of batches."""
    table = new_table("Time of a step at the least", "batch", "share", "model TFLOP", "computed")
    for column in ("compute", "memory", "links", "network", "host", "bound by", f"at {USUAL_UTILISATION:.0%}"):
        table.add_column(column, justify="right")
    for stage in plan.stages:
        floor = plan.floor(stage)
        times = (floor.compute, floor.memory, floor.links, floor.network, floor.host)
        table.add_row(
            stage.name,
            f"{stage.share:.3g} runs" if stage.task == "rollout" else f"{stage.share:.0%}",
            f"{stage.model_flops / 1e12:,.0f}",
            f"{stage.flops / 1e12:,.0f}",
            *(duration(seconds) if seconds else "" for seconds in times),
            floor.bound,
            duration(plan.usual(stage)),
        )
    return table


def markdown(plans: Sequence[TrainingPlan]) -> str:
    """For a page: of one plan its kinds of batches, of several plans each one's worst."""
    columns = ["fits", "at a time", "parameters, moments, average", "frozen", "gradients", "activations", "together"]
    columns += ["in the host"] if any(stage.host_bytes for plan in plans for stage in plan.stages) else []
    columns += ["sent", "to other hosts", "at least", f"at {USUAL_UTILISATION:.0%}"]
    one = len(plans) == 1
    rows = []
    for plan in plans:
        for stage in plan.stages if one else [plan.peak]:
            assert isinstance(stage, TrainingStage)
            label = stage.name if one else f"{plan.num_gpus} x {plan.gpu.name}, {plan.training.mesh}"
            rows.append((label, *_row(plan, stage, hosts="in the host" in columns)))
    lines = markdown_table(["batch" if one else "GPUs", *columns], rows)
    if not one:
        advice = [f"{plan.num_gpus} x {plan.gpu.name}: {plan.advice()[0]}." for plan in plans if not plan.fits]
        return "\n".join([*lines, *(["", *advice] if advice else [])])
    (plan,) = plans
    verdict = "fits" if plan.fits else "does not fit"
    last = f"{plan.num_gpus} x {plan.gpu.name} ({plan.training.mesh}): {verdict}; "
    last += f"{gigabytes(plan.peak.peak_bytes)} a GPU of {gigabytes(plan.usable_bytes)}."
    return "\n".join([*lines, "", last, *plan.advice()])


def _row(plan: TrainingPlan, stage: TrainingStage, *, hosts: bool) -> list[str]:
    setup = plan.training
    state = sum(size for name, size in stage.resident_bytes.items() if name not in ("frozen", "encoders", "judges"))
    frozen = stage.resident_bytes.get("frozen", 0)
    _, gradients, activations, together = _rest(stage)
    at_a_time = f"{setup.samples}" + (f", {setup.accumulation} times" if setup.accumulation > 1 else "")
    fits = "yes" if stage.peak_bytes <= plan.usable_bytes else "no"
    cells = [fits, at_a_time, gigabytes(state), gigabytes(frozen) if frozen else ""]
    cells += [gigabytes(gradients), gigabytes(activations), gigabytes(together)]
    cells += [gigabytes(stage.host_bytes) if stage.host_bytes else ""] if hosts else []
    cells += [gigabytes(size) if size else "" for size in (stage.sent_bytes, stage.network_bytes)]
    return [*cells, duration(plan.floor(stage).seconds), duration(plan.usual(stage))]


def days(seconds: float) -> str:
    """Hours below two days."""
    hours = seconds / 3600
    return f"{hours / 24:,.0f} days" if hours >= 48 else f"{hours:,.1f} hours"
