"""Groups of the devices along a mesh axis, and what they send one another, inside shard_map.

Ulysses and a ring can share one axis: devices r and r + 1 exchange heads, devices r and r + 4 are neighbours of a ring.
So which of the two is used, and how much of each, is not a property of the mesh:

    Ranks("seq", size=4)              0 1 2 3 | 4 5 6 7          on an axis of 8
    Ranks("seq", size=2, stride=4)    0 4 | 1 5 | 2 6 | 3 7
"""

import dataclasses

from jax import lax

from lcv_jax.array_types import Array, PyTree, Shaped


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Devices `stride` apart on a mesh axis, `size` in a group. Hashable: a static argument."""

    axis: str
    size: int
    stride: int = 1

    def index(self) -> Array:
        """This device's place in its group."""
        return lax.axis_index(self.axis) // self.stride % self.size

    def groups(self) -> list[list[int]]:
        """The devices of every group, counted along the axis."""
        firsts = (first for first in range(lax.axis_size(self.axis)) if first // self.stride % self.size == 0)
        return [[first + self.stride * place for place in range(self.size)] for first in firsts]

    def _groups(self) -> list[list[int]] | None:
        return None if self.size == lax.axis_size(self.axis) else self.groups()

    def all_to_all(self, x: Shaped[Array, "*a"], *, split: int, join: int) -> Shaped[Array, "*b"]:
        """Every device cuts its dimension `split` into one piece a device, and joins what it gets along `join`."""
        if self.size == 1:
            return x
        return lax.all_to_all(x, self.axis, split, join, tiled=True, axis_index_groups=self._groups())

    def all_gather(self, x: Shaped[Array, "*a"], *, join: int) -> Shaped[Array, "*b"]:
        """The group's arrays along the dimension `join`, on every one of its devices."""
        if self.size == 1:
            return x
        return lax.all_gather(x, self.axis, axis=join, tiled=True, axis_index_groups=self._groups())

    def send_on(self, tree: PyTree) -> PyTree:
        """To the next of the group, from the last to the first."""
        if self.size == 1:
            return tree
        pairs = [(group[place - 1], group[place]) for group in self.groups() for place in range(self.size)]
        return lax.ppermute(tree, self.axis, pairs)


def whole_axis(axis: str | Ranks) -> Ranks:
    """All devices of a mesh axis, where a name is given."""
    return axis if isinstance(axis, Ranks) else Ranks(axis, lax.axis_size(axis))
