"""What a suite consists of: the figures by which the report's section 5.1 describes its own."""

import collections
import dataclasses
from collections.abc import Iterable

from lcv_jax.evaluation.suites import Suite

CONCISE_WORDS, DETAILED_WORDS = 20, 51
"""The report counts prompts of fewer words as concise, and of more as highly detailed."""
RARE = 0.05
"""Categories with at most this share of the prompts are the long tail."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """Shares are of all items, from 0 to 1."""

    num_items: int
    shares: dict[str, dict[str, float]]
    """By field (task, kind, categories, style, content, aspect_ratio, languages) and value, the most frequent first."""
    words: tuple[int, int, int]
    """Fewest, median and most words of a prompt; empty prompts are left out."""
    concise: float
    """Share of prompts of fewer than 20 words among those that are not empty."""
    detailed: float
    """Share of prompts of more than 51 words."""
    most_frequent: float
    """Share of items in the most frequent category."""
    rare_categories: float
    """Share of categories that have at most 5 % of the items each."""


def describe(suite: Suite) -> Description:
    """The figures of a suite; words are those of the English prompt."""
    items = suite.items
    shares = {
        field: _shares(([getattr(item, field)] for item in items), len(items))
        for field in ("task", "kind", "style", "content", "aspect_ratio")
    }
    categories = _shares((item.categories for item in items), len(items))
    shares = {
        **shares,
        "categories": categories,
        "languages": _shares((["en", *i.translations] for i in items), len(items)),
    }
    counts = sorted(len(item.prompt.split()) for item in items if item.prompt.strip()) or [0]
    return Description(
        num_items=len(items),
        shares={field: values for field, values in shares.items() if values},
        words=(counts[0], counts[len(counts) // 2], counts[-1]),
        concise=sum(count < CONCISE_WORDS for count in counts) / len(counts),
        detailed=sum(count > DETAILED_WORDS for count in counts) / len(counts),
        most_frequent=max(categories.values(), default=0.0),
        rare_categories=sum(share <= RARE for share in categories.values()) / max(len(categories), 1),
    )


def _shares(values: Iterable[Iterable[str]], total: int) -> dict[str, float]:
    counts = collections.Counter(value for of_item in values for value in set(of_item) if value)
    return {value: count / total for value, count in counts.most_common()}


def lines_of(description: Description, width: int = 40) -> list[str]:
    """The description as text, shares as bars."""
    low, median, high = description.words
    lines = [
        f"{description.num_items} items; prompts of {low} to {high} words, median {median}",
        f"{description.concise:.1%} concise (< {CONCISE_WORDS} words), "
        f"{description.detailed:.1%} detailed (> {DETAILED_WORDS} words)",
    ]
    if count := len(description.shares.get("categories", {})):
        lines.append(
            f"{count} categories: the most frequent has {description.most_frequent:.1%} "
            f"of items, {description.rare_categories:.1%} of them have at most {RARE:.0%} each"
        )
    for field, shares in description.shares.items():
        lines += ["", field.replace("_", " ")]
        longest = max(map(len, shares))
        most = max(shares.values())
        for value, share in shares.items():
            lines.append(f"  {value:{longest}}  {share:6.1%}  {'#' * max(1, round(width * share / most))}")
    return lines
