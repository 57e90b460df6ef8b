"""One optimiser step against what optax does to gradients that are written out here."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.config import DiTConfig
from lcv_jax.data.batches import BatchKind
from lcv_jax.data.config import DataConfig
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.lora import combine
from lcv_jax.objectives.cfg_distillation import CFGDistillation
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.objectives.networks import Losses
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.training import networks
from lcv_jax.training import state as states
from lcv_jax.training.config import AdapterConfig, DevicesConfig, OptimizerConfig, TrainConfig
from lcv_jax.training.state import Frozen, decays, ema_weight
from lcv_jax.training.step import train_step

DIT = DiTConfig(
    hidden_size=32,
    depth=2,
    num_heads=2,
    caption_channels=8,
    adaln_tembed_dim=8,
    frequency_embedding_size=8,
    in_channels=4,
    out_channels=4,
)
KIND = BatchKind("i2v", 1)
PLAIN = OptimizerConfig(learning_rate=1e-2, warmup_steps=2, weight_decay=0.1, ema_decay=0.5, clip_norm=0.3)


@dataclasses.dataclass(frozen=True)
class Steady:
    """Half the squared velocity: an objective without chance."""

    needs = frozenset()

    def __call__(self, networks, batch, key, *, num_cond_latents):
        x_BTHWC = batch["latents_BTHWC"]
        timesteps_BT = jnp.full(x_BTHWC.shape[:2], 500.0)
        v = networks.student(x_BTHWC, timesteps_BT, batch["text_BLD"], batch["text_mask_BL"], num_cond_latents)
        error_B = jnp.mean((v - x_BTHWC)[:, num_cond_latents:] ** 2, axis=(1, 2, 3, 4))
        return Losses(error_B.mean(), error_B, jnp.full(x_BTHWC.shape[0], 0.5), {"size": jnp.mean(v**2)})


def make_config(**fields):
    cfg = TrainConfig(
        run=Path("run"),
        checkpoint=Path("none"),
        objective=FlowMatching(),
        data=DataConfig(path=Path("data")),
        steps=9,
        batch_size=8,
        from_scratch=True,
        dtype="float32",
        optimizer=PLAIN,
    )
    return dataclasses.replace(cfg, **fields)


def make_batch(rows=8):
    rng = np.random.default_rng(0)
    return {
        "latents_BTHWC": rng.standard_normal((rows, 3, 4, 4, 4)).astype(np.float32),
        "text_BLD": rng.standard_normal((rows, 5, 8)).astype(np.float32),
        "text_mask_BL": np.ones((rows, 5), bool),
    }


def setting(cfg, mesh, objective=None):
    """The learner, a state that is not the zero-initialised one, and its shapes' places."""
    learner = networks.learner_of(cfg, DIT, mesh)
    if objective is not None:
        learner = dataclasses.replace(learner, objective=objective)
    start = networks.Start(cfg, learner)
    state = start.state()
    rng = np.random.default_rng(1)
    shaken = jax.tree.map(
        lambda x: jax.device_put(x + 0.02 * rng.standard_normal(x.shape).astype(x.dtype), x.sharding), state.params
    )
    ema = None if state.ema is None else jax.tree.map(jnp.copy, shaken)
    return learner, state.replace(params=shaken, ema=ema)


def by_hand(cfg, params, ema, batch, steps):
    """AdamW as the papers have it, after clipping, with decay of kernels alone; and the moving average."""
    model, o = LongCatVideo(DIT), cfg.optimizer

    def loss(params):
        v = model.apply(
            {"params": params},
            batch["latents_BTHWC"],
            jnp.full((8, 3), 500.0),
            batch["text_BLD"],
            batch["text_mask_BL"],
            1,
        )
        return jnp.mean((v - batch["latents_BTHWC"])[:, 1:] ** 2)

    first, second = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
    for number in range(1, steps + 1):
        grads = jax.jit(jax.grad(loss))(params)
        norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g: g * min(1.0, o.clip_norm / norm), grads)  # noqa: B023
        first = jax.tree.map(lambda m, g: o.b1 * m + (1 - o.b1) * g, first, grads)
        second = jax.tree.map(lambda v, g: o.b2 * v + (1 - o.b2) * g * g, second, grads)
        rate = o.learning_rate * min(1.0, number / o.warmup_steps)

        def move(path, p, m, v):
            update = (m / (1 - o.b1**number)) / (jnp.sqrt(v / (1 - o.b2**number)) + o.eps)  # noqa: B023
            return p - rate * (update + (o.weight_decay * p if path[-1].key == "kernel" else 0))  # noqa: B023

        params = jax.tree_util.tree_map_with_path(move, params, first, second)
        decay = min(o.ema_decay, number / (9 + number))
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)  # noqa: B023
    return params, ema, norm


