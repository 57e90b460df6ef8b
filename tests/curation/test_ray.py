import pytest

from lcv_jax.curation.engines import Engine
from lcv_jax.curation.stages.probe import STAGE
from lcv_jax.data.media_writer import VideoWriter

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_cluster_of_two_workers_gives_the_same_rows_as_the_pool(tmp_path):
    pytest.importorskip("ray")
    import numpy as np
    from ray.cluster_utils import Cluster

    rows = []
    for number in range(6):
        path = tmp_path / f"{number}.mp4"
        with VideoWriter(path, fps=8, height=32, width=32 + 16 * number) as file:
            file.write(np.zeros((5 + number, 32, 32 + 16 * number, 3), np.uint8))
        rows.append({"source": str(number), "path": path})
    rows[3]["path"].write_bytes(b"")

    def outcomes(engine):
        found = {outcome.key: (outcome.rows, outcome.fault) for _, outcome in engine.run(STAGE, rows)}
        assert len(found) == 6
        return found

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        assert outcomes(Engine(engine="ray", ray_address=cluster.address)) == outcomes(Engine(workers=2))
    finally:
        cluster.shutdown()
