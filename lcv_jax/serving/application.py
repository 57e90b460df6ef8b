"""From settings to the application: the database, the workers, and the handlers of requests."""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp

from lcv_jax.data.buckets import buckets
from lcv_jax.generate import Devices
from lcv_jax.pipeline import load_pipeline
from lcv_jax.serving.app import Handlers, make_app
from lcv_jax.serving.guard import is_loopback, read_keys
from lcv_jax.serving.jobs import JobStore
from lcv_jax.serving.limits import Defaults, Limits
from lcv_jax.serving.metrics import Metrics
from lcv_jax.serving.planning import usual_task
from lcv_jax.serving.processes import Worker
from lcv_jax.serving.scheduler import Scheduler
from lcv_jax.serving.settings import Settings
from lcv_jax.serving.submission import Submissions


def make_application(chosen: Settings, workers: Sequence[Worker]) -> tuple[ASGIApp, Scheduler]:
    """The application, and the scheduler that runs within it.

    Raises:
        ValueError: settings that do not go together, or a checkpoint that is none.
        OSError: the folder cannot be written, or the database cannot be used.
    """
    server, limits, devices = chosen.server, chosen.limits, chosen.devices
    keys = read_keys(server.keys) if server.keys else {}
    if not keys and not is_loopback(server.host):
        raise ValueError(f"{server.host} can be reached from other machines: give --keys FILE, or listen on 127.0.0.1")
    if devices.coordinator or devices.num_processes or devices.process_id is not None:
        raise ValueError("a worker is one process: leave out coordinator, num_processes and process_id")
    for origin in server.cors_origins:
        if not re.fullmatch(r"https?://[\w.:\[\]-]+", origin):
            raise ValueError(f"cors_origins must be like https://example.org, got {origin!r}")
    usual_task(chosen.defaults, limits)
    pipeline = load_pipeline(chosen.weights.checkpoint)
    store, metrics = JobStore(server.folder, server.database, lease_seconds=server.lease_seconds), Metrics()
    scheduler = Scheduler(store, workers, limits, chosen.live, metrics)
    submissions = Submissions(store, pipeline, chosen.defaults, limits, server.model)
    handlers = Handlers(store, scheduler, submissions, metrics, facts_of(chosen))
    app = make_app(handlers, keys=keys, origins=server.cors_origins, host=server.host, metrics=metrics)
    return app, scheduler


def make_workers(chosen: Settings) -> list[Worker]:
    """One worker a replica, each with its part of the visible GPUs.

    Raises:
        ValueError: there are fewer GPUs than the replicas need.
    """
    devices, replicas = chosen.devices, chosen.server.replicas
    if replicas == 1:
        return [Worker(chosen, None)]
    each = gpus_of(devices)
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = given.split(",") if given else [str(number) for number in range(each * replicas)]
    if len(visible) < each * replicas:
        raise ValueError(f"{replicas} replicas of {each} GPUs need {each * replicas}, CUDA_VISIBLE_DEVICES has {given}")
    parts = [",".join(visible[each * i : each * (i + 1)]) for i in range(replicas)]
    return [Worker(chosen, part) for part in parts]


def gpus_of(devices: Devices) -> int:
    """How many GPUs a replica has.

    Raises:
        ValueError: it is not said.
    """
    axes = (devices.data, devices.fsdp, devices.seq)
    if -1 in axes:
        raise ValueError("with replicas, data, fsdp and seq must be given: -1 takes all devices")
    return axes[0] * axes[1] * axes[2]


def facts_of(chosen: Settings) -> dict[str, Any]:
    """What /v1/models says beside the name: for the page, and for clients that ask."""
    return {
        "sizes": sizes_of(chosen.defaults, chosen.limits),
        "defaults": dataclasses.asdict(chosen.defaults),
        "limits": dataclasses.asdict(chosen.limits),
        "live": dataclasses.asdict(chosen.live),
        "dtype": chosen.weights.dtype,
        "fold_adapters": chosen.weights.fold_adapters,
        "memory_preset": chosen.weights.memory,
        "replicas": chosen.server.replicas,
    }


def sizes_of(defaults: Defaults, limits: Limits) -> list[str]:
    """WIDTHxHEIGHT of usual shapes, the default first: of the model's own table, or of the area of the default size."""
    if defaults.size is None:
        sizes = [(480, 832), *(size for table in ("480p", "720p") for size in buckets(table))]
    else:
        height, width = defaults.size
        area, ratios = height * width, (16 / 9, 4 / 3, 1.0, 3 / 4, 9 / 16)
        shapes = [((area / ratio) ** 0.5, (area * ratio) ** 0.5) for ratio in ratios]
        sizes = [defaults.size, *((max(16, round(h / 16) * 16), max(16, round(w / 16) * 16)) for h, w in shapes)]
    fitting = [f"{width}x{height}" for height, width in sizes if height * width <= limits.max_pixels]
    return list(dict.fromkeys(fitting))
