"""Several processes as one program, by jax.distributed: who takes part, what if one does not come, or dies.

    with leaving_at_once():
        initialize()
        check_same_config(config)
        ...

SLURM, Open MPI and Kubernetes (an indexed Job or a JobSet) are found by JAX itself; elsewhere say who is who:

    initialize("10.0.0.1:9876", num_processes=2, process_id=0)

Every process runs the same program. JAX's coordination service, in process 0, watches over them: a process that is not
heard of for `heartbeat_s` is dead, and then all others abort with its number in the message (exit status 134), whatever
collective they hang in; when process 0 dies they do at once.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lcv_jax.parallel.broadcast import gather

ABORT_S = 60
"""How long after our time-out JAX's own would come, which aborts the process."""
SHOWN_FIELDS = 8


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_s: int = 300,
    heartbeat_s: int = 40,
    shutdown_s: int = 300,
) -> None:
    """Joins the other processes; to be called before anything asks JAX for its devices.

    Without arguments and outside a cluster, or with one process, nothing happens: one process, all its devices.

    Args:
        coordinator: HOST:PORT where process 0 listens.
        num_processes: how many there are.
        process_id: which one this is, from 0.
        timeout_s: how long to wait until all are there.
        heartbeat_s: how long a process may be silent before the others give up.
        shutdown_s: how long a process that is done waits for the others to be done.

    Raises:
        ValueError: flags that make no sense, or not all of them where JAX cannot find the rest.
        ImportError: a cluster that JAX knows only with the help of another package.
        TimeoutError: not all came.
        OSError: the cluster does not say what it should, or the coordinator cannot listen.
    """
    found = _find(coordinator, num_processes, process_id, timeout_s)
    if found is None:
        return
    failures: list[BaseException] = []

    def connect() -> None:
        try:
            jax.distributed.initialize(
                found.coordinator,
                found.num_processes,
                found.process_id,
                cluster_detection_method=found.method,
                initialization_timeout=timeout_s + ABORT_S,
                heartbeat_timeout_seconds=heartbeat_s,
                shutdown_timeout_seconds=shutdown_s,
            )
        except BaseException as error:
            failures.append(error)

    # In a thread, because JAX does not raise when its time is up: it aborts, and names no address.
    thread = threading.Thread(target=connect, daemon=True, name="jax.distributed.initialize")
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimeoutError(_who_is_missing(found, timeout_s))
    for error in failures:
        if isinstance(error, jax.errors.JaxRuntimeError):
            reason = " ".join(str(error).split())
            raise OSError(f"process {found.process_id} cannot join the others at {found.coordinator}: {reason}")
        raise error


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Within, a process that fails ends at once, instead of waiting for the others, who wait for it.

    At its exit a process waits for all others to be done (`shutdown_s`). One that fails on its own, for want of a file
    or of memory, would so keep them in their next collective for minutes; gone, it is missed within `heartbeat_s`.
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized() or (isinstance(error, SystemExit) and not error.code):
            raise
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else 1
            if not isinstance(error.code, int):
                print(error.code, file=sys.stderr)
        else:
            status = 130 if isinstance(error, KeyboardInterrupt) else 1
            sys.excepthook(type(error), error, error.__traceback__)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def check_same_config(config: Any) -> None:
    """Checks that all processes were given the same config: a dataclass, or a mapping, of anything with a repr.

    Raises:
        ValueError: they were not; on every process, with the fields and the hosts.
    """
    if jax.process_count() == 1:
        return
    fields = dict(_fields(config))
    text = json.dumps(fields, sort_keys=True).encode()
    digests = multihost_utils.process_allgather(np.frombuffer(hashlib.sha256(text).digest(), np.uint8))
    if (digests == digests[0]).all():
        return
    told = [json.loads(other) for other in gather(json.dumps([socket.gethostname(), fields]).encode())]
    names = sorted({name for _, theirs in told for name in theirs})
    differing = [name for name in names if len({theirs.get(name) for _, theirs in told}) > 1]
    shown = "; ".join(f"{name} is {_by_host(name, told)}" for name in differing[:SHOWN_FIELDS])
    more = f"; and {len(differing) - SHOWN_FIELDS} more" if len(differing) > SHOWN_FIELDS else ""
    raise ValueError(f"the processes have different configs, give all the same: {shown}{more}")


@dataclasses.dataclass(frozen=True)
class _Found:
    """What `jax.distributed.initialize` is told."""

    coordinator: str
    num_processes: int
    process_id: int
    method: str | None
    """How JAX finds the devices of this process."""


