"""Pictures and clips a second through the reward models' networks: `python -m benchmarks.judges [--torch]`.

Prints a table and asserts nothing but that both give the same numbers. The networks are of a middle size with random
weights; times are from pixels to numbers, tokens of text counted and their lookup not. `--torch` times transformers'
Qwen2-VL beside it with the published heads, positions and resizing, in the same process and with as many threads, where
PyTorch and transformers can be imported. A picture is scored under two captions, as the general and the percentile
reward do; a clip under one.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich
from rich.table import Table

from benchmarks.timing import seconds_of
from lcv_jax.checkpoint import convert
from lcv_jax.checkpoint.judge_names import captioner_table
from lcv_jax.checkpoint.new_judge import HEADS, judge_params, write_judge
from lcv_jax.checkpoint.new_qwen2_vl import write_new
from lcv_jax.checkpoint.qwen2_vl import COMPONENT
from lcv_jax.config import Qwen2VisionConfig, Qwen2VLConfig
from lcv_jax.data.patches import FACTOR, MEAN, MERGE, PATCH, STD
from lcv_jax.models.judges import HPSV3, REWARD_TOKENS, VIDEOREWARD, JudgeConfig
from lcv_jax.rewards import hpsv3, videoreward
from lcv_jax.rewards.judge import Judge, load_judge
from lcv_jax.toy.captions import vocabulary
from lcv_jax.toy.qwen2_vl import VISION_TOKENS, random_params, word_tokenizer

CAPTIONS = ("a red circle moves slowly to the right", "a red circle over a plain grey background")
FPS, SEEN_FRAMES = 8.0, 6


def main() -> None:
    """Times both kinds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4, help="pictures or clips of a call")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 416), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--frames", type=int, default=24, help=f"of a clip, {SEEN_FRAMES} of which are looked at")
    parser.add_argument("--rubric", type=int, default=256, help="words of the prompt beside the caption")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--torch", action="store_true", help="compare with transformers' Qwen2-VL")
    args = parser.parse_args()

    columns = ("lcv_jax", "PyTorch") if args.torch else ("lcv_jax",)
    table = Table(title=f"{args.size[0]} x {args.size[1]}, float32, {jax.devices()[0].device_kind}")
    for heading in ("", "visual tokens", *(f"{name}, a second" for name in columns)):
        table.add_column(heading, justify="right")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        for kind, length in ((HPSV3, 1), (VIDEOREWARD, args.frames)):
            folder = Path(scratch) / kind
            judge, captioner = make_judge(folder, kind, args)
            clips = [rng.integers(0, 256, (length, *args.size, 3), dtype=np.uint8) for _ in range(args.count)]
            runs: list[Callable[[], np.ndarray]] = [functools.partial(scores, judge, clips)]
            if args.torch:
                runs.append(torch_runner(judge, captioner, clips))
                ours, theirs = (run() for run in runs)
                difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
                assert difference < 1e-3, f"the two networks differ by {difference}"
            times = [fastest for _, fastest in seconds_of(*runs, repeats=args.repeats)]
            grid = grid_of(judge.cfg, clips[0])
            what = "pictures, 2 captions" if kind == HPSV3 else "clips"
            rates = (f"{args.count / taken:.3g}" for taken in times)
            table.add_row(what, str(int(np.prod(grid)) // MERGE**2), *rates)
    rich.print(table)


def make_judge(folder: Path, kind: str, args: argparse.Namespace) -> tuple[Judge, Path]:
    """A judge of a middle size with random weights, and the folder of its Qwen2-VL."""
    tokenizer = word_tokenizer(REWARD_TOKENS[kind])
    start, end, image, video = map(tokenizer.token_to_id, VISION_TOKENS)
    network = Qwen2VLConfig(
        vision_config=Qwen2VisionConfig(hidden_size=512, depth=8, embed_dim=320, num_heads=8),
        hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=tokenizer.get_vocab_size(), mrope_section=(8, 12, 12), image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    rubric = " ".join(np.random.default_rng(0).choice(vocabulary(), args.rubric))
    first, last = (REWARD_TOKENS[kind][:-1], REWARD_TOKENS[kind][-1:])
    cfg = JudgeConfig(
        kind=kind, network=network, num_embeddings=network.vocab_size, head_widths=HEADS.get(kind, (1,)),
        before_picture=VISION_TOKENS[0], before_caption=f"{VISION_TOKENS[1]}{rubric}{''.join(first)}",
        after_caption="".join(last), min_pixels=FACTOR**2, max_pixels=10**6, num_frames=SEEN_FRAMES,
    )  # fmt: skip
    table = captioner_table(network)
    params = random_params(table, np.random.default_rng(1), {})
    captioner = folder / COMPONENT
    write_new(captioner, COMPONENT, network.to_json(), table, params, tokenizer.to_str(), folder)
    write_judge(folder / "judge", cfg, tokenizer.to_str(), judge_params(cfg, params, 2), folder)
    return load_judge(folder / "judge", exact_frequencies=True, batch_size=args.count), captioner


def scores(judge: Judge, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Of clips under a caption, or of pictures under two."""
    if judge.cfg.kind == VIDEOREWARD:
        return judge.score_videos(clips, [FPS] * len(clips), CAPTIONS[:1] * len(clips))
    pictures = [clip[0] for clip in clips]
    return judge.score_images(pictures * 2, [caption for caption in CAPTIONS for _ in pictures])


def grid_of(cfg: JudgeConfig, clip: np.ndarray) -> tuple[int, int, int]:
    """Temporal patches, rows and columns of patches."""
    if cfg.kind == VIDEOREWARD:
        return videoreward.video_grid(clip.shape, FPS, cfg)
    return hpsv3.picture_grid(clip.shape[1:], cfg)


def torch_runner(judge: Judge, captioner: Path, clips: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
    """The same scores by transformers' Qwen2-VL and a head of the same weights."""
    import torch
    from transformers import Qwen2VLConfig as PublishedConfig
    from transformers import Qwen2VLForConditionalGeneration

    from lcv_jax.convert import main as convert_main

    published = captioner.with_name("published")
    convert_main([str(captioner), str(published), "--to-torch"])
    model: Any = Qwen2VLForConditionalGeneration.from_pretrained(
        published, config=PublishedConfig.from_pretrained(published), dtype=torch.float32
    )
    tower = model.model.eval()
    cfg, is_video = judge.cfg, judge.cfg.kind == VIDEOREWARD
    captions = CAPTIONS[: 1 if is_video else 2]
    grid = grid_of(cfg, clips[0])
    visual = int(np.prod(grid)) // MERGE**2
    prompts = [judge.conversation.prompt(caption) for caption in captions]
    longest = max(len(prompt.ids) for prompt in prompts)
    opening = [*judge.conversation.opening, *[judge.conversation.visual_token] * visual]
    rows = [(clip, prompt) for prompt in prompts for clip in clips]
    ids_BL = torch.tensor([[*opening, *prompt.ids, *[0] * (longest - len(prompt.ids))] for _, prompt in rows])
    places_BR = torch.tensor([[len(opening) + place for place in prompt.rewards] for _, prompt in rows])
    positions = torch.arange(ids_BL.shape[1]).expand(3, *ids_BL.shape)
    head = _torch_head(judge)

    @torch.inference_mode()
    def run() -> np.ndarray:
        patches = torch.cat([_torch_patches(clip, cfg, grid) for clip, _ in rows])
        grids = torch.tensor([grid] * len(rows))
        given = (
            {"pixel_values_videos": patches, "video_grid_thw": grids}
            if is_video
            else {"pixel_values": patches, "image_grid_thw": grids}
        )
        hidden_BLD = tower(
            input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), position_ids=positions, use_cache=False, **given
        ).last_hidden_state
        read_BRD = torch.take_along_dim(hidden_BLD, places_BR[:, :, None], dim=1)
        return head(read_BRD[:, 0] if not is_video else read_BRD).squeeze(-1).numpy()

    return run


def _torch_head(judge: Judge) -> Any:
    import torch

    layers: list[Any] = []
    flat = {"/".join(path): np.asarray(leaf) for path, leaf in convert.flatten(judge.params)}
    for name in sorted({path.split("/")[0] for path in flat if path.startswith("rm_head")}):
        weight = torch.tensor(flat[f"{name}/kernel"].T.copy())
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}/bias" in flat)
        layer.weight.data = weight
        if layer.bias is not None:
            layer.bias.data = torch.tensor(flat[f"{name}/bias"].copy())
        layers += [torch.nn.ReLU()] * bool(layers) + [layer]
    return torch.nn.Sequential(*layers)


def _torch_patches(clip: np.ndarray, cfg: JudgeConfig, grid: tuple[int, int, int]) -> Any:
    """As the published processors do it: resized by torch, normalised, in the tower's order."""
    import torch

    T, rows, columns = grid
    if cfg.kind == VIDEOREWARD:
        clip = clip[videoreward.chosen_frames(len(clip), FPS, cfg.fps, cfg.num_frames)]
        frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
        sides = (rows * PATCH, columns * PATCH)
        frames = torch.nn.functional.interpolate(frames, sides, mode="bicubic", antialias=True).clamp(0, 255).round()
    else:
        from PIL import Image

        image = Image.fromarray(clip[0]).resize((columns * PATCH, rows * PATCH), Image.Resampling.BICUBIC)
        frames = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].expand(2, -1, -1, -1)
    mean, std = (torch.tensor(np.asarray(x, np.float32))[:, None, None] for x in (MEAN, STD))
    pixels = (frames.float() / 255 - mean) / std
    split = pixels.reshape(T, 2, 3, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH)
    return split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(T * rows * columns, -1)


if __name__ == "__main__":
    main()
