"""Recipes: which clips of a library make a training set. Every threshold is a field; None: the rule does not apply."""

import dataclasses
from typing import Annotated

from lcv_jax.bounds import Bounds, FrameCount, NonNegative, Pixels, Share, check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Rules, applied in this order; a clip that has no value for a rule's column is dropped by it."""

    least_side: Pixels | None = None
    """Pixels of the shorter side."""
    least_frames: FrameCount | None = None
    """Frames at the clip's own rate."""
    least_seconds: NonNegative | None = None
    """Length."""
    most_text: Share | None = None
    """Share of the frame that text covers, on average."""
    most_logo: Share | None = None
    """How sure it is that the source bears a logo or watermark."""
    least_sharpness: NonNegative | None = None
    """Variance of the Laplacian; blurred clips have little."""
    least_aesthetic: Annotated[float, Bounds(least=-100, most=100)] | None = None
    """Of the learned score, where there are weights for it."""
    least_aesthetic_heuristic: Share | None = None
    """Of the score without weights."""
    most_flicker: NonNegative | None = None
    """Change of brightness that the next frame takes back, % of the brightness."""
    most_frozen: Share | None = None
    """Share of frames that repeat the one before for a quarter of a second or longer."""
    least_motion: NonNegative | None = None
    """Mean optical flow, % of the shorter side a second."""
    most_motion: NonNegative | None = None
    """The same; above, shots are shaken or torn."""
    least_glcm_contrast: NonNegative | None = None
    """Contrast of grey-level co-occurrence: rich texture is high (report, section 4.3)."""
    cameras: tuple[str, ...] = ()
    """Camera movements to keep, such as pan_left zoom_in. None given: all."""
    styles: tuple[str, ...] = ()
    """Visual styles to keep. None given: all."""
    weight_column: str = ""
    """A column of the library that becomes the column `weight`. Empty: every clip weighs 1."""
    default_caption: str = ""
    """Of clips without captions. Empty: they are dropped, and a library in which no clip has captions is an error."""

    def __post_init__(self) -> None:
        check_fields(self)


RULES: dict[str, tuple[str, str]] = {
    "least_side": ("least(clip_height, clip_width)", ">="),
    "least_frames": ("clip_frames", ">="),
    "least_seconds": ("clip_seconds", ">="),
    "most_text": ("text_coverage", "<="),
    "most_logo": ("logo", "<="),
    "least_sharpness": ("sharpness", ">="),
    "least_aesthetic": ("aesthetic", ">="),
    "least_aesthetic_heuristic": ("aesthetic_heuristic", ">="),
    "most_flicker": ("flicker", "<="),
    "most_frozen": ("frozen_share", "<="),
    "least_motion": ("motion", ">="),
    "most_motion": ("motion", "<="),
    "least_glcm_contrast": ("glcm_contrast", ">="),
    "cameras": ("camera", "IN"),
    "styles": ("style", "IN"),
}
"""Fields with the column, or the expression of columns, that they limit."""
