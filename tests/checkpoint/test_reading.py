"""How much is read ahead while arrays are loaded."""

import jax
import numpy as np
import tensorstore as ts

from lcv_jax.checkpoint import reading


def test_reads_ahead_within_a_bound(monkeypatch):
    """Two arrays of four numbers may wait, a third is begun before the first is finished, a large one is not kept."""
    under_way = []
    most = 0

    class Counted(reading._Loading):
        def __init__(self, *args):
            nonlocal most
            super().__init__(*args)
            under_way.append(self)
            most = max(most, len(under_way))

        def finish(self):
            under_way.remove(self)
            return super().finish()

    monkeypatch.setattr(reading, "_Loading", Counted)
    monkeypatch.setattr(reading, "IN_FLIGHT_BYTES", 2 * 4 * 4)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    values = {("small", str(n)): np.full((4,), n, np.float32) for n in range(6)}
    values["large",] = np.arange(100, dtype=np.float32)
    values["last",] = np.zeros((), np.float32)
    arrays = {path: ts.array(value) for path, value in values.items()}
    for path, value in reading.read_onto_devices(arrays, None, lambda path, shape: one):
        np.testing.assert_array_equal(np.asarray(value), values[path])
        if path == ("large",):
            assert not under_way
    assert most == 3
