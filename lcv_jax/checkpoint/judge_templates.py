"""The prompt templates of reward models, read from a file of the user's: none of them is in this package.

    prompts.json    {"hpsv3": {"instruction": ..., "prompt_with_special_token": ...},
                     "videoalign": {"detailed_special": ...}, "qwen2_vl": {"image": ..., "video": ...}}
    *.py            the published project's source: its strings are read from the syntax tree, nothing is run

A template has the placeholder {text_prompt} for the caption, and the reward tokens. Around it is the conversation of
Qwen2-VL: the JSON's own, if it has one.
"""

import ast
import json
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lcv_jax.models.judges import HPSV3, REWARD_TOKENS, VIDEOREWARD

CAPTION = "text_prompt"
CONVERSATION = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>"
    "{text}<|im_end|>\n<|im_start|>assistant\n"
)
"""What Qwen2-VL's chat template makes of one picture or video and a text."""
_JSON_KEYS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    HPSV3: ("hpsv3", ("instruction", "prompt_with_special_token"), "image"),
    VIDEOREWARD: ("videoalign", ("detailed_special",), "video"),
}
"""The section, the texts that are joined, and the medium."""
_SOURCE_NAMES = ("INSTRUCTION", "prompt_with_special_token", "DETAILED_PROMPT_WITH_SPECIAL_TOKEN")


def read_templates(path: Path, kind: str) -> tuple[str, str, str]:
    """The conversation up to the visual tokens, from there to the caption, and from there on.

    Args:
        path: see above.
        kind: of judge.

    Raises:
        ValueError: the file has no such templates, or they lack a placeholder or a reward token.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            template, conversation = _from_source(text, kind), CONVERSATION
        else:
            template, conversation = _from_json(json.loads(text), kind)
        return _split(template, conversation, kind)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"templates of {kind} in {path}: {error}") from None


def _from_json(loaded: Any, kind: str) -> tuple[str, str]:
    section, keys, medium = _JSON_KEYS[kind]
    if not isinstance(loaded, Mapping) or not isinstance(loaded.get(section), Mapping):
        raise ValueError(f'wanted a JSON object with a section "{section}"')
    absent = [key for key in keys if not isinstance(loaded[section].get(key), str)]
    if absent:
        raise ValueError(f'the section "{section}" has no text {", ".join(absent)}')
    template = "".join(loaded[section][key] for key in keys)
    around = loaded.get("qwen2_vl")
    conversation = around.get(medium) if isinstance(around, Mapping) else None
    if conversation is None:
        return template, CONVERSATION
    return template, conversation.replace(f"{{{medium}_pads}}", "{pads}")


def _from_source(text: str, kind: str) -> str:
    """The template from the published project's Python source."""
    strings: dict[str, str] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and isinstance(value := _joined(node.value), str):
            strings |= {target.id: value for target in node.targets if isinstance(target, ast.Name)}
    placeholder, tokens = f"{{{CAPTION}}}", REWARD_TOKENS[kind]

    def find(what: str, fits: Callable[[str], bool]) -> str:
        fitting = {name: value for name, value in strings.items() if fits(value)}
        named = [value for name, value in fitting.items() if name in _SOURCE_NAMES] or list(fitting.values())
        if len(named) != 1:
            raise ValueError(f"wanted one string with {what}, found {', '.join(fitting) or 'none'}")
        return named[0]

    def has_tokens(value: str) -> bool:
        return all(token in value for token in tokens)

    whole = f"{placeholder} and {', '.join(tokens)}"
    if any(placeholder in value and has_tokens(value) for value in strings.values()):
        return find(whole, lambda value: placeholder in value and has_tokens(value))
    if kind == HPSV3:
        rubric = find(placeholder, lambda value: placeholder in value)
        return rubric + find(", ".join(tokens), has_tokens)
    raise ValueError(f"wanted a string with {whole}, found none")


def _joined(node: ast.expr) -> str | None:
    """A string constant, or several that are added."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _joined(node.left), _joined(node.right)
        return None if left is None or right is None else left + right
    return None


def _split(template: str, conversation: str, kind: str) -> tuple[str, str, str]:
    before_caption, after_caption = _around(template, CAPTION, "the template")
    before_text, after_text = _around(conversation, "text", "the conversation", others=("pads",))
    before_pads, after_pads = before_text.split("{pads}", 1) if "{pads}" in before_text else ("", "")
    if not before_pads.endswith("<|vision_start|>") or not after_pads.startswith("<|vision_end|>"):
        raise ValueError("the conversation must have its visual tokens between <|vision_start|> and <|vision_end|>")
    for token in REWARD_TOKENS[kind]:
        if (count := (before_caption + after_caption).count(token)) != 1:
            raise ValueError(f"the template must have {token} once, has it {count} times")
    return before_pads, after_pads + before_caption, after_caption + after_text


def _around(template: str, name: str, what: str, others: tuple[str, ...] = ()) -> tuple[str, str]:
    """What stands before and after a placeholder that must come once; braces that are doubled become single."""
    parts = [""]
    for text, field, spec, conversion in string.Formatter().parse(template):
        parts[-1] += text
        if field == name and not spec and not conversion:
            parts.append("")
        elif field in others:
            parts[-1] += f"{{{field}}}"
        elif field is not None:
            raise ValueError(f"{what} has a placeholder {{{field}}}, wanted {{{name}}} alone")
    if len(parts) != 2:
        raise ValueError(f"{what} must have the placeholder {{{name}}} once, has it {len(parts) - 1} times")
    return parts[0], parts[1]
