"""Several processes as one program: who takes part, and two real ones with four CPU devices each.

Run as a program this file is one of the processes.
"""

import dataclasses
import functools
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_sharding import assert_close, forward_loss, toy_model

from lcv_jax.command_line import mistakes_in_one_line
from lcv_jax.parallel import launch
from lcv_jax.parallel.launch import _find, check_same_config, initialize, leaving_at_once

CLUSTER_VARIABLES = (
    "SLURM_",
    "OMPI_",
    "KUBERNETES_",
    "JOB_COMPLETION_INDEX",
    "JAX_COORDINATOR",
    "CUDA_VISIBLE_DEVICES",
)
SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[007-008]",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
OPEN_MPI_4 = OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}


@pytest.fixture
def cluster(monkeypatch):
    """Makes the environment that of a process in a cluster."""
    for name in list(os.environ):
        if name.startswith(CLUSTER_VARIABLES):
            monkeypatch.delenv(name)

    def put(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def find(coordinator=None, num_processes=None, process_id=None):
    found = _find(coordinator, num_processes, process_id, 5)
    return None if found is None else dataclasses.astuple(found)


def test_alone_nothing_is_started(cluster, monkeypatch):
    cluster({})
    monkeypatch.setattr(jax.distributed, "initialize", None)
    initialize()
    initialize(num_processes=1)
    initialize("10.0.0.1:99", num_processes=1, process_id=0)
    cluster(SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"})  # a shell on a node
    initialize()
    cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})  # a pod of no job
    assert find() is None


def test_slurm(cluster):
    cluster(SLURM)
    assert find() == ("node007:61441", 16, 9, None)
    assert find(coordinator="node007:99") == ("node007:99", 16, 9, None)
    cluster({"SLURM_STEP_TASKS_PER_NODE": "1(x16)"})
    assert find() == ("node007:61441", 16, 9, "deactivate")  # all GPUs of the node, not the first alone


def test_a_process_that_is_shown_one_gpu_takes_it(cluster):
    cluster(SLURM | {"CUDA_VISIBLE_DEVICES": "1"})
    assert find()[-1] == "deactivate"
    cluster({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"})
    assert find()[-1] is None


def test_open_mpi_4(cluster):
    cluster(OPEN_MPI_4)
    assert find() == ("10.96.0.1:62624", 2, 1, None)


def test_open_mpi_5_needs_mpi4py_or_flags(cluster, monkeypatch):
    from jax._src.clusters.mpi4py_cluster import Mpi4pyCluster

    cluster(OPEN_MPI)
    monkeypatch.setattr(Mpi4pyCluster, "is_env_present", lambda: False)
    with pytest.raises(ImportError, match="pip install mpi4py, or give coordinator, num_processes and process_id"):
        find()
    assert find("10.0.0.1:99", 2, 1)[:3] == ("10.0.0.1:99", 2, 1)
    monkeypatch.setattr(Mpi4pyCluster, "is_env_present", lambda: True)
    monkeypatch.setattr(Mpi4pyCluster, "get_coordinator_address", lambda **_: "node1:99")
    monkeypatch.setattr(Mpi4pyCluster, "get_process_count", lambda: 2)
    monkeypatch.setattr(Mpi4pyCluster, "get_process_id", lambda: 1)
    assert find() == ("node1:99", 2, 1, "mpi4py")


def test_kubernetes(cluster, monkeypatch):
    from jax._src.clusters.k8s_cluster import K8sCluster

    cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"})
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'jax\[k8s\]'"):
        find()
    assert find("lcv-0:99", 2, 1) == ("lcv-0:99", 2, 1, "deactivate")
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(K8sCluster, "is_env_present", lambda: True)
    monkeypatch.setattr(K8sCluster, "get_process_count", lambda: 2)
    monkeypatch.setattr(K8sCluster, "get_coordinator_address", lambda **_: "lcv-workers-0-0.lcv:55527")
    assert find() == ("lcv-workers-0-0.lcv:55527", 2, 1, None)

    def forbidden():
        raise RuntimeError("Kubernetes API Error: 403 - Forbidden\nthe service account ...")

    monkeypatch.setattr(K8sCluster, "get_process_count", forbidden)
    with pytest.raises(OSError, match="K8sCluster does not tell who takes part: Kubernetes API Error: 403"):
        find()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("10.0.0.1:99", None, 0),
            "got coordinator=10.0.0.1:99, process_id=0, and no cluster .* num_processes: give all",
        ),
        (("10.0.0.1", 2, 0), "must be HOST:PORT, got '10.0.0.1'"),
        (("10.0.0.1:99", 2, 2), "process_id must lie in 0..num_processes - 1, got 2 of 2"),
        (("10.0.0.1:99", 0, 0), "got 0 of 0"),
    ],
)
def test_flags_that_make_no_sense(cluster, flags, said):
    cluster({})
    with pytest.raises(ValueError, match=said):
        initialize(*flags)


