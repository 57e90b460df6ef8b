"""A plan for people: tables for a terminal, and a picture of several."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lcv_jax.own_files import replacing
from lcv_jax.planning.compiling import Stage
from lcv_jax.planning.report import Plan, gigabytes

NAMES = {"dit": "transformer", "vae": "autoencoder", "text_encoder": "text encoder"}


def show(plan: Plan, console: Console) -> None:
    """Prints a plan."""
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    setup = f" ({plan.setup.mesh})" if plan.setup.mesh else ""
    console.print(
        f"{plan.num_gpus} x {plan.gpu.name}{setup}: {verdict}. Needs {gigabytes(plan.peak.peak_bytes)} a GPU while it "
        f"runs {plan.peak.name!r}, of {gigabytes(plan.usable_bytes)}; takes at least {duration(plan.seconds)}.",
        highlight=False,
    )
    show_details(plan, (memory_table(plan), time_table(plan)), console)


def show_details(plan: Plan, tables: Iterable[Table], console: Console) -> None:
    """Prints what follows the verdict: tables that are not empty, what was assumed, and how to make it fit."""
    for table in (*tables, collective_table(plan), buffer_table(plan)):
        if table.row_count:
            console.print(table)
    for line in plan.assumptions():
        console.print(line, highlight=False)
    if advice := plan.advice():
        console.print("To make it fit:", highlight=False)
        for line in advice:
            console.print(f"  {line}", highlight=False, markup=False)


def memory_table(plan: Plan) -> Table:
    """Bytes on one GPU, stage by stage."""
    components = list(plan.parameters())
    table = new_table("Memory of one GPU", "stage", *(NAMES.get(name, name) for name in components))
    for column in ("inputs", "temporaries", "of which cache", "outputs", "together"):
        table.add_column(column, justify="right")
    for stage in plan.stages:
        held = [stage.resident_bytes.get(name, 0) for name in components]
        rest = [stage.input_bytes, stage.temporary_bytes, stage.cache_bytes, stage.output_bytes, stage.peak_bytes]
        table.add_row(_named(stage), *(gigabytes(size) if size else "" for size in (*held, *rest)))
    return table


def time_table(plan: Plan) -> Table:
    """Floors, stage by stage."""
    table = new_table("Time at the least", "stage", "TFLOP", "split over", "compute", "memory", "links", "network")
    table.add_column("bound by", justify="right")
    for stage in plan.stages:
        floor = plan.floor(stage)
        links = duration(stage.times * floor.links) if stage.sent_bytes else ""
        table.add_row(
            _named(stage),
            f"{stage.times * stage.flops / 1e12:,.1f}",
            str(stage.shares),
            duration(stage.times * floor.compute),
            duration(stage.times * floor.memory),
            links,
            duration(stage.times * floor.network) if stage.network_bytes else "",
            floor.bound,
        )
    return table


def collective_table(plan: Plan) -> Table:
    """Collectives, stage by stage."""
    table = new_table("Collectives", "stage", "kind", "GPUs", "hidden", "count", "sent by a GPU", "to other hosts")
    for stage in plan.stages:
        for one in stage.collectives:
            hidden = "behind compute" if one.asynchronous else "no"
            count = f"{stage.times * one.count:,}"
            sent = [gigabytes(stage.times * size) for size in (one.sent_bytes, one.network_bytes)]
            table.add_row(stage.name, one.kind, str(one.group_size), hidden, count, *sent)
    return table


def buffer_table(plan: Plan) -> Table:
    """The largest temporary buffers of the stage that needs the most memory."""
    stage = plan.peak
    table = new_table(f"Largest temporary buffers of {stage.name!r}", "size", "array", "made by")
    table.columns[1].justify = table.columns[2].justify = "left"
    for buffer in stage.largest:
        table.add_row(gigabytes(buffer.num_bytes), buffer.shape.replace("[", r"\["), buffer.made_by)
    return table


def markdown(plans: Sequence[Plan]) -> str:
    """For a page: the stages of one plan, or several plans with a row each."""
    if len(plans) == 1:
        return _stages(plans[0])
    header = ["GPUs", "fits", "peak in", "parameters", "inputs, outputs", "temporaries", "together", "sent"]
    hosts = any(plan.per_host for plan in plans)
    header += ["to other hosts", "at least"] if hosts else ["at least"]
    rows = []
    for plan in plans:
        totals = [sum(stage.times * stage.sent_bytes for stage in plan.stages)]
        totals += [sum(stage.times * stage.network_bytes for stage in plan.stages)] if hosts else []
        sent = [gigabytes(total) if total else "" for total in totals]
        fits = "yes" if plan.fits else "no"
        memory = _memory(plan.peak)
        rows.append(
            (f"{plan.num_gpus} x {plan.gpu.name}", fits, plan.peak.name, *memory, *sent, duration(plan.seconds))
        )
    return "\n".join(markdown_table(header, rows))


def _stages(plan: Plan) -> str:
    header = ("stage", "parameters", "inputs, outputs", "temporaries", "together", "TFLOP", "at least")
    rows = [(_named(stage), *_memory(stage), *_work(plan, stage)) for stage in plan.stages]
    verdict = "fits" if plan.fits else "does not fit"
    last = f"{plan.num_gpus} x {plan.gpu.name}: {verdict}; {gigabytes(plan.peak.peak_bytes)} a GPU of "
    last += f"{gigabytes(plan.usable_bytes)}, {duration(plan.seconds)} at least."
    return "\n".join([*markdown_table(header, rows), "", last])


def _memory(stage: Stage) -> tuple[str, ...]:
    cache = f" (cache {gigabytes(stage.cache_bytes)})" if stage.cache_bytes else ""
    return (
        gigabytes(sum(stage.resident_bytes.values())),
        gigabytes(stage.input_bytes + stage.output_bytes),
        gigabytes(stage.temporary_bytes) + cache,
        gigabytes(stage.peak_bytes),
    )


def _work(plan: Plan, stage: Stage) -> tuple[str, ...]:
    return f"{stage.times * stage.flops / 1e12:,.1f}", duration(stage.times * plan.floor(stage).seconds)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table for a page."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def draw(plans: Sequence[Plan], path: Path) -> None:
    """Memory of a GPU and the floor of the time, against the number of GPUs.

    Raises:
        ImportError: no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('a picture needs matplotlib: pip install "lcv_jax[benchmarks]"') from None
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = [str(plan.num_gpus) for plan in plans]
    below = [0.0] * len(plans)
    parts = {
        "parameters": [sum(plan.peak.resident_bytes.values()) for plan in plans],
        "cache": [plan.peak.cache_bytes for plan in plans],
        "temporaries": [plan.peak.temporary_bytes - plan.peak.cache_bytes for plan in plans],
        "inputs and outputs": [plan.peak.input_bytes + plan.peak.output_bytes for plan in plans],
    }
    for name, sizes in parts.items():
        if any(sizes):
            left.bar(labels, [size / 1e9 for size in sizes], bottom=below, label=name)
            below = [low + size / 1e9 for low, size in zip(below, sizes, strict=True)]
    left.axhline(plans[0].usable_bytes / 1e9, color="black", linestyle="--", label="usable")
    left.set(xlabel="GPUs", ylabel="GB a GPU, at the peak", title=f"Memory of a GPU, {plans[0].gpu.name}")
    left.legend(frameon=False)
    right.plot(labels, [plan.seconds for plan in plans], marker="o", label="floor")
    ideal = [plans[0].seconds * plans[0].num_gpus / plan.num_gpus for plan in plans]
    right.plot(labels, ideal, linestyle=":", color="grey", label="the first, divided")
    right.set(xlabel="GPUs", ylabel="seconds at the least", title="Time", yscale="log")
    right.set_yticks([plan.seconds for plan in plans], [duration(plan.seconds) for plan in plans])
    right.set_yticks([], minor=True)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(visible=True, axis="y", alpha=0.3)
    with replacing(path, suffix=path.suffix) as partial:
        figure.savefig(partial, dpi=150)


def duration(seconds: float) -> str:
    """To two or three digits."""
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    return f"{seconds:.1f} s" if seconds >= 0.995 else f"{1000 * seconds:.1f} ms"


def new_table(title: str, first: str, *others: str) -> Table:
    """A table for a terminal; all columns but the first are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for column in others:
        table.add_column(column, justify="right")
    return table


def _named(stage: Stage) -> str:
    return stage.name + (f" x {stage.times}" if stage.times > 1 else "")
