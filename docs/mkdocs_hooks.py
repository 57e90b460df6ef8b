"""Pages of the site that are not in docs/: README, files that pages link to, and the help of every command."""

import contextlib
import io
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages, and the files at the repository's root that they show."""
COMMANDS_HERE = "<!-- commands -->"
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    linked: set[str] = set()
    for uri, name in FROM_ROOT.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=_relinked(text, ".", linked)))
    for file in list(files.documentation_pages()):
        if file.src_uri not in FROM_ROOT:
            text = Path(file.abs_src_path).read_text(encoding="utf-8")
            relinked = _relinked(text, posixpath.join("docs", posixpath.dirname(file.src_uri)), linked)
            if COMMANDS_HERE in text:
                relinked = relinked.replace(COMMANDS_HERE, _commands())
            if relinked != text:
                files.remove(file)
                files.append(File.generated(config, file.src_uri, content=relinked))
    for name in sorted(linked):
        files.append(File.generated(config, f"source/{name}.md", content=_source(name)))
    return files


def _relinked(text: str, folder: str, linked: set[str]) -> str:
    """A page of the repository's `folder` as a page of the site; files outside docs/ that it links to become pages."""
    place = posixpath.relpath(folder, "docs") if folder.startswith("docs") else "."

    def replace(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        shown = {name: uri for uri, name in FROM_ROOT.items()}
        if target in shown:
            uri = shown[target]
        elif target.startswith("docs/"):
            uri = posixpath.relpath(target, "docs")
        elif (ROOT / target).is_file():
            linked.add(target)
            uri = f"source/{target}.md"
        else:
            return match[0]  # mkdocs says that it is broken
        return f"]({posixpath.relpath(uri, place)}{match[2] or ''})"

    return LINK.sub(replace, text)


def _source(name: str) -> str:
    language = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".json": "json"}.get(Path(name).suffix, "text")
    return f"# {name}\n\n````{language}\n{(ROOT / name).read_text(encoding='utf-8')}\n````\n"


def _commands() -> str:
    """The help of every command, as it is printed."""
    from lcv_jax.__main__ import COMMANDS, main

    os.environ["COLUMNS"] = "78"
    sections = []
    for name, (_, line) in COMMANDS.items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit), contextlib.chdir(ROOT):
            main([*name.split(), "--help"], prog="lcv")
        text = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue()).replace(f"{ROOT}", ".").strip()
        sections.append(f"## lcv {name}\n\n{line[0].upper()}{line[1:]}.\n\n```text\n{text}\n```\n")
    return "\n".join(sections)
