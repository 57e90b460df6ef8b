"""Shapes of meshes; meshes of several devices are in test_sharding.py, which has them."""

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from lcv_jax.parallel.mesh import AXES, MeshShape, batch_axes, make_mesh


def test_one_axis_may_be_the_rest():
    assert MeshShape(data=2, seq=-1).fit(8).sizes == (2, 1, 4)
    assert MeshShape(data=-1, fsdp=2, seq=2).fit(8).sizes == (2, 2, 2)
    assert MeshShape(fsdp=-1).fit(1).sizes == (1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "num_devices", "said"),
    [
        ({"data": 2, "seq": 2}, 8, "data=2 x fsdp=1 x seq=2 takes 4 devices, but there are 8.*data=2 x fsdp=1 x seq=4"),
        ({"seq": 8}, 1, r"takes 8 devices, but there is 1; these shapes fit: data=1 x fsdp=1 x seq=1$"),
        ({"data": 3, "seq": -1}, 8, "takes a multiple of 3 devices, but there are 8.*fit: data=4 x fsdp=1 x seq=2"),
        ({"data": -1, "seq": -1}, 8, "one of them may be -1 for the rest; got data=-1 x fsdp=1 x seq=-1"),
        ({"fsdp": 0}, 8, "at least 1.*fsdp=0"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_with_those_that_do(shape, num_devices, said):
    with pytest.raises(ValueError, match=said):
        MeshShape(**shape).fit(num_devices)


def test_every_shape_that_is_proposed_fits():
    with pytest.raises(ValueError, match="these shapes fit") as error:
        MeshShape(data=5, fsdp=7).fit(24)
    proposed = str(error.value).partition("fit: ")[2].removesuffix("; ...").split("; ")
    assert len(proposed) == 4
    for text in proposed:
        shape = MeshShape(**{axis: int(size) for axis, size in (part.split("=") for part in text.split(" x "))})
        assert shape.fit(24) == shape


def test_axes_in_order_and_left_to_the_partitioner():
    mesh = make_mesh(data=-1, devices=jax.devices()[:1])
    assert mesh.axis_names == AXES == ("data", "fsdp", "seq")
    assert mesh.axis_types == (AxisType.Auto,) * 3


def test_a_batch_is_split_as_far_as_it_divides():
    mesh = AbstractMesh((2, 4, 3), AXES)
    both = ("data", "fsdp")
    wanted = {1: (), 2: ("data",), 3: (), 4: ("data",), 6: ("data",), 8: both, 16: both}
    assert {batch: batch_axes(mesh, batch) for batch in wanted} == wanted
    assert batch_axes(AbstractMesh((2, 3, 4), AXES), 3) == ("fsdp",)
    assert batch_axes(AbstractMesh((2,), ("x",)), 2) == ()
