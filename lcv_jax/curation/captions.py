"""Captions and what is mixed into them (section 2.1.2): questions to a vision-language model and checks of its replies.

Captions come in English and Chinese, each with a summary. Attributes are chosen from lists, which the endpoint gets as
a JSON schema and whose members the reply is held to. A clip has several captions: with attributes mixed in, or without.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.data.chat import json_object

LANGUAGES = {"en": "English", "zh": "Chinese"}
TEXTS = tuple(f"{kind}_{language}" for language in LANGUAGES for kind in ("caption", "summary"))
_LONGEST = 4000
"""Characters of a text."""

ATTRIBUTES: dict[str, dict[str, str]] = {
    "shot_size": {
        "extreme close-up": "大特写",
        "close-up": "特写",
        "medium shot": "中景",
        "full shot": "全景",
        "wide shot": "远景",
        "extreme wide shot": "大远景",
    },
    "lens": {
        "regular lens": "标准镜头",
        "wide-angle lens": "广角镜头",
        "telephoto lens": "长焦镜头",
        "fisheye lens": "鱼眼镜头",
        "macro lens": "微距镜头",
    },
    "style": {
        "realistic photography": "写实摄影",
        "2D animation": "二维动画",
        "3D animation": "三维动画",
        "painting": "绘画",
        "pixel art": "像素画",
        "other style": "其他风格",
    },
    "tone": {
        "warm colours": "暖色调",
        "cool colours": "冷色调",
        "neutral colours": "中性色调",
        "black and white": "黑白",
    },
    "saturation": {"high saturation": "高饱和度", "medium saturation": "中等饱和度", "low saturation": "低饱和度"},
    "light": {"high contrast": "高对比度", "soft light": "柔和光线", "low light": "低照度"},
}
"""Values of each attribute in English, with their Chinese."""
CAMERA = {
    "static": ("static camera", "固定镜头"),
    "pan_left": ("the camera pans left", "镜头向左摇"),
    "pan_right": ("the camera pans right", "镜头向右摇"),
    "tilt_up": ("the camera tilts up", "镜头向上摇"),
    "tilt_down": ("the camera tilts down", "镜头向下摇"),
    "zoom_in": ("the camera pushes in", "镜头推进"),
    "zoom_out": ("the camera pulls out", "镜头拉远"),
    "shake": ("handheld camera", "手持镜头"),
}
"""How the classes of camera.py are said."""

CAPTION_PROMPT = (
    "Describe this video for training a text-to-video model. Write what is to be seen, in the order in which it "
    "happens: subjects and their looks, every action with its direction and result, the place, the light. Do not "
    "mention frames, the camera or the style, and guess nothing. Give for each language a caption of 60 to 150 words "
    "and a summary of one sentence; the languages say the same."
)
ATTRIBUTE_PROMPT = "How was this video filmed, and what does it look like? Choose one value of each attribute."


def caption_format() -> dict[str, Any]:
    """The reply that captions are asked for, as a field of the request."""
    return _format("captions", {name: {"type": "string"} for name in TEXTS})


def attribute_format() -> dict[str, Any]:
    """The reply that attributes are asked for, as a field of the request."""
    return _format("attributes", {name: {"type": "string", "enum": [*values]} for name, values in ATTRIBUTES.items()})


def _format(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object", "properties": properties, "required": [*properties], "additionalProperties": False
    }  # fmt: skip
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


def parse_captions(text: str) -> dict[str, str]:
    """Captions and summaries of a reply.

    Raises:
        ValueError: one is missing, empty, too long or in another language.
    """
    found = json_object(text)
    for name in TEXTS:
        value = found.get(name)
        if not isinstance(value, str) or not 0 < len(value.strip()) <= _LONGEST:
            raise ValueError(f"expected a text of 1 to {_LONGEST} characters for {name}, got {str(value)[:100]!r}")
        language = name.rpartition("_")[2]
        if not _is_in(language, value):
            raise ValueError(f"expected {LANGUAGES[language]} for {name}, got {value[:100]!r}")
    return {name: found[name].strip() for name in TEXTS}


def _is_in(language: str, text: str) -> bool:
    """Whether the letters of a text are mostly of a language's script."""
    chinese, latin = (len(re.findall(letters, text)) for letters in (r"[\u4e00-\u9fff]", r"[A-Za-z]"))
    # A Chinese word has about two characters, an English one five.
    return chinese > latin / 3 if language == "zh" else latin > 3 * chinese


def parse_attributes(text: str) -> dict[str, str]:
    """Attributes of a reply.

    Raises:
        ValueError: one is missing or has a value that is not in its list.
    """
    found = json_object(text)
    wrong = [name for name, values in ATTRIBUTES.items() if found.get(name) not in values]
    if wrong:
        raise ValueError(f"expected a value of its list for {', '.join(wrong)}, got {str(found)[:200]}")
    return {name: found[name] for name in ATTRIBUTES}


def augment(
    texts: Mapping[str, str], attributes: Mapping[str, str | None], identity: str, num_captions: int, seed: int
) -> list[str]:
    """Captions of a clip: the texts themselves first, then some with attributes mixed in at random.

    Args:
        texts: by names such as caption_en and summary_zh.
        attributes: values in English, of `ATTRIBUTES` and of the camera's classes as `camera`; None is left out.
        identity: of the clip; decides with the seed.
        num_captions: with attributes. Fewer where drawing gives the same again.
        seed: of all clips.
    """
    digest = hashlib.sha256(f"{seed} {identity}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    captions = [text for text in texts.values() if text]
    names = sorted(name for name, text in texts.items() if text)
    for _ in range(num_captions if names else 0):
        name = names[int(rng.integers(len(names)))]
        phrases = _phrases(attributes, name.rpartition("_")[2])
        if not phrases:
            break
        chosen = rng.permutation(len(phrases))[: int(rng.integers(1, len(phrases) + 1))]
        captions.append(_mixed(texts[name], [phrases[place] for place in chosen], name.endswith("_zh"), rng))
    return list(dict.fromkeys(captions))


def _phrases(attributes: Mapping[str, str | None], language: str) -> list[str]:
    phrases = []
    for name, value in sorted(attributes.items()):
        if value is not None and not value.startswith("other"):
            english, chinese = CAMERA[value] if name == "camera" else (value, ATTRIBUTES[name][value])
            phrases.append(chinese if language == "zh" else english)
    return phrases


def _mixed(text: str, phrases: Sequence[str], is_chinese: bool, rng: np.random.Generator) -> str:
    """Phrases as a sentence before or after a text."""
    if is_chinese:
        sentence, space = "\uff0c".join(phrases) + "\u3002", ""  # full-width comma and full stop
    else:
        sentence, space = ", ".join(phrases) + ".", " "
        sentence = sentence[0].upper() + sentence[1:]
    return f"{sentence}{space}{text}" if rng.random() < 0.5 else f"{text}{space}{sentence}"
