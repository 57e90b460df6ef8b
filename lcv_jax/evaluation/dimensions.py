"""What people are asked: the report's dimensions (section 5.1), with a descriptor for every point of the scale."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dimension:
    """One question."""

    id: str
    title: str
    question: str
    points: tuple[str, str, str, str, str]
    """What a score of 1, 2, 3, 4 and 5 means."""


TEXT_ALIGNMENT = Dimension(
    id="text_alignment",
    title="Text alignment",
    question="Does the video show everything that the prompt describes, and nothing that contradicts it?",
    points=(
        "Unrelated to the prompt",
        "The main subject or action is missing or wrong",
        "The main subject and action are there, several details are wrong",
        "One or two small details are missing or wrong",
        "Everything described is shown correctly",
    ),
)
VISUAL_QUALITY = Dimension(
    id="visual_quality",
    title="Visual quality",
    question="Frame by frame: is the picture plausible, undistorted and realistic in its own style?",
    points=(
        "Broken picture, subjects cannot be recognised",
        "Strong distortions, noise or blur in most frames",
        "Noticeable faults, the picture as a whole is usable",
        "Small faults that one has to look for",
        "No faults to be seen",
    ),
)
MOTION_QUALITY = Dimension(
    id="motion_quality",
    title="Motion quality",
    question="Are movements coherent, smooth and physically right, neither frozen nor jittering?",
    points=(
        "Frozen, or chaotic throughout",
        "Jerky or physically impossible most of the time",
        "Some unnatural movement or standstill",
        "Natural, with a small slip",
        "Natural and smooth throughout",
    ),
)
IMAGE_ALIGNMENT = Dimension(
    id="image_alignment",
    title="Image alignment",
    question="Are subject, background and style of the reference image kept?",
    points=(
        "Another subject and scene",
        "The subject or the scene changes strongly",
        "Recognisable, with clear changes of attributes or style",
        "Small changes only",
        "Kept completely",
    ),
)
OVERALL = Dimension(
    id="overall",
    title="Overall quality",
    question="All in all, how good is this video?",
    points=(
        "Unusable",
        "Poor: of use only after much repair",
        "Fair: usable with visible faults",
        "Good: small faults only",
        "Excellent: as good as a real or professionally made video",
    ),
)
TEXT_TO_VIDEO = (TEXT_ALIGNMENT, VISUAL_QUALITY, MOTION_QUALITY, OVERALL)
IMAGE_TO_VIDEO = (TEXT_ALIGNMENT, IMAGE_ALIGNMENT, VISUAL_QUALITY, MOTION_QUALITY, OVERALL)
BY_ID = {dimension.id: dimension for dimension in IMAGE_TO_VIDEO}


def dimensions_of(task: str) -> tuple[Dimension, ...]:
    """The questions asked about a video of this task."""
    return IMAGE_TO_VIDEO if task == "image-to-video" else TEXT_TO_VIDEO