def test_leaving_at_once_changes_nothing_for_one_process():
    with pytest.raises(ZeroDivisionError), leaving_at_once():
        1 / 0  # noqa: B018
    with pytest.raises(SystemExit), leaving_at_once():
        sys.exit(2)
    check_same_config({"a": 1})


# Two processes

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(program, port, process_id, *more):
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "parallel")]),
    }
    command = [sys.executable, __file__, program, str(port), str(process_id), *more]
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def processes():
    started = []

    def run(program, *more, ids=(0, 1)):
        port = free_port()
        started.extend(start(program, port, process_id, *more) for process_id in ids)
        return port, *started

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_two_processes_take_the_step_that_one_takes(processes, tmp_path):
    model, params, inputs = toy_model()
    wanted = jax.jit(functools.partial(step, model))(params, *inputs)
    arrays = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
    np.savez(tmp_path / "reference.npz", **arrays)
    _, *both = processes("train", str(tmp_path / "reference.npz"))
    for process in both:
        said, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, said[-4000:]
        assert "the same step" in said


def test_two_processes_make_the_video_that_one_makes(processes, tiny_checkpoint, tmp_path):
    np.savez(tmp_path / "reference.npz", latents=make_latents(tiny_checkpoint))
    _, *both = processes("generate", str(tmp_path / "reference.npz"), str(tiny_checkpoint))
    for process in both:
        said, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, said[-4000:]
        assert "the same video" in said


def test_a_process_that_is_killed_takes_the_other_along(processes):
    _, first, second = processes("wait")
    for process in (first, second):
        while "ready" not in process.stdout.readline():
            assert process.poll() is None
    second.send_signal(signal.SIGKILL)
    said, _ = first.communicate(timeout=90)  # JAX's own heartbeat would take 100 s
    assert first.returncode != 0
    assert "tasks are unhealthy (stopped sending heartbeats)" in said, said[-4000:]
    # In a real run it takes heartbeat_s, which has to be less than a minute.
    assert inspect.signature(initialize).parameters["heartbeat_s"].default < 55


def test_a_process_that_fails_does_not_wait_for_the_other(processes):
    _, first, second = processes("fail")
    said, _ = first.communicate(timeout=600)
    assert first.returncode == 2, said[-4000:]
    assert "error: no such file" in said
    said, _ = second.communicate(timeout=600)
    assert second.returncode != 0
    # JAX's coordinator says so, unless the connection itself ends before.
    assert re.search("another task died|error: another process of this run has ended", said), said[-4000:]


@pytest.mark.parametrize(
    ("process_id", "said"),
    [
        (0, r"error: not all 2 processes came to 127.0.0.1:{port} within 3 s \(this is process 0 of 2, on "),
        (1, r"error: no coordinator at 127.0.0.1:{port} after 3 s \(Connection refused; this is process 1 of 2, on "),
    ],
)
def test_one_that_never_comes_is_waited_for_so_long(processes, process_id, said):
    port, process = processes("join", ids=[process_id])
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 2, output[-4000:]
    assert re.search(said.format(port=port), output), output
    assert "Traceback" not in output


def test_different_configs_are_named(processes):
    _, *both = processes("configs")
    for process in both:
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 2, said[-4000:]
        host = socket.gethostname()
        wanted = (
            "error: the processes have different configs, give all the same: "
            f"only_first is 1 on process 0 ({host}), absent on process 1 ({host}); "
            f"sampling.steps is 50 on process 0 ({host}), 30 on process 1 ({host})"
        )
        assert wanted in said, said[-4000:]


# The program


@dataclasses.dataclass(frozen=True)
class Sampling:
    steps: int
    activation: object = np.tanh
    sizes: tuple = (1, 2)


def step(model, params, *inputs):
    loss = lambda params: forward_loss(model, params, *inputs)[0]  # noqa: E731
    return jax.tree.map(lambda param, grad: param - 0.1 * grad, params, jax.grad(loss)(params))


