"""Recipes: which clips of a library make a training set, and how often each is drawn. Every threshold is a field.

A recipe is a Python file whose `get_recipe()` returns a `Recipe`; configs/curation/ has those of the report's stages.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from lcv_jax.bounds import (
    Bounds,
    Count,
    Fps,
    FrameCount,
    NonNegative,
    Pixels,
    Positive,
    Seed,
    Share,
    check_fields,
)
from lcv_jax.user_files import call_in_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Rules, applied in this order; a clip that has no value for a rule's column is dropped by it. None: no rule."""

    least_side: Pixels | None = None
    """Pixels of the shorter side."""
    least_fps: Fps | None = None
    """Frames a second of the clip's file."""
    least_frames: FrameCount | None = None
    """Frames at the clip's own rate."""
    least_seconds: NonNegative | None = None
    """Length."""
    most_text: Share | None = None
    """Share of the frame that text covers, on average."""
    most_staying_text: Share | None = None
    """Whether text stays in one place over the source's clips, 0 or 1: a limit of 0 drops watermarks in writing."""
    most_logo: Share | None = None
    """How sure it is that the source bears a logo or watermark; of a source with too few clips it is not known, and
    these pass."""
    least_sharpness: NonNegative | None = None
    """Variance of the Laplacian; blurred clips have little, and so have plain pictures."""
    most_edge_width: NonNegative | None = None
    """Width of the steepest edges, % of the shorter side: blur, whatever the contrast; blurred clips exceed 0.4."""
    least_aesthetic: Annotated[float, Bounds(least=-100, most=100)] | None = None
    """Of the learned score, where there are weights for it."""
    least_aesthetic_heuristic: Share | None = None
    """Of the score without weights."""
    most_clipped_dark: Share | None = None
    """Share of pixels that are black."""
    most_clipped_bright: Share | None = None
    """Share of pixels that are white."""
    most_flicker: NonNegative | None = None
    """Change of brightness that the next frame takes back, % of the brightness; flickering clips exceed 2."""
    most_frozen: Share | None = None
    """Share of frames that repeat the one before for a quarter of a second or longer; still shots exceed 0.65."""
    least_motion: NonNegative | None = None
    """Mean optical flow, % of the shorter side a second."""
    most_motion: NonNegative | None = None
    """The same; above, shots are shaken or torn."""
    least_glcm_contrast: NonNegative | None = None
    """Contrast of grey-level co-occurrence: rich texture is high (report, section 4.3)."""
    least_glcm_entropy: NonNegative | None = None
    """Entropy of the same: rich texture is high even where contrasts are low."""
    cameras: tuple[str, ...] = ()
    """Camera movements to keep, such as pan_left zoom_in. None given: all."""
    styles: tuple[str, ...] = ()
    """Visual styles to keep. None given: all."""

    weight_column: str = ""
    """A column of the library by which clips are drawn, such as `weight` of the stage distribution, the inverse of the
    captions' density. Empty: every clip as often."""
    camera_share: Share = 0.0
    """Share of the samples that come from the subset of clips with a moving camera, every movement as often."""
    least_camera_confidence: Share = 0.8
    """Of the clips in that subset."""
    style_share: Share = 0.0
    """Share of the samples that come from the subset of clips whose style is known, every style as often."""
    most_weight: Positive = 20.0
    """Times the mean weight: heavier clips are cut to it, so that none is seen over and over."""
    most_clips: Count | None = None
    """Draw this many of the clips that the rules keep, without replacement, in proportion to their weights; each then
    weighs the same. None: all."""
    seed: Seed = 0
    """Of what is drawn."""
    captions: Literal["all", "one"] = "all"
    """All captions of a clip, of which training draws one for each sample; or one, drawn here."""
    default_caption: str = ""
    """Of clips without captions. Empty: they are dropped, and a library in which no clip has captions is an error."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.camera_share + self.style_share > 1:
            raise ValueError(
                f"camera_share and style_share must add up to at most 1, got {self.camera_share} and {self.style_share}"
            )


RULES: dict[str, tuple[str, str]] = {
    "least_side": ("least(clip_height, clip_width)", ">="),
    "least_fps": ("clip_fps", ">="),
    "least_frames": ("clip_frames", ">="),
    "least_seconds": ("clip_seconds", ">="),
    "most_text": ("text_coverage", "<="),
    "most_staying_text": ("staying_text", "<="),
    "most_logo": ("coalesce(logo, 0)", "<="),
    "least_sharpness": ("sharpness", ">="),
    "most_edge_width": ("edge_width", "<="),
    "least_aesthetic": ("aesthetic", ">="),
    "least_aesthetic_heuristic": ("aesthetic_heuristic", ">="),
    "most_clipped_dark": ("clipped_dark", "<="),
    "most_clipped_bright": ("clipped_bright", "<="),
    "most_flicker": ("flicker", "<="),
    "most_frozen": ("frozen_share", "<="),
    "least_motion": ("motion", ">="),
    "most_motion": ("motion", "<="),
    "least_glcm_contrast": ("glcm_contrast", ">="),
    "least_glcm_entropy": ("glcm_entropy", ">="),
    "cameras": ("camera", "IN"),
    "styles": ("style", "IN"),
}
"""Fields with the column, or the expression of columns, that they limit."""


def read_recipe(path: Path) -> Recipe:
    """What a recipe file's `get_recipe()` returns.

    Raises:
        ValueError: there is no such file, it has no such function, or it raises an exception; the line is named.
    """
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"{path}: no such recipe; expected a Python file with get_recipe(), as in configs/curation/")
    recipe = call_in_file(path, "get_recipe")
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{path} must define get_recipe() that returns a lcv_jax.curation.recipe.Recipe")
    return recipe
