"""A judge that is to be trained: from parameters in memory, or from a converted Qwen2-VL with a new head."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lcv_jax.array_types import Params
from lcv_jax.checkpoint import convert, qwen2_vl, store
from lcv_jax.checkpoint.judge_conversion import COMPONENT
from lcv_jax.checkpoint.judge_names import judge_table
from lcv_jax.checkpoint.judge_source import HPSV3_PIXELS, VIDEO_MIN_PIXELS
from lcv_jax.checkpoint.judge_templates import read_templates
from lcv_jax.checkpoint.judge_tokenizer import open_tokenizer
from lcv_jax.checkpoint.new_qwen2_vl import write_new
from lcv_jax.config import Qwen2VLConfig
from lcv_jax.models.judges import HPSV3, JudgeConfig

HEADS = {HPSV3: (1024, 16, 2)}
"""Outputs of the layers of a new head; VideoReward's is one layer of one output."""


def begin_judge(source: Path, dest: Path, kind: str, templates: Path, *, dtype: Any = None, seed: int = 0) -> None:
    """Writes a judge with the weights of Qwen2-VL and a random head.

    The table of embeddings is cut to the tokens of the tokenizer with the reward tokens, as published; where it has
    fewer rows, the new ones are the mean of all.

    Args:
        source: a converted Qwen2-VL.
        dest: must not exist, or be empty.
        kind: hpsv3 or videoreward.
        templates: see judge_templates.py.
        dtype: of the weights; None keeps each as it is. The head is float32.
        seed: of the head.

    Raises:
        ValueError: something is damaged, or does not fit together.
    """
    network: Qwen2VLConfig = store.load_config(source, qwen2_vl.COMPONENT)
    tokenizer, num_tokens = open_tokenizer([store.tokenizer_folder(source)], kind, network)
    before_picture, before_caption, after_caption = read_templates(templates, kind)
    cfg = JudgeConfig(
        kind=kind,
        network=network,
        num_embeddings=num_tokens,
        head_widths=HEADS.get(kind, (1,)),
        before_picture=before_picture,
        before_caption=before_caption,
        after_caption=after_caption,
        min_pixels=HPSV3_PIXELS if kind == HPSV3 else VIDEO_MIN_PIXELS,
        max_pixels=HPSV3_PIXELS,
    )
    host = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    params = store.load_component(source, qwen2_vl.COMPONENT, dtype, host)[1]
    write_judge(dest, cfg, tokenizer, judge_params(cfg, params, seed), source)


def judge_params(cfg: JudgeConfig, network: Params, seed: int) -> Params:
    """Parameters of a judge: those of Qwen2-VL, its table cut or extended to the judge's tokens, and a random head.

    Args:
        cfg: of the judge.
        network: Qwen2-VL's parameters.
        seed: of the head.
    """
    table_VD = np.asarray(network["model"]["embed_tokens"]["weight"])
    mean_1D = table_VD.astype(np.float32).mean(0, keepdims=True).astype(table_VD.dtype)
    more_VD = np.repeat(mean_1D, max(0, cfg.num_embeddings - len(table_VD)), axis=0)
    known = dict(convert.flatten(network))
    known["model", "embed_tokens", "weight"] = np.concatenate([table_VD, more_VD])[: cfg.num_embeddings]
    rng, judge = np.random.default_rng(seed), dict[str, Any]()
    for leaf in judge_table(cfg):
        if leaf.path in known:
            convert.place(judge, leaf.path, known[leaf.path])
        elif leaf.path[-1] == "kernel":
            bound = 1 / math.sqrt(math.prod(leaf.turned[:-1]))
            convert.place(judge, leaf.path, rng.uniform(-bound, bound, leaf.shape).astype(np.float32))
        else:
            convert.place(judge, leaf.path, np.zeros(leaf.shape, np.float32))
    return judge


def write_judge(dest: Path, cfg: JudgeConfig, tokenizer: str, params: Params, source: Path) -> None:
    """Writes a folder that `load_judge` reads.

    Args:
        dest: must not exist, or be empty.
        cfg: of the judge.
        tokenizer: the JSON of its tokenizer, with the reward tokens.
        params: stored as they are.
        source: where they come from, for the folder's provenance.

    Raises:
        ValueError: the destination exists, or the parameters do not fit the config.
        OSError: the disk is full.
    """
    facts = {"kind": cfg.kind, "merged": False}
    write_new(dest, COMPONENT, cfg.to_json(), judge_table(cfg), params, tokenizer, source, **facts)
