"""Aspect-ratio buckets: the sizes that the model was trained on.

The tables are the published ones. They follow no rule that is shorter than they are: widths mostly bring the area near
627 x 627 (480p) or 960 x 960 (720p), but some heights are left out, and tall sizes are not wide ones turned round.
"""

import functools

_SIZES = {
    ("480p", 32): """
        320x1216 352x1120 384x1024 416x960 448x864 480x832 512x768 544x736 576x672 608x640 640x608
        672x576 704x544 736x544 768x512 800x480 832x480 896x448 960x416 992x384 1056x384 1088x352
        1184x320 1216x320 1248x320 1280x320
    """,
    ("480p", 64): """
        320x1216 384x1024 448x896 512x768 576x704 640x640 704x576 768x512 832x448 896x448 960x384
        1088x384 1152x320 1216x320 1280x320
    """,
    ("480p", 128): """
        256x1024 384x1024 384x896 512x896 512x768 640x640 768x512 896x512 896x384 1024x384 1024x256
    """,
    ("480p", 256): """
        256x1024 256x768 256x512 512x768 512x512 768x512 512x256 768x256 1024x256
    """,
    ("720p", 32): """
        480x1920 512x1792 544x1696 576x1600 608x1504 672x1376 704x1312 736x1248 800x1152 832x1120
        864x1056 896x1024 928x992 960x960 992x928 1024x896 1056x864 1088x832 1120x832 1152x800 1248x736
        1344x672 1376x672 1504x608 1536x608 1632x576 1664x544 1696x544 1856x512 1888x480 1920x480
    """,
    ("720p", 64): """
        448x2048 512x1792 576x1600 640x1408 704x1280 768x1216 832x1088 896x1024 960x960 1024x896
        1088x832 1152x768 1216x768 1280x704 1344x704 1408x640 1472x640 1536x576 1664x576 1856x512
        1920x512
    """,
    ("720p", 128): """
        384x1920 512x1920 512x1536 640x1536 640x1280 768x1280 768x1152 896x1152 1024x1024 1152x896
        1152x768 1280x768 1280x640 1536x640 1536x512 1920x512 1920x384
    """,
    ("720p", 256): """
        512x1536 768x1280 1024x1024 1280x768 1536x512
    """,
}
RESOLUTIONS = tuple(dict.fromkeys(resolution for resolution, _ in _SIZES))
GRANULARITIES = tuple(dict.fromkeys(granularity for _, granularity in _SIZES))


@functools.cache
def buckets(resolution: str = "480p", granularity: int = 32) -> tuple[tuple[int, int], ...]:
    """The sizes (height, width) of one table, widest first.

    Args:
        resolution: "480p" or "720p".
        granularity: height and width are multiples of this many pixels: 32, 64, 128 or 256; 16 means 32, as published.

    Raises:
        ValueError: there is no such table.
    """
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution must be one of {', '.join(RESOLUTIONS)}, got {resolution!r}")
    granularity = 32 if granularity == 16 else granularity
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity must be one of 16, {', '.join(map(str, GRANULARITIES))}, got {granularity}")
    pairs = (size.split("x") for size in _SIZES[resolution, granularity].split())
    return tuple((int(height), int(width)) for height, width in pairs)


def nearest_bucket(height: int, width: int, resolution: str = "480p", granularity: int = 32) -> tuple[int, int]:
    """The bucket (height, width) whose shape is closest to that of an image of `height` x `width` pixels.

    Closest in height / width, with the buckets' ratios rounded to two decimals, as published.

    Raises:
        ValueError: an empty image, or an unknown table.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be positive, got {height} x {width}")
    ratio = height / width
    return min(buckets(resolution, granularity), key=lambda size: abs(float(f"{size[0] / size[1]:.2f}") - ratio))
