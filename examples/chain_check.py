"""Checks the page that examples/chain.sh ends with: every section is there, has numbers, and all of them are finite.

python examples/chain_check.py PAGE.html
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

SECTIONS = {
    "What each stage changed": ("tuned - pretrained", "aligned_8 - tuned_8", "distilled - aligned_50", "alignment"),
    "What curation kept": ("least_motion", "kept", "funnel"),
    "Training": ("pretraining on images", "the judge", "reward/", "refinement, sparse", "curve"),
    "Reward against truth": ("Pearson", "scatter"),
    "Each model beside the one before": ("tuned", "aligned_8", "distilled", "readers", "judge"),
    "Simulated people": ("mean opinion", "aligned_8 - tuned_8"),
    "Clips": ("<video", "data:video"),
    "Refinement": ("psnr",),
    "Where the time went": ("films", "people"),
}
"""Their titles, with what each must show."""
_NOT_FINITE = re.compile(r"(?<![a-z])(?:nan|NaN|inf|Infinity)(?![a-z])")
_NUMBER = re.compile(r"\d")
_DATA = re.compile(r"data:[^\"')]*")


class Words(HTMLParser):
    """What a reader sees: the words, and the attributes that draw."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.drawn: list[str] = []

    def handle_data(self, data: str) -> None:
        """Between tags."""
        self.text.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Of drawings and players."""
        self.drawn += [f"{tag} {name}={value[:200]}" for name, value in attrs if value]


def problems(page: str) -> list[str]:
    """What is wrong with a page, a sentence each; nothing for one that is whole."""
    parts = dict(re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL))
    found = [f"no section {title!r}" for title in SECTIONS if title not in parts]
    for title, section in parts.items():
        found += [f"{title}: nothing about {word!r}" for word in SECTIONS.get(title, ()) if word not in section]
        words = Words()
        words.feed(section)
        if not any(_NUMBER.search(text) for text in words.text):
            found.append(f"{title}: no number")
        shown = [*words.text, *(_DATA.sub("", one) for one in words.drawn)]
        found += [f"{title}: {one.strip()[:80]!r} is not finite" for one in shown if _NOT_FINITE.search(one)]
    return found


if __name__ == "__main__":
    path = Path(sys.argv[1])
    if found := problems(path.read_text()):
        sys.exit("\n".join(f"error: {path}: {problem}" for problem in found))
    print(f"{path}: all {len(SECTIONS)} sections are there, every number is finite")
