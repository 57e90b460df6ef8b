"""The name table of a reward model on Qwen2-VL, and the published names that all its files are brought to.

Released files, trainers' files and newer versions of transformers prefix and nest the same names differently;
`plain_name` gives those of Qwen2-VL's own checkpoints. See names.py for tables.
"""

import re

from lcv_jax.checkpoint.names import Leaf, Shape, Table, _leaf, _once, _path, _Stack
from lcv_jax.config import Qwen2VLConfig
from lcv_jax.models.judges import HPSV3, JudgeConfig

HEAD_LAYERS = {HPSV3: (0, 3, 5)}
"""Where the linear layers of a head stand in its published list; others have one without a number."""
EMBEDDING, UNUSED = "model.embed_tokens.weight", "lm_head.weight"
CAPTIONER_ALIASES = {"lm_head.weight": EMBEDDING}
"""The head of a captioner whose embedding table is its head, where it is stored once more."""


def plain_name(name: str) -> str:
    """A tensor's name without what LoRA and newer transformers put around it."""
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return re.sub(r"^model\.(visual\.|(?:language_model\.))", lambda match: _NESTED[match[1]], name)


_NESTED = {"visual.": "visual.", "language_model.": "model."}


def qwen2_vl_table(cfg: Qwen2VLConfig, num_embeddings: int) -> Table:
    """Both towers, without the language model's head."""
    vision, D, F, K = cfg.vision_config, cfg.hidden_size, cfg.intermediate_size, cfg.head_dim
    shared = cfg.num_key_value_heads * K
    W = vision.embed_dim
    blocks, layers = _Stack((vision.depth,)), _Stack((cfg.num_hidden_layers,))
    block, layer = "visual.blocks.{}", "model.layers.{}"
    return [
        _patch_embedding(W, 3, 2, vision.patch_size, vision.patch_size),
        *blocks.norm(f"{block}.norm1", W, bias=True),
        *blocks.kernel(f"{block}.attn.qkv", 3 * W, W),
        *blocks.kernel(f"{block}.attn.proj", W, W),
        *blocks.norm(f"{block}.norm2", W, bias=True),
        *blocks.kernel(f"{block}.mlp.fc1", vision.mlp_ratio * W, W),
        *blocks.kernel(f"{block}.mlp.fc2", W, vision.mlp_ratio * W),
        *_once.norm("visual.merger.ln_q", W, bias=True),
        *_once.kernel("visual.merger.mlp.0", 4 * W, 4 * W),
        *_once.kernel("visual.merger.mlp.2", D, 4 * W),
        *_once.as_is("model.embed_tokens", "weight", num_embeddings, D),
        *layers.norm(f"{layer}.input_layernorm", D),
        *layers.kernel(f"{layer}.self_attn.q_proj", D, D),
        *layers.kernel(f"{layer}.self_attn.k_proj", shared, D),
        *layers.kernel(f"{layer}.self_attn.v_proj", shared, D),
        *layers.kernel(f"{layer}.self_attn.o_proj", D, D, bias=False),
        *layers.norm(f"{layer}.post_attention_layernorm", D),
        *layers.kernel(f"{layer}.mlp.gate_proj", F, D, bias=False),
        *layers.kernel(f"{layer}.mlp.up_proj", F, D, bias=False),
        *layers.kernel(f"{layer}.mlp.down_proj", D, F, bias=False),
        *_once.norm("model.norm", D),
    ]


def captioner_table(cfg: Qwen2VLConfig) -> Table:
    """Qwen2-VL as published: both towers, and the head of the language model if it is a table of its own."""
    head = [] if cfg.tie_word_embeddings else _once.kernel("lm_head", cfg.vocab_size, cfg.hidden_size, bias=False)
    return [*qwen2_vl_table(cfg, cfg.vocab_size), *head]


def judge_table(cfg: JudgeConfig) -> Table:
    """Qwen2-VL and the head."""
    return [*qwen2_vl_table(cfg.network, cfg.num_embeddings), *_head(cfg)]


def head_names(kind: str) -> list[str]:
    """The weights of the head's layers, in order."""
    layers = HEAD_LAYERS.get(kind)
    return ["rm_head.weight"] if layers is None else [f"rm_head.{layer}.weight" for layer in layers]


def _head(cfg: JudgeConfig) -> list[Leaf]:
    bias = cfg.kind in HEAD_LAYERS
    widths = (cfg.network.hidden_size, *cfg.head_widths)
    return [
        leaf
        for name, came, width in zip(head_names(cfg.kind), widths[:-1], widths[1:], strict=True)
        for leaf in _once.kernel(name.removesuffix(".weight"), width, came, bias=bias)
    ]


def _patch_embedding(width: int, *patch: int) -> Leaf:
    """A kernel whose rows are a patch's numbers in the order of data/patches.py, which is the published kernel's."""
    name = "visual.patch_embed.proj"
    shape: Shape = (width, *patch)
    numbers = 1
    for size in patch:
        numbers *= size
    return _leaf(_path(name, "kernel"), f"{name}.weight", shape, split=(width, numbers), axes=(1, 0))
