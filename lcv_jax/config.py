"""Frozen configurations of the three networks and of the scheduler, read from the published config.json files.

Field names are the published ones. `from_json` accepts exactly the published fields: those that mean something here
become fields, those that choose a PyTorch backend or serve generation of text are known and dropped, and any other is
an error that names it, so that a checkpoint of a newer architecture is refused instead of run wrongly. One field is not
published: the scheduler's `t_thresh`.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from lcv_jax.bounds import Bounds, Finite, NoiseLevel, Positive, Share, Shift, Whole, check_fields
from lcv_jax.user_files import read_json, reading

Size = Annotated[int, Bounds(least=1, most=2**20)]
"""Width, depth or number of something in a network."""
Shape3D = tuple[Size, Size, Size]
# Not typing.Self: beartype refuses it in the methods of a class that it does not decorate as a whole.
ConfigT = TypeVar("ConfigT", bound="PublishedConfig")


def _freeze(value: Any) -> Any:
    """JSON lists as tuples, so that a config can be hashed: it is a static argument of jit."""
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedConfig:
    """What the configs share: reading and writing the published JSON."""

    dropped: ClassVar[frozenset[str]] = frozenset()
    """Published fields that are accepted and mean nothing here."""
    pinned: ClassVar[Mapping[str, Any]] = {}
    """Published fields of which one value only is implemented."""

    @classmethod
    def from_json(cls: type[ConfigT], published: Mapping[str, Any]) -> ConfigT:
        """The config of a published config.json.

        Raises:
            ValueError: a field that nobody knows, a missing one, or a value that is not implemented; all are named.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        problems, values = [], {}
        for name, value in published.items():
            if name.startswith("_") or name in cls.dropped:
                continue
            if name in cls.pinned:
                if _freeze(value) != cls.pinned[name]:
                    problems.append(f"{name} = {value!r} is not implemented, only {cls.pinned[name]!r}")
            elif name in fields:
                values[name] = _freeze(value)
            else:
                near = difflib.get_close_matches(name, [*fields, *cls.pinned, *cls.dropped], n=1)
                problems.append(f"unknown field {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
        problems += [f"missing field {name!r}" for name in required if name not in values]
        if problems:
            raise ValueError(f"{cls.__name__}: " + "; ".join(problems))
        return cls(**values)

    @classmethod
    def read(cls: type[ConfigT], path: Path) -> ConfigT:
        """The config of a published config.json.

        Raises:
            ValueError: as `from_json`; the file is named.
            OSError: there is no such file.
        """
        with reading(path):
            return cls.from_json(read_json(path))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them; `from_json` of it gives an equal config."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSparseConfig(PublishedConfig):
    """Block-sparse attention: report section 3.4, published as `bsa_params`.

    With both `sparsity` and `cdf_threshold`, the larger of the two counts of key blocks is taken.
    """

    sparsity: Share | None = 0.9375
    """Share of key blocks that a query block does not attend to."""
    cdf_threshold: Share | None = None
    """Keep the best key blocks while their summed softmax score stays at or below this."""
    chunk_3d_shape_q: Shape3D = (4, 4, 4)
    """Tokens of a query block, T x H x W."""
    chunk_3d_shape_k: Shape3D = (4, 4, 4)
    """Tokens of a key block, T x H x W."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.sparsity is None and self.cdf_threshold is None:
            raise ValueError("bsa_params: give sparsity, cdf_threshold or both; got neither")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig(PublishedConfig):
    """The video diffusion transformer (report, table 1). Defaults are the released 13.6B model's."""

    # How PyTorch computes attention, and over how many of its ranks.
    dropped = frozenset({"enable_flashattn2", "enable_flashattn3", "enable_xformers", "cp_split_hw"})

    in_channels: Size = 16
    out_channels: Size = 16
    hidden_size: Size = 4096
    depth: Size = 48
    num_heads: Size = 32
    caption_channels: Size = 4096
    mlp_ratio: Size = 4
    adaln_tembed_dim: Size = 512
    frequency_embedding_size: Size = 256
    patch_size: Shape3D = (1, 2, 2)
    text_tokens_zero_pad: bool = True
    enable_bsa: bool = False
    bsa_params: BlockSparseConfig | None = None

    @classmethod
    def from_json(cls, published: Mapping[str, Any]) -> "DiTConfig":
        sparse = published.get("bsa_params")
        read = sparse if sparse is None else BlockSparseConfig.from_json(sparse)
        return super().from_json({**published, "bsa_params": read})

    def __post_init__(self) -> None:
        check_fields(self)
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.head_dim % 2:
            raise ValueError(f"the head width hidden_size / num_heads must be even for RoPE, got {self.head_dim}")
        if self.frequency_embedding_size % 2:
            raise ValueError(f"frequency_embedding_size must be even, got {self.frequency_embedding_size}")
        if self.patch_size[0] != 1:
            raise ValueError(f"patch_size {self.patch_size}: patches over time are not implemented, only (1, h, w)")
        if self.enable_bsa and self.bsa_params is None:
            raise ValueError("enable_bsa needs bsa_params")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def ffn_dim(self) -> int:
        """SwiGLU keeps the parameters of a plain feed-forward: 2/3 of its width, up to the next multiple of 256."""
        return -(-int(2 * self.mlp_ratio * self.hidden_size / 3) // 256) * 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig(PublishedConfig):
    """The Wan2.1 video autoencoder. Defaults are the released one's; latent statistics come with each checkpoint."""

    dropped = frozenset({"dropout", "scale_factor_spatial", "scale_factor_temporal", "clip_output"})
    # Wan2.2's autoencoder sets these.
    pinned = {"is_residual": False, "patch_size": None, "decoder_base_dim": None, "attn_scales": ()}

    latents_mean: tuple[Finite, ...]
    latents_std: tuple[Positive, ...]
    base_dim: Size = 96
    z_dim: Size = 16
    dim_mult: tuple[Size, ...] = (1, 2, 4, 4)
    num_res_blocks: Size = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    in_channels: Size = 3
    out_channels: Size = 3

    def __post_init__(self) -> None:
        check_fields(self)
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            got = f"{len(self.latents_mean)} means and {len(self.latents_std)} stds"
            raise ValueError(f"latents_mean and latents_std need z_dim = {self.z_dim} values each, got {got}")
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"temperal_downsample needs one entry between any two of the {len(self.dim_mult)} levels of dim_mult, "
                f"got {len(self.temperal_downsample)}"
            )

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent in height and width."""
        return 2 ** len(self.temperal_downsample)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame after the first."""
        return 2 ** sum(self.temperal_downsample)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UMT5Config(PublishedConfig):
    """The umT5 text encoder. Defaults are umT5-XXL's."""

    # What concerns dropout, initialisation, the absent decoder and the tokenizer.
    dropped = frozenset({
        "architectures", "classifier_dropout", "decoder_start_token_id", "dropout_rate", "dtype", "torch_dtype",
        "eos_token_id", "pad_token_id", "bos_token_id", "initializer_factor", "is_encoder_decoder", "model_type",
        "num_decoder_layers", "output_past", "scalable_attention", "tokenizer_class", "transformers_version",
        "use_cache", "is_decoder", "tie_word_embeddings",
    })  # fmt: skip
    pinned = {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True}

    vocab_size: Annotated[int, Bounds(least=1, most=2**24)] = 256384
    d_model: Size = 4096
    d_kv: Size = 64
    d_ff: Size = 10240
    num_layers: Size = 24
    num_heads: Size = 64
    relative_attention_num_buckets: Annotated[int, Bounds(least=4, most=2**20)] = 32
    relative_attention_max_distance: Size = 128
    layer_norm_epsilon: Annotated[float, Bounds(above=0, below=1)] = 1e-6

    def __post_init__(self) -> None:
        check_fields(self)
        if self.relative_attention_num_buckets % 2:
            raise ValueError(f"relative_attention_num_buckets must be even, got {self.relative_attention_num_buckets}")
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 4:
            raise ValueError(
                "relative_attention_max_distance must exceed a quarter of relative_attention_num_buckets = "
                f"{self.relative_attention_num_buckets}, got {self.relative_attention_max_distance}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerConfig(PublishedConfig):
    """The flow-matching Euler scheduler: only its time shift, and where refinement starts, vary."""

    dropped = frozenset({"base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift", "time_shift_type"})
    pinned = {
        "invert_sigmas": False, "shift_terminal": None, "stochastic_sampling": False, "use_beta_sigmas": False,
        "use_dynamic_shifting": False, "use_exponential_sigmas": False, "use_karras_sigmas": False,
        "num_train_timesteps": 1000,
    }  # fmt: skip

    shift: Shift = 12.0
    t_thresh: NoiseLevel = 0.5
    """Noise level that the refinement adapter was trained to start from. Not in published configs: theirs is 0.5."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2VisionConfig(PublishedConfig):
    """Qwen2-VL's vision tower. Defaults are those of the 2B and 7B models but for the width of the text model."""

    dropped = frozenset(
        {"model_type", "in_channels", "spatial_patch_size", "initializer_range", "torch_dtype", "dtype"}
    )
    pinned = {"in_chans": 3, "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_act": "quick_gelu"}

    hidden_size: Size
    """Width of the text model, that pictures are merged to."""
    depth: Size = 32
    embed_dim: Size = 1280
    num_heads: Size = 16
    mlp_ratio: Size = 4
    patch_size: Size = 14

    def __post_init__(self) -> None:
        check_fields(self)
        if self.embed_dim % self.num_heads or self.head_dim % 4:
            raise ValueError(
                f"vision_config: embed_dim / num_heads must be a multiple of 4, got {self.embed_dim} / {self.num_heads}"
            )

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def patch_features(self) -> int:
        """Numbers of a patch: channels x frames x rows x columns."""
        return 3 * 2 * self.patch_size**2

    def to_json(self) -> dict[str, Any]:
        """As published, the fields that are pinned too."""
        return {**self.pinned, **super().to_json()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2VLConfig(PublishedConfig):
    """Qwen2-VL (arXiv 2409.12191): captioner, and network of released reward models. Defaults are the 2B model's."""

    # Concerns dropout, initialisation, generation of text and PyTorch.
    dropped = frozenset({
        "architectures", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype",
        "initializer_range", "max_position_embeddings", "max_window_layers", "sliding_window", "transformers_version",
        "use_cache", "vision_token_id", "attn_implementation", "quantization_config",
    })  # fmt: skip
    pinned = {"model_type": "qwen2_vl", "hidden_act": "silu", "use_sliding_window": False}

    vision_config: Qwen2VisionConfig
    hidden_size: Size = 1536
    intermediate_size: Size = 8960
    num_hidden_layers: Size = 28
    num_attention_heads: Size = 12
    num_key_value_heads: Size = 2
    vocab_size: Size = 151936
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive = 1e6
    mrope_section: Shape3D = (16, 24, 24)
    """Rotary frequencies that take a token's time, row and column, where positions are a grid."""
    image_token_id: Whole = 151655
    video_token_id: Whole = 151656
    vision_start_token_id: Whole = 151652
    vision_end_token_id: Whole = 151653
    tie_word_embeddings: bool = False
    """Whether the embedding table is also the head of the language model; reward models have no such head."""

    def to_json(self) -> dict[str, Any]:
        """As published, the fields that are pinned too."""
        fields = {**self.pinned, **super().to_json(), "vision_config": self.vision_config.to_json()}
        fields["rope_scaling"] = {"type": "mrope", "mrope_section": fields.pop("mrope_section")}
        return fields

    @classmethod
    def from_json(cls, published: Mapping[str, Any]) -> "Qwen2VLConfig":
        fields = dict(published)
        scaling = fields.pop("rope_scaling", None)
        if scaling is not None:
            if scaling.get("type", scaling.get("rope_type")) not in ("mrope", "default"):
                raise ValueError(f"Qwen2VLConfig: rope_scaling {scaling!r} is not implemented, only the type mrope")
            fields["mrope_section"] = scaling["mrope_section"]
        if not isinstance(fields.get("vision_config"), Mapping):
            raise ValueError(f"Qwen2VLConfig: vision_config must be a mapping, got {fields.get('vision_config')!r}")
        fields["vision_config"] = Qwen2VisionConfig.from_json(fields["vision_config"])
        return super().from_json(fields)

    def __post_init__(self) -> None:
        check_fields(self)
        heads, shared = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads or heads % shared:
            raise ValueError(
                f"hidden_size {self.hidden_size} must divide by num_attention_heads {heads}, and that by "
                f"num_key_value_heads {shared}"
            )
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ValueError(
                f"mrope_section {self.mrope_section} must sum to half of the head width {self.head_dim}, "
                f"got {sum(self.mrope_section)}"
            )
        if self.vision_config.hidden_size != self.hidden_size:
            raise ValueError(
                f"vision_config.hidden_size {self.vision_config.hidden_size} must be hidden_size {self.hidden_size}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads
