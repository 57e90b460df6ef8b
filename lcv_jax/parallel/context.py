"""Context parallelism: the doors of kernels/attention.py for tokens that are split over the devices of a mesh.

A `ContextParallel` says how. Its functions take and give global arrays, as those of kernels/attention.py do, and find
the mesh that `jax.set_mesh` set; without one, or on one device, they are those functions. Everything else in a model
can be left to XLA's partitioner; attention cannot, for it knows nothing about the insides of our kernels and cuDNN's.

The strategies, on an axis of n devices:

    ulysses        Devices exchange heads for tokens; n divides the heads. The least is sent: (n - 1) / n^2 of q, k, v
                   and the output past each device. The default.
    ring           Keys and values go round, hidden behind attention; any n, any number of heads. A device holds those
                   of two devices at a time, never all.
    ulysses_ring   Rings of `ring_size`, and heads exchanged between n / ring_size neighbours: machines on the ring, the
                   GPUs of a machine exchanging heads.

The batch is split over the axes "data" and "fsdp" as far as it divides. Lengths that do not divide are padded here, and
what is padded is masked.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from lcv_jax.array_types import Array, Bool, Float, PyTree
from lcv_jax.kernels import attention as kernels
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.norm_rope import choose as choose_norm_rope
from lcv_jax.kernels.norm_rope import norm_rope
from lcv_jax.parallel.mesh import batch_axes
from lcv_jax.parallel.ranks import Ranks
from lcv_jax.parallel.ring import ring_attention
from lcv_jax.parallel.ring_sparse import ring_block_sparse_attention, ring_selected_attention
from lcv_jax.parallel.ulysses import check_heads, ulysses

STRATEGIES = ("ulysses", "ring", "ulysses_ring")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContextParallel:
    """How attention is computed over a mesh. Hashable: a static argument."""

    strategy: str = "ulysses"
    ring_size: int | None = None
    """Devices of a ring, for ulysses_ring."""
    axis: str = "seq"
    """The mesh axis that tokens are split over."""

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            raise ValueError(f"context parallelism {self.strategy!r}: have {', '.join(STRATEGIES)}")
        if (self.ring_size is None) == (self.strategy == "ulysses_ring"):
            wanted = "needs a ring_size" if self.ring_size is None else "takes no ring_size, ulysses_ring does"
            raise ValueError(f"context parallelism {self.strategy!r} {wanted}, got ring_size={self.ring_size}")
        if self.ring_size is not None and self.ring_size < 1:
            raise ValueError(f"context parallelism: ring_size must be at least 1, got {self.ring_size}")

    def attention(
        self,
        q_BSNK: Float[Array, "B S N K"],
        k_BMNK: Float[Array, "B M N K"],
        v_BMNK: Float[Array, "B M N K"],
        *,
        key_mask_BM: Bool[Array, "B M"] | None = None,
        implementation: str = "auto",
    ) -> Float[Array, "B S N K"]:
        """`lcv_jax.kernels.attention.attention` with queries and keys split over the axis.

        Raises:
            ValueError: the mesh has no such axis, or the heads do not divide by the devices that exchange them.
            NotImplementedError: the implementation is not there or cannot take these arrays.
        """
        layout = self._layout(q_BSNK.shape[2])
        if layout is None:
            return kernels.attention(q_BSNK, k_BMNK, v_BMNK, key_mask_BM=key_mask_BM, implementation=implementation)
        B, M = k_BMNK.shape[:2]
        if layout.ring.size > 1 and (key_mask_BM is not None or M % layout.num_devices):
            allowed_BM = jnp.ones((B, M), bool) if key_mask_BM is None else key_mask_BM
            key_mask_BM = _padded(allowed_BM, layout.num_devices)

        def attend(q: Array, k: Array, v: Array, mask_BM: Array | None) -> Array:
            return ring_attention(q, k, v, axis=layout.ring, key_mask_BM=mask_BM, implementation=implementation)

        return layout.split(attend, q_BSNK, k_BMNK, v_BMNK, key_mask_BM)

    def cross_attention(
        self,
        q_BSNK: Float[Array, "B S N K"],
        k_BMNK: Float[Array, "B M N K"],
        v_BMNK: Float[Array, "B M N K"],
        *,
        key_mask_BM: Bool[Array, "B M"] | None = None,
        implementation: str = "auto",
    ) -> Float[Array, "B S N K"]:
        """`attention` to a few keys that every device has, those of a caption: nothing is sent.

        Raises:
            ValueError: the mesh has no such axis.
            NotImplementedError: the implementation is not there or cannot take these arrays.
        """
        attend = functools.partial(kernels.attention, cheap=True, implementation=implementation)
        mesh = self._mesh()
        if mesh is None:
            return attend(q_BSNK, k_BMNK, v_BMNK, key_mask_BM=key_mask_BM)
        batch = batch_axes(mesh, q_BSNK.shape[0])
        split, whole = PartitionSpec(batch, self.axis), PartitionSpec(batch)

        def local(q: Array, k: Array, v: Array, mask_BM: Array | None) -> Array:
            return attend(q, k, v, key_mask_BM=mask_BM)

        over_mesh = jax.shard_map(local, in_specs=(split, whole, whole, whole), out_specs=split, check_vma=False)
        out_BSNK = over_mesh(_padded(q_BSNK, mesh.shape[self.axis]), k_BMNK, v_BMNK, key_mask_BM)
        return out_BSNK[:, : q_BSNK.shape[1]]

    def ordered_block_sparse_attention(
        self,
        q_BSNK: Float[Array, "B S N K"],
        k_BMNK: Float[Array, "B M N K"],
        v_BMNK: Float[Array, "B M N K"],
        *,
        block_q: int,
        block_k: int,
        sparsity: float | None = None,
        cdf_threshold: float | None = None,
        block_mask: Bool[Array, "*#BN I J"] | None = None,
        means: tuple[Float[Array, "B I N K"], Float[Array, "B J N K"]] | None = None,
        implementation: str = "auto",
    ) -> Float[Array, "B S N K"]:
        """`lcv_jax.kernels.attention.ordered_block_sparse_attention` with queries and keys split over the axis.

        Every query block selects among all key blocks, as on one device. Devices that split tokens or heads compute the
        means of their own.

        Raises:
            ValueError: as that function does; the mesh has no such axis, or the heads do not divide by the devices that
                exchange them.
            NotImplementedError: the implementation is not there or cannot take these arrays.
        """
        layout = self._layout(q_BSNK.shape[2])
        if layout is None:
            return kernels.ordered_block_sparse_attention(
                q_BSNK,
                k_BMNK,
                v_BMNK,
                block_q=block_q,
                block_k=block_k,
                sparsity=sparsity,
                cdf_threshold=cdf_threshold,
                block_mask=block_mask,
                means=means,
                implementation=implementation,
            )
        kernels.check_one_way_to_select(sparsity, cdf_threshold, block_mask)
        kernels.check_blocks(q_BSNK, k_BMNK, block_q, block_k)
        selection = None
        if block_mask is not None:
            selection = kernels.selection_of_block_mask(block_mask, q_BSNK, k_BMNK, block_q, block_k)
        by_score = functools.partial(
            ring_block_sparse_attention,
            num_key_blocks=k_BMNK.shape[1] // block_k,
            sparsity=sparsity,
            cdf_threshold=cdf_threshold,
        )

        def attend(q: Array, k: Array, v: Array, selection: Selection | None) -> Array:
            how = by_score
            if selection is not None:
                own = layout.own_lists(selection, q.shape[1] // block_q, q.shape[2])
                how = functools.partial(ring_selected_attention, selection=own)
            return how(q, k, v, axis=layout.ring, block_q=block_q, block_k=block_k, implementation=implementation)

        return layout.split(attend, q_BSNK, k_BMNK, v_BMNK, selection, block_q=block_q, block_k=block_k)

    def norm_rope(
        self,
        x_BSNK: Float[Array, "B S N K"],
        weight_K: Float[Array, " K"],
        cos_SH: Float[Array, "S half"],
        sin_SH: Float[Array, "S half"],
        *,
        epsilon: float,
        block: int | None = None,
        implementation: str = "auto",
    ) -> tuple[Float[Array, "B S N K"], Float[Array, "B I N K"] | None]:
        """`lcv_jax.kernels.norm_rope.norm_rope` of tokens that are split over the axis; then without means.

        Raises:
            ValueError: the mesh has no such axis.
        """
        mesh = self._mesh()
        if mesh is None:
            return norm_rope(
                x_BSNK, weight_K, cos_SH, sin_SH, epsilon=epsilon, block=block, implementation=implementation
            )

        if x_BSNK.shape[1] % mesh.shape[self.axis] or choose_norm_rope(implementation, x_BSNK) == "xla":
            # The partitioner splits the formulas, and pads.
            plain = functools.partial(norm_rope, epsilon=epsilon, implementation="xla")
            return plain(x_BSNK, weight_K, cos_SH, sin_SH)

        def local(*given: Array) -> Array:
            return norm_rope(*given, epsilon=epsilon, implementation=implementation)[0]

        tokens, table = PartitionSpec(batch_axes(mesh, x_BSNK.shape[0]), self.axis), PartitionSpec(self.axis)
        over_mesh = jax.shard_map(
            local, in_specs=(tokens, PartitionSpec(), table, table), out_specs=tokens, check_vma=False
        )
        return over_mesh(x_BSNK, weight_K, cos_SH, sin_SH), None

    def _mesh(self) -> jax.sharding.AbstractMesh | None:
        """The mesh that is set, or None where there is nothing to split."""
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return None
        if self.axis not in mesh.shape:
            have = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
            raise ValueError(
                f"context parallelism over the mesh axis {self.axis!r}: the mesh has {have}; "
                f"add the axis {self.axis!r}, of size 1 to split no tokens"
            )
        return mesh

    def _layout(self, num_heads: int) -> "_Layout | None":
        mesh = self._mesh()
        if mesh is None:
            return None
        size = mesh.shape[self.axis]
        ring_size = self.ring_size or {"ulysses": 1, "ring": size}[self.strategy]
        if size % ring_size:
            works = ", ".join(str(part) for part in range(1, size + 1) if size % part == 0)
            raise ValueError(f"rings of {ring_size} do not divide {size} devices of axis {self.axis!r}: take {works}")
        exchange = Ranks(self.axis, size // ring_size)
        check_heads(num_heads, exchange.size)
        return _Layout(mesh, Ranks(self.axis, ring_size, stride=exchange.size), exchange)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Which devices do what in one attention: neighbours exchange heads, rings go from one set of them to the next."""

    mesh: jax.sharding.AbstractMesh
    ring: Ranks
    exchange: Ranks

    @property
    def num_devices(self) -> int:
        """That share the tokens."""
        return self.ring.size * self.exchange.size

    def split(
        self,
        attend: Callable[..., Array],
        q_BSNK: Array,
        k_BMNK: Array,
        v_BMNK: Array,
        about_keys: PyTree,
        *,
        block_q: int = 1,
        block_k: int = 1,
    ) -> Array:
        """Attention over the mesh.

        Args:
            attend: of this device's part of q, k and v, all of its ring together having all tokens of some heads, and
                of `about_keys`.
            about_keys: a mask or lists, the same on all devices but for the batch.
            block_q, block_k: of what a device of a ring holds a whole number.
        """
        num_queries, num_keys = q_BSNK.shape[1], k_BMNK.shape[1]
        batch = batch_axes(self.mesh, q_BSNK.shape[0])
        split, whole = PartitionSpec(batch, self.ring.axis), PartitionSpec(batch)

        def local(q: Array, k: Array, v: Array, about_keys: PyTree) -> Array:
            def attend_all(q: Array, k: Array, v: Array) -> Array:
                if self.ring.size > 1:
                    return attend(q, k, v, about_keys)
                # All tokens are here: padding is cut off, so that kernels without a mask will do.
                out = attend(q[:, :num_queries], k[:, :num_keys], v[:, :num_keys], about_keys)
                return _padded(out, self.num_devices)

            # A ring hides its own hops, and those of two rings would stand in each other's way. Lists are by head, so a
            # device's heads must be those that follow one another.
            pieces = 1 if self.ring.size > 1 or isinstance(about_keys, Selection) else None
            return ulysses(attend_all, self.exchange, pieces=pieces)(q, k, v)

        q, k, v = (
            _padded(x, math.lcm(self.num_devices, self.ring.size * block if self.ring.size > 1 else 1))
            for x, block in ((q_BSNK, block_q), (k_BMNK, block_k), (v_BMNK, block_k))
        )
        over_mesh = jax.shard_map(local, in_specs=(split, split, split, whole), out_specs=split, check_vma=False)
        return over_mesh(q, k, v, about_keys)[:, :num_queries]

    def own_lists(self, selection: Selection, num_blocks: int, num_heads: int) -> Selection:
        """Of the lists of all heads and query blocks, those of this device; query blocks that are padding have none."""
        first = (self.ring.index() * num_blocks, self.exchange.index() * num_heads)

        def own(x_BNIx: Array) -> Array:
            rows_BNIx = _padded(x_BNIx, self.ring.size * num_blocks, axis=2)
            rows_BNIx = lax.dynamic_slice_in_dim(rows_BNIx, first[0], num_blocks, axis=2)
            return lax.dynamic_slice_in_dim(rows_BNIx, first[1], num_heads, axis=1)

        return Selection(*map(own, selection))


def _padded(x: Array, multiple: int, axis: int = 1) -> Array:
    """With zeros, or False, behind the last."""
    room = -x.shape[axis] % multiple
    return jnp.pad(x, [(0, room if at == axis % x.ndim else 0) for at in range(x.ndim)]) if room else x