def make_latents(weights, **split):
    """A clip of two latent frames, with guidance."""
    from lcv_jax.pipeline import load_pipeline

    pipeline = load_pipeline(weights, dtype="float32", **split)
    small = {"height": 64, "width": 96, "num_frames": 5, "num_steps": 2, "max_sequence_length": 16}
    return pipeline.text_to_video("a cat", **small, output="latents")


def generate(reference, weights):
    """Guidance in halves over the processes, tokens over the devices of each, parameters in parts over those."""
    from lcv_jax.parallel.context import ContextParallel
    from lcv_jax.parallel.mesh import make_mesh
    from lcv_jax.parallel.sharding import full_sharding

    split = {"mesh": make_mesh(data=2, seq=4), "rules": full_sharding(("fsdp", "seq"))}
    latents = make_latents(weights, **split, context=ContextParallel(strategy="ring"))
    with np.load(reference) as wanted:
        assert_close(latents, wanted["latents"])
    print(f"process {jax.process_index()}: the same video")


def train(reference):
    """A gradient step over both processes' devices, the parameters loaded in parts, against the same on one device."""
    import tempfile

    import jax.numpy as jnp
    import tensorstore as ts

    from lcv_jax.checkpoint import reading
    from lcv_jax.parallel.mesh import make_mesh
    from lcv_jax.parallel.sharding import batch_sharding, full_sharding, loading_rule, shardings

    check_same_config(Sampling(50))
    mesh = make_mesh(fsdp=2, seq=2, data=-1)
    model, params, inputs = toy_model()

    def put(array, sharding):
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    of_params = shardings(params, mesh, full_sharding(), under="params")
    placed = jax.tree.map(put, params, of_params)
    batch = batch_sharding(mesh, len(inputs[0]))
    with jax.set_mesh(mesh):
        stepped = jax.jit(functools.partial(step, model), out_shardings=of_params)(
            placed, *(put(x, batch) for x in inputs)
        )

    with np.load(reference) as wanted:
        for path, got in jax.tree_util.tree_leaves_with_path(stepped):
            assert not got.is_fully_addressable
            whole = wanted[jax.tree_util.keystr(path)]
            for shard in got.addressable_shards:
                assert_close(np.asarray(shard.data), whole[shard.index])

    # With the parts on different hosts each reads its half of the files.
    kernel = np.random.default_rng(0).standard_normal((2, 1024, 256), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        grid = {"name": "regular", "configuration": {"chunk_shape": (1, 128, 256)}}
        store = {"driver": "file", "path": f"{folder}/blocks.ffn.w1.kernel/"}
        metadata = {"shape": kernel.shape, "data_type": "float32", "chunk_grid": grid}
        spec = {"driver": "zarr3", "kvstore": store, "metadata": metadata}
        ts.open(spec, create=True).result().write(kernel).result()

        def bytes_read():
            name = "/tensorstore/kvstore/file/bytes_read"
            return sum(
                value["value"] for found in ts.experimental_collect_matching_metrics(name) for value in found["values"]
            )

        before = bytes_read()
        rule = loading_rule(make_mesh(fsdp=8), full_sharding())
        ((_, loaded),) = reading.read_onto_devices(reading.open_arrays(Path(folder)), None, rule)
        read = bytes_read() - before
        for shard in loaded.addressable_shards:
            assert shard.data.shape == (2, 128, 256)
            np.testing.assert_array_equal(np.asarray(shard.data), kernel[shard.index])
        assert kernel.nbytes / 2 * 0.8 < read < kernel.nbytes / 2 * 1.1, (read, kernel.nbytes)
    print(f"process {jax.process_index()}: the same step, {jnp.size(kernel)} numbers read in halves")


def main(program, port, process_id, *more):
    coordinator = f"127.0.0.1:{port}"
    with leaving_at_once(), mistakes_in_one_line():
        limits = {"timeout_s": 3 if program == "join" else 600, "heartbeat_s": 10 if program == "wait" else 60}
        initialize(coordinator, 2, process_id, **limits)
        if program == "train":
            train(*more)
        elif program == "generate":
            generate(*more)
        elif program == "configs":
            config = {"sampling": Sampling(50 - 20 * process_id), "seed": 0}
            check_same_config(config if process_id else config | {"only_first": 1})
        elif program == "wait":
            check_same_config({})
            print("ready", flush=True)
            time.sleep(300)
        elif program == "fail":
            check_same_config({})
            if process_id == 0:
                raise OSError("no such file")
            check_same_config({})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