def assert_trees_close(got, want, tolerance=1e-5):
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("accumulation", "devices"),
    [
        (1, {"count": 1}),
        (4, {"count": 2, "fsdp": 2, "sharding": "full"}),
        (1, {"count": 8, "data": 2, "fsdp": 2, "seq": 2}),
    ],
)
def test_a_step_is_adamw_on_any_mesh_in_any_number_of_parts(accumulation, devices):
    devices = dict(devices)
    count = devices.pop("count")
    cfg = make_config(
        optimizer=dataclasses.replace(PLAIN, accumulation=accumulation),
        devices=DevicesConfig(**{"data": -1, **devices}),
        batch_size=16 if accumulation == 4 else 8,
    )
    mesh = make_mesh(cfg.devices.data, cfg.devices.fsdp, cfg.devices.seq, jax.devices()[:count])
    with jax.set_mesh(mesh):
        learner, state = setting(cfg, mesh, Steady())
    params, ema, norm = by_hand(cfg, jax.device_get(state.params), jax.device_get(state.ema), make_batch(), 2)
    with jax.set_mesh(mesh):
        batch = make_batch()
        if accumulation == 4:  # each sample twice: the mean is the same
            batch = {name: np.concatenate([array, array]) for name, array in batch.items()}
        for _ in range(2):
            state, measured = train_step(learner, state, Frozen(), batch, KIND)
    assert int(state.step) == 2
    assert int(state.skipped) == 0
    assert float(measured["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    assert float(measured["learning_rate"]) == pytest.approx(1e-2)
    assert measured["error_B"].shape == (cfg.batch_size,)
    assert_trees_close(state.params, params)
    assert_trees_close(state.ema, ema)


def test_the_average_warms_up_by_the_step():
    cfg = OptimizerConfig(ema_decay=0.9999)
    decays = [min(0.9999, (1 + t) / (10 + t)) for t in (0, 59, 10**6)]
    np.testing.assert_allclose([1 - float(ema_weight(cfg, jnp.int32(t))) for t in (0, 59, 10**6)], decays, rtol=1e-6)
    # What an average has after 60 steps of the parameters that it started from: nothing. Without the warm-up, 99.4 %.
    assert np.prod([1 - float(ema_weight(cfg, jnp.int32(t))) for t in range(60)]) < 1e-9


def test_state_lies_in_parts_and_parameters_whole():
    cfg = make_config(devices=DevicesConfig(data=2, fsdp=4))
    mesh = make_mesh(2, 4)
    with jax.set_mesh(mesh):
        learner, state = setting(cfg, mesh)
        state, _ = train_step(learner, state, Frozen(), make_batch(), KIND)
    kernel = ("blocks", "attn", "qkv", "kernel")

    def at(tree):
        for name in kernel:
            tree = tree[name]
        return tree

    moments = at(state.opt_state[1][0].mu)
    assert at(state.params).sharding.is_fully_replicated
    assert moments.addressable_shards[0].data.size == moments.size // 4
    assert at(state.ema).addressable_shards[0].data.size == moments.size // 4


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
    cfg = make_config(optimizer=dataclasses.replace(PLAIN, max_skipped=2))
    mesh = make_mesh(1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        learner, state = setting(cfg, mesh, Steady())
        before = jax.device_get(state)
        broken = make_batch()
        broken["latents_BTHWC"][3, 1, 0, 0, 0] = np.nan
        for _ in range(2):
            state, measured = train_step(learner, state, Frozen(), broken, KIND)
        assert not bool(measured["finite"])
        assert int(measured["skipped"]) == int(state.skipped) == 2
        for name in ("params", "ema", "opt_state"):
            jax.tree.map(np.testing.assert_array_equal, jax.device_get(getattr(state, name)), getattr(before, name))
        state, measured = train_step(learner, state, Frozen(), make_batch(), KIND)
    assert bool(measured["finite"])
    assert int(state.skipped) == 0
    assert int(state.step) == 3


def test_an_adapter_learns_and_its_network_does_not():
    cfg = make_config(
        from_scratch=False,
        adapter=AdapterConfig(name="a", rank=4, alpha=2.0),
        objective=CFGDistillation(),
        optimizer=PLAIN,
    )
    mesh = make_mesh(1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        learner = networks.learner_of(cfg, DIT, mesh)
        base = jax.tree.map(lambda x: x + 0.02, networks.initialise(learner.model, jax.random.key(0)))
        pairs = states.new_adapter(cfg.adapter, base, jax.random.key(1))
        assert set(pairs["blocks"]) == {"attn", "cross_attn", "ffn"}
        assert pairs["blocks"]["attn"]["qkv"]["down"].shape == (2, 32, 3, 4)
        assert pairs["blocks"]["cross_attn"]["kv_linear"]["up"].shape == (2, 2, 4, 32)
        frozen = Frozen(params=base, alpha_scale=jnp.float32(0.5))
        batch = {
            **make_batch(),
            "negative_text_1LD": np.ones((1, 5, 8), np.float32),
            "negative_mask_1L": np.ones((1, 5), bool),
        }
        state = states.begin(cfg, pairs)
        # Nothing is added yet, so that the student is the teacher's half with the prompt.
        inputs = batch["latents_BTHWC"], jnp.full((8, 3), 10.0), batch["text_BLD"], batch["text_mask_BL"], 1
        variables = states.variables_of(state.params, frozen, adapted=True)
        np.testing.assert_allclose(
            learner.model.apply(variables, *inputs), learner.model.apply({"params": base}, *inputs), rtol=1e-5
        )
        state, measured = train_step(learner, state, frozen, batch, KIND)
        assert float(measured["loss"]) > 0
        up = state.params["blocks"]["ffn"]["w2"]["up"]
        assert float(jnp.abs(up).max()) > 0
        # What is exported is a published adapter with the scale alpha / rank.
        adapter = states.with_scale(state.params, frozen.alpha_scale)
        assert adapter["blocks"]["ffn"]["w2"]["alpha_scale"].tolist() == [0.5, 0.5]
        variables = states.variables_of(state.params, frozen, adapted=True)
        np.testing.assert_array_equal(
            learner.model.apply(variables, *inputs),
            learner.model.apply({"params": base, "adapters": combine([(adapter, 1.0)])}, *inputs),
        )
        again, scales = states.split_scale(adapter)
    jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(state.params))
    assert scales["blocks"]["attn"]["proj"]["alpha_scale"].shape == (2,)


def test_decay_is_for_matrices_alone():
    params = {"a": {"kernel": 1, "bias": 1}, "norm": {"weight": 1}, "lora": {"down": 1, "up": 1}}
    assert decays(params) == {
        "a": {"kernel": True, "bias": False}, "norm": {"weight": False}, "lora": {"down": True, "up": True}
    }  # fmt: skip


@pytest.mark.parametrize("remat", ["full", "attention", "offload"])
def test_rematerialisation_changes_no_gradient(remat):
    mesh = make_mesh(1, devices=jax.devices()[:1])
    norms = []
    with jax.set_mesh(mesh):
        for policy in ("none", remat):
            cfg = make_config(remat=policy)
            learner, state = setting(cfg, mesh, Steady())
            norms.append(train_step(learner, state, Frozen(), make_batch(), KIND)[1]["grad_norm"])
    np.testing.assert_allclose(*norms, rtol=1e-6)


def test_attention_is_not_computed_again_where_it_is_kept():
    def exponentials(remat):
        """Softmaxes in the gradient: one forward; one more in each backward, and in each that is computed again."""
        model = LongCatVideo(DIT, remat=remat)
        batch = make_batch(1)
        inputs = batch["latents_BTHWC"], jnp.ones((1, 3)), batch["text_BLD"], batch["text_mask_BL"]
        shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        return str(jax.make_jaxpr(jax.grad(lambda p: model.apply(p, *inputs).sum()))(shapes)).count(" exp ")

    kept, none, full = (exponentials(remat) for remat in ("attention", "none", "full"))
    # To the caption's few tokens it is computed again in either: keeping it would take as much memory and save little.
    assert (kept - none, full - none) == (1, 2)