def _find(coordinator: str | None, num_processes: int | None, process_id: int | None, timeout_s: int) -> _Found | None:
    """Who takes part: as told, or else as JAX finds out; None for a single process."""
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    told = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in told.items() if value is None]
    cluster, method = _cluster(needed=bool(missing))
    if cluster is None and missing:
        if len(missing) == len(told) or (num_processes == 1 and not process_id):
            return None
        given = ", ".join(f"{name}={value}" for name, value in told.items() if value is not None)
        raise ValueError(f"got {given}, and no cluster is found that tells {' and '.join(missing)}: give all three")
    try:
        num_processes = cluster.get_process_count() if num_processes is None else num_processes
        if num_processes == 1:
            # JAX would confine it to one GPU, in a shell on a node that has eight.
            return None
        process_id = cluster.get_process_id() if process_id is None else process_id
        port = os.environ.get("JAX_COORDINATOR_PORT")
        coordinator = coordinator or cluster.get_coordinator_address(
            timeout_secs=timeout_s, override_coordinator_port=port
        )
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{cluster.__name__} does not tell who takes part: {reason}") from None
    host, _, number = str(coordinator).rpartition(":")
    if not host or not number.isdigit():
        raise ValueError(f"the coordinator must be HOST:PORT, got {coordinator!r}")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(f"process_id must lie in 0..num_processes - 1, got {process_id} of {num_processes}")
    return _Found(str(coordinator), num_processes, process_id, method)


def _cluster(*, needed: bool) -> tuple[Any, str | None]:
    """JAX's class for the cluster that this process runs in, if any, and how JAX shall find the process's devices.

    Args:
        needed: whether it must tell who takes part; otherwise it matters only for the devices.
    """
    # Not a public module: it says what cluster there is before JAX joins it, and its address if that fails.
    from jax._src.clusters import ClusterEnv

    kinds = {kind.__name__: kind for kind in ClusterEnv._cluster_types}
    environ = os.environ
    if "OMPI_COMM_WORLD_SIZE" in environ and "OMPI_MCA_orte_hnp_uri" not in environ:
        # Open MPI 5 has no address of its own to go by.
        if needed and not kinds["Mpi4pyCluster"].is_env_present():
            raise ImportError(
                "under Open MPI 5 processes find one another by mpi4py: pip install mpi4py, "
                "or give coordinator, num_processes and process_id"
            )
        return (kinds["Mpi4pyCluster"], _devices_by("mpi4py")) if needed else (None, _devices_by(None))
    if "KUBERNETES_SERVICE_HOST" in environ:
        if not needed or "JOB_COMPLETION_INDEX" not in environ:  # a pod that is no part of an indexed job
            kinds.pop("K8sCluster")
        elif importlib.util.find_spec("kubernetes") is None:
            raise ImportError(
                "in a Kubernetes job processes find one another by its API: pip install 'jax[k8s]', "
                "or give coordinator, num_processes and process_id"
            )
    for kind in kinds.values():
        if not kind.opt_in_only_method and kind.is_env_present():
            return kind, _devices_by(None)
    return None, "deactivate"


def _devices_by(method: str | None) -> str | None:
    """How JAX finds a process's GPUs: the one with its number on the host, unless it has them all to itself.

    It does with one process a host, and where the launcher shows each process its own GPU only; without this rule the
    one would use a GPU of eight, and the other look for its GPU where there is but number 0.
    """
    slurm = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]
    open_mpi = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    alone = "1" in (slurm, open_mpi) or (shown != "" and "," not in shown)
    return "deactivate" if alone else method


def _who_is_missing(found: _Found, timeout_s: int) -> str:
    me = f"this is process {found.process_id} of {found.num_processes}, on {socket.gethostname()}"
    host, _, port = found.coordinator.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except OSError as error:
        return (
            f"no coordinator at {found.coordinator} after {timeout_s} s ({error.strerror or error}; {me}): "
            "start process 0 there, and let this host reach that port"
        )
    return (
        f"not all {found.num_processes} processes came to {found.coordinator} within {timeout_s} s ({me}): "
        "see which did not start or cannot reach that port, or wait longer"
    )


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path joined by dots, value as text) of all that a config holds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and not all(isinstance(item, str | int | float) for item in value):
        items = [(str(at), item) for at, item in enumerate(value)]
    elif callable(value) and hasattr(value, "__qualname__"):
        yield path, f"{value.__module__}.{value.__qualname__}"  # its repr has an address in memory
        return
    else:
        yield path, repr(value)
        return
    for name, item in items:
        yield from _fields(item, f"{path}.{name}" if path else name)


def _by_host(name: str, told: Sequence[tuple[str, dict[str, str]]]) -> str:
    """Each value of a field with the processes that have it."""
    having: dict[str, list[str]] = {}
    for process, (host, fields) in enumerate(told):
        having.setdefault(fields.get(name, "absent"), []).append(f"{process} ({host})")
    return ", ".join(f"{value} on process {' and '.join(processes)}" for value, processes in having.items())
