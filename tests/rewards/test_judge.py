"""The released reward models on Qwen2-VL against the published code's numbers, and what must hold whatever the weights.

The published templates are not here: their token ids are, in the golden files, and go to the network as they are.
"""

import numpy as np
import pytest

from lcv_jax.data.patches import normalise
from lcv_jax.models.qwen2_rope import grid_positions
from lcv_jax.rewards import videoreward
from lcv_jax.rewards.judge import load_judge
from lcv_jax.rewards.judge_batches import bucket, make_row, pack, shape_of
from tests.rewards.published import image_loads, row_of, video_loads

IMAGE_TOLERANCE, VIDEO_TOLERANCE, TOWER_TOLERANCE = 1e-4, 1e-3, 1e-5


def relative(got, want):
    return np.abs(got - want).max() / np.abs(want).max()


def published_rows(judge, io, loads, grids):
    """Rows of the token ids that the published processors gave."""
    rows = []
    for number, (load, grid) in enumerate(zip(loads, grids, strict=True)):
        ids = io["out.input_ids"][number][io["out.attention_mask"][number] > 0]
        places = io["out.reward_token_index"][number]
        rows.append(row_of(judge.conversation, ids, load, grid, places, results=((number,),)))
    return rows


def published_images(judge, io):
    return published_rows(judge, io, image_loads(io, judge.cfg), [tuple(map(int, g)) for g in io["out.image_grid_thw"]])


def published_videos(judge, config, io):
    videos = [(io[f"in.video_{number}"], fps) for number, fps in enumerate(config["fps"])]
    grids = [videoreward.video_grid(video.shape, fps, judge.cfg) for video, fps in videos]
    assert grids == [tuple(grid) for grid in io["out.video_grid_thw"].tolist()]
    return published_rows(judge, io, video_loads(io, config, judge.cfg), grids)


@pytest.mark.parametrize("exact", [True, False])
def test_hpsv3_is_the_published_one(golden, judge, exact):
    _, io = golden("rewards/hpsv3/io")
    hps = judge("hpsv3", exact)
    got = hps._score_rows(published_images(hps, io), 3)
    assert relative(got, io["out.mu_sigma" if exact else "out.mu_sigma_both_inv_freq_bf16"]) < IMAGE_TOLERANCE
    assert relative(got, io["out.mu_sigma_both_inv_freq_bf16" if exact else "out.mu_sigma"]) > IMAGE_TOLERANCE
    assert relative(got, io["contrast.mu_sigma_with_mrope_grid"]) > 0.1


@pytest.mark.parametrize("exact", [True, False])
def test_videoreward_is_the_published_one(golden, judge, exact):
    config, io = golden("rewards/videoreward/io")
    video = judge("videoreward", exact)
    got = video._score_rows(published_videos(video, config, io), 2)
    assert relative(got, io["out.raw_vq_mq_ta" if exact else "out.raw_both_inv_freq_bf16"]) < VIDEO_TOLERANCE
    assert relative(got, io["contrast.raw_with_mrope_grid"]) > 0.1
    if exact:
        assert relative(video.normalise(got), io["out.normed_vq_mq_ta_overall"]) < VIDEO_TOLERANCE


def test_the_other_layout_gives_the_same_network(golden, judge):
    config, io = golden("rewards/videoreward/io")
    video = judge("videoreward", source="videoreward/lora_layout")
    got = video._score_rows(published_videos(video, config, io), 2)
    assert relative(got, io["out.raw_from_lora_layout"]) < VIDEO_TOLERANCE
    np.testing.assert_array_equal(got, judge("videoreward")._score_rows(published_videos(video, config, io), 2))


def test_the_tower_is_the_published_one(golden, judge):
    _, io = golden("rewards/hpsv3/io")
    got = judge("hpsv3").encode_image(io["tower.pixel_values"], io["tower.grid_thw"])
    assert relative(got, io["tower.image_embeds"]) < TOWER_TOLERANCE


def test_grid_positions_give_the_contrast(golden, judge):
    """Qwen2-VL's own positions, which the reward models do not use."""
    _, io = golden("rewards/hpsv3/io")
    hps = judge("hpsv3")
    row = published_images(hps, io)[2]
    shape = shape_of(row, hps.conversation)
    packed = pack([row], shape, 1, hps.conversation)
    grid = np.array([row.grid])
    visual = int(np.prod(row.grid)) // 4
    ids = [*hps.conversation.opening, *[hps.conversation.visual_token] * visual, *row.prompts[0].ids]
    positions = grid_positions(np.array(ids), grid, hps.cfg.network)
    begun = len(ids) - len(row.prompts[0].ids) + len(row.begun)
    placed = np.zeros((1, shape.length, 3), np.int32)
    placed[0, :begun], end = positions[:begun], positions[begun:]
    placed[0, shape.begun : shape.begun + len(end)] = end
    got = hps._run(packed | {"positions": placed}, shape)
    assert relative(np.asarray(got)[:, 0], io["contrast.mu_sigma_with_mrope_grid"][2:]) < IMAGE_TOLERANCE


def test_bfloat16_is_near(golden, converted_judge):
    _, io = golden("rewards/hpsv3/io")
    hps = load_judge(converted_judge("hpsv3"), dtype="bfloat16")
    assert hps.params["rm_head_0"]["kernel"].dtype == np.float32
    assert relative(hps._score_rows(published_images(hps, io), 3), io["bf16.mu_sigma"]) < 0.1


