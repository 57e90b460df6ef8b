"""Losses and gradients through whole judges against the published training code's, and what is trained of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.checkpoint import convert
from lcv_jax.checkpoint.judge_names import judge_table
from lcv_jax.checkpoint.judge_source import open_judge
from lcv_jax.models.judges import JudgeNetwork
from lcv_jax.objectives.preferences import JudgeNetworks, PairPreference
from lcv_jax.rewards import videoreward
from lcv_jax.rewards.judge_batches import Shape, pack, shape_of
from lcv_jax.training.judges import JudgeModel
from lcv_jax.training.state import Frozen
from lcv_jax.training.tuned import TABLE
from tests.rewards.published import image_loads, row_of, video_loads

TOLERANCE = 1e-3


def relative(got, want):
    return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


def batch_of(conversation, rows, labels):
    """Rows in pairs as a batch."""
    shape = Shape(*map(max, zip(*(shape_of(row, conversation) for row in rows), strict=True)))
    packed = pack(rows, shape, len(rows), conversation)
    batch = {name: array.reshape(-1, 2, *array.shape[1:]) for name, array in packed.items()}
    return batch | {"label_BD": np.asarray(labels)}


def split(model, params):
    """Parameters as those that are trained in full, the rows of the reward tokens, and those that are frozen."""
    trained, frozen = {}, {}
    for path, leaf in convert.flatten(params):
        convert.place(trained if model.is_trained(path) else frozen, path, leaf)
    rows = params["model"]["embed_tokens"]["weight"][jnp.array(model.reward_ids)]
    return {"network": trained, "token_rows": {"weight": rows}}, frozen


def gradients(model, trained, frozen, batch, objective, noise=None):
    def loss(trained):
        scores_BVO = model.scores(model.variables(trained, frozen), batch)
        if noise is None:
            losses = objective(JudgeNetworks(lambda _: scores_BVO), batch, jax.random.key(0))
            return losses.loss, scores_BVO
        loss_BD = objective.loss(scores_BVO[:, 0], scores_BVO[:, 1], batch["label_BD"], noise)
        return jnp.mean(loss_BD), scores_BVO

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(trained)


def compare(io, table, got, prefix=""):
    """Golden gradients by their published names against those of the tree; returns how many there were."""
    found = 0
    for leaf in table:
        for name, index in leaf.slices():
            if (wanted := io.get(f"grad.{prefix}{name}")) is not None:
                tree = got
                for part in leaf.path:
                    tree = tree[part]
                turned = leaf.turn_back(np.asarray(tree[index])).reshape(leaf.published)
                assert relative(turned, wanted) < TOLERANCE, name
                found += 1
    return found


def ids_of(io, name, number, pad):
    ids = io[name][number]
    return ids[: len(ids) - int(np.argmax(ids[::-1] != pad))]


def test_the_uncertainty_loss_has_the_published_gradients(golden, judge):
    _, io = golden("rewards/hpsv3/io")
    totals, train = golden("rewards/hpsv3/train")
    hps = judge("hpsv3")
    network = JudgeNetwork(hps.cfg, exact_frequencies=True, remat="full")
    model = JudgeModel(network=network, reward_ids=hps.conversation.reward_ids, adapted=False)
    loads, grids = image_loads(io, hps.cfg), [tuple(map(int, grid)) for grid in io["out.image_grid_thw"]]
    rows = []
    for pair, (better, worse) in enumerate(((0, 1), (1, 2))):
        for place, image in ((1, better), (2, worse)):
            ids = train[f"train.input_ids_{place}"][pair]
            reward = int(np.flatnonzero(ids == hps.conversation.reward_ids[0])[0])
            rows.append(row_of(hps.conversation, ids, loads[image], grids[image], reward))
    batch = batch_of(hps.conversation, rows, [[1], [1]])
    trained, frozen = split(model, hps.params)
    noise = train["loss.noise"].astype(np.float32)
    objective = PairPreference(model="uncertainty")
    (loss, scores), got = gradients(model, trained, Frozen(params=frozen), batch, objective, noise)
    assert relative(scores[:, 0], train["loss.rewards_A"]) < 1e-4
    assert relative(scores[:, 1], train["loss.rewards_B"]) < 1e-4
    assert float(loss) == pytest.approx(float(train["loss.uncertainty"][0]), rel=1e-4)
    assert compare(train, judge_table(hps.cfg), {**got["network"]}) == 10
    assert relative(got["token_rows"]["weight"][0], train["grad.embed_tokens_special_row"]) < TOLERANCE
    # Everything else that the published code has gradients of, but for the rest of the table, which it puts back.
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(got["network"])))
    assert norm == pytest.approx(totals["grad_norm_without_table"], rel=1e-3)


@pytest.mark.slow
def test_lora_the_tower_and_the_token_rows_have_the_published_gradients(golden, judge, published_judges, templates):
    """Pairs with ties and an invalid label through the unmerged network of VideoReward."""
    config, io = golden("rewards/videoreward/io")
    _, train = golden("rewards/videoreward/train")
    video = judge("videoreward")
    published = open_judge(published_judges / "videoreward", "videoreward", templates)
    params, pairs = unmerged(published, video.params)
    network = JudgeNetwork(video.cfg, exact_frequencies=True)
    model = JudgeModel(network=network, reward_ids=video.conversation.reward_ids, adapted=True)
    videos = [(io[f"in.video_{number}"], fps) for number, fps in enumerate(config["fps"])]
    grids = [videoreward.video_grid(each.shape, fps, video.cfg) for each, fps in videos]
    loads = video_loads(io, config, video.cfg)
    rows = []
    for pair, (first, second) in enumerate(((0, 1), (1, 0))):
        for place, number in (("A", first), ("B", second)):
            ids = train[f"train.input_ids_{place}"][pair]
            rewards = [int(np.flatnonzero(ids == token)[0]) for token in video.conversation.reward_ids]
            rows.append(row_of(video.conversation, ids, loads[number], grids[number], rewards))
    batch = batch_of(video.conversation, rows, train["train.chosen_label"])
    trained, frozen = split(model, params)
    assert set(frozen) == {"model"}
    held = Frozen(params=frozen, alpha_scale=jnp.float32(published.lora_scale))
    (loss, scores), got = gradients(model, trained | {"pairs": pairs}, held, batch, PairPreference())
    assert relative(scores[:, 0], train["loss.rewards_A"]) < 1e-3
    assert float(loss) == pytest.approx(float(train["loss.btt"][0]), rel=1e-4)
    prefix = "base_model.model."
    table = [leaf for leaf in judge_table(video.cfg) if leaf.path != TABLE and model.is_trained(leaf.path)]
    assert compare(train, table, got["network"], prefix) == 3
    assert relative(got["token_rows"]["weight"], train["grad.embed_tokens_special_rows"]) < TOLERANCE
    layers = got["pairs"]["model"]["layers"]
    for name, number, module, layer in (
        ("self_attn.q_proj", 0, "self_attn", "q_proj"),
        ("mlp.down_proj", 1, "mlp", "down_proj"),
    ):
        at = f"grad.{prefix}model.layers.{number}.{name}"
        assert relative(layers[module][layer]["up"][number, 0].T, train[f"{at}.lora_B.default.weight"]) < TOLERANCE
        if f"{at}.lora_A.default.weight" in train:
            wanted = train[f"{at}.lora_A.default.weight"]
            assert relative(layers[module][layer]["down"][number, :, 0].T, wanted) < TOLERANCE


def unmerged(published, params):
    """Parameters with the base model's kernels where there are factors, and these as an adapter."""
    place = {name: (leaf, index) for leaf in published.table for name, index in leaf.slices()}
    base = jax.tree.map(np.array, params)
    pairs = {}
    for name, factors in published.adapters.items():
        leaf, index = place[name]
        file, tensor = published.tensors[name]
        array = base
        for part in leaf.path:
            array = array[part]
        array[index] = leaf.turn(file.read(tensor).astype(np.float32))
        down, up = (file.read(tensor).astype(np.float32) for file, tensor in factors)
        depth, (rank, rows), columns = array.shape[0], down.shape, up.shape[0]
        into = pairs
        for part in leaf.path[:-1]:
            into = into.setdefault(part, {})
        into.setdefault("down", np.zeros((depth, rows, 1, rank), np.float32))[index[0], :, 0] = down.T
        into.setdefault("up", np.zeros((depth, 1, rank, columns), np.float32))[index[0], 0] = up.T
    return jax.tree.map(jnp.asarray, base), pairs