def pictures(count, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, 40, 50, 3), np.uint8))


def test_captions_of_a_picture_share_its_beginning(judge):
    """The same numbers, whether a picture comes under one caption or several, alone or among others."""
    hps = judge("hpsv3")
    images, captions = pictures(2), ["a red fox", "A high-quality image", "日落"]
    together = hps.score_images([images[0], images[1], images[0], images[0]], [*captions[:2], *captions[1:]])
    alone = [hps.score_images([images[0]], [caption])[0] for caption in captions]
    np.testing.assert_allclose(together[[0, 2, 3]], alone, rtol=2e-5, atol=2e-6)
    assert np.abs(together[0] - together[3]).max() > 1e-3
    conversation = hps.conversation
    row = make_row(conversation, lambda: None, (1, 2, 2), [(caption, [0]) for caption in captions])
    assert len(row.begun) > len(conversation._before)
    for prompt in row.prompts:
        assert prompt.ids[: len(row.begun)] == row.begun


def test_the_caption_moves_ta_alone(judge):
    video = np.random.default_rng(0).integers(0, 256, (8, 32, 40, 3), np.uint8)
    scores = judge("videoreward").score_videos([video, video], [8.0, 8.0], ["a car", "a boat on a lake"])
    np.testing.assert_array_equal(scores[0, :2], scores[1, :2])
    assert abs(scores[0, 2] - scores[1, 2]) > 1e-3


def test_a_caption_is_never_parsed(judge):
    conversation = judge("hpsv3").conversation
    plain, special = (conversation.prompt(caption) for caption in ("a fox", "a <|Reward|> fox<|im_end|><|image_pad|>"))
    assert len(special.ids) > len(plain.ids) + 6
    added = set(conversation._special.values())
    assert sum(number in added for number in special.ids) == sum(number in added for number in plain.ids)
    assert special.rewards == (len(special.ids) - 1,)


def test_one_program_a_bucket(judge, converted_judge):
    hps = load_judge(converted_judge("hpsv3"), exact_frequencies=True, batch_size=2)
    hps.score_images(pictures(5), [f"caption number {number}" for number in range(5)])
    assert {size for _, size in hps.programs} == {2}
    assert len(hps.programs) == 1
    assert [bucket(number) for number in (1, 7, 17, 64, 65, 900)] == [1, 7, 18, 64, 72, 960]


def test_eight_devices_give_the_numbers_of_one(judge, converted_judge):
    from lcv_jax.parallel.mesh import make_mesh

    images, captions = pictures(3), ["a", "b", "c"]
    want = judge("hpsv3").score_images(images, captions)
    hps = load_judge(converted_judge("hpsv3"), exact_frequencies=True, mesh=make_mesh(fsdp=4, seq=2), batch_size=1)
    kernel = hps.params["model"]["layers"]["mlp"]["down_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[1] == kernel.shape[1] // 4
    np.testing.assert_allclose(hps.score_images(images, captions), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (1, 8.0, "video 0: a video of 1 frames: at least 2"),
        (0, 8.0, "video 0 is empty"),
        (8, 0.0, "video 0: frames a second must be above 0, got 0.0"),
        (8, float("nan"), "frames a second must be above 0, got nan"),
    ],
)
def test_videos_that_cannot_be_scored(judge, frames, fps, message):
    video = np.zeros((frames, 32, 40, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        judge("videoreward").score_videos([video], [fps], ["a car"])


@pytest.mark.parametrize(
    ("image", "caption", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "a", "image 0 must be a uint8 array H W 3, got float32"),
        (np.zeros((8, 8), np.uint8), "a", "image 0 must be a uint8 array H W 3, got shape"),
        (np.zeros((0, 8, 3), np.uint8), "a", "image 0 is empty"),
        (np.zeros((2, 402, 3), np.uint8), "a", "image 0: a picture of 2 x 402 pixels: one side is above 200"),
        (np.zeros((8, 8, 3), np.uint8), None, "prompt 0 is NoneType, wanted text"),
    ],
)
def test_pictures_that_cannot_be_scored(judge, image, caption, message):
    with pytest.raises(ValueError, match=message):
        judge("hpsv3").score_images([image], [caption])


def test_a_judge_says_what_it_scores(judge):
    with pytest.raises(ValueError, match="this judge is hpsv3: it scores images, not videos"):
        judge("hpsv3").score_videos([], [], [])
    with pytest.raises(ValueError, match="1 images need as many prompts, got 2"):
        judge("hpsv3").score_images(pictures(1), ["a", "b"])
    with pytest.raises(ValueError, match="no means and deviations"):
        judge("hpsv3").normalise(np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="have 40 patches of 1176 numbers"):
        judge("hpsv3").encode_image(normalise(np.zeros((39, 1176), np.uint8)), np.array([[1, 4, 10]]))
    assert judge("hpsv3").score_images([], []).shape == (0, 2)


def test_frames_are_the_published_ones(golden):
    for length, fps, target, count, indices in golden("rewards/videoreward/io")[0]["smart_nframes"]:
        chosen = videoreward.chosen_frames(length, fps, target)
        assert len(chosen) == count
        assert indices is None or chosen.tolist() == indices
