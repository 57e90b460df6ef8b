"""The report: one self-contained HTML page about a library, and about what each rule of a recipe drops from it.

The funnel, examples next to every threshold, histograms, the map of the captions' clusters, and what is quarantined.
Pictures are small and few for each rule, so that the page does not grow with the library.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcv_jax.curation import report_parts as parts
from lcv_jax.curation.library import Library
from lcv_jax.curation.measures import MEASURES
from lcv_jax.curation.recipe import RULES, Recipe
from lcv_jax.curation.select import rules_of
from lcv_jax.own_files import write_text

_BINS = 30
_EXAMPLES = 6
"""Clips on each side of a rule."""
_MOST_POINTS = 4000
"""On the map."""
_MOST_CLUSTERS = 24
_MOST_QUARANTINED = 100
_MEANINGS = {
    "text_coverage": "mean share of the frame that text covers", "staying_text": "whether text stays over the clips",
    "logo": "how sure it is that the source bears a logo", "aesthetic": "learned aesthetic score",
    "density": "of captions around the clip's own", "weight": "inverse to the density",
}  # fmt: skip
_MEASURED = {**{name: meaning for name, (_, meaning) in MEASURES.items()}, **_MEANINGS}
_CATEGORIES = ("camera", "shot_size", "lens", "style", "tone", "saturation", "light")


def write_report(library: Library, recipe: Recipe, out: Path) -> None:
    """Writes the page.

    Args:
        library: with clips.
        recipe: whose rules are shown.
        out: the file (.html).

    Raises:
        ValueError: there are no clips, or a rule needs a column that no stage has written.
    """
    if out.suffix != ".html":
        raise ValueError(f"{out}: the report is a page, expected .html, got {out.suffix or 'no suffix'!r}")
    report = _Report(library)
    sections = [report.summary(), *report.rules(recipe), report.measures(recipe), report.map(), report.quarantine()]
    write_text(out, parts.page(f"Curation of {library.folder.name}", sections))


class _Report:
    """Sections of the page, from queries over one connection."""

    def __init__(self, library: Library):
        self._folder, self._connection = library.folder, library.connect_to_clips()
        described = self._connection.execute("DESCRIBE clips").fetchall()
        self._have = {name: kind for name, kind, *_ in described}
        self._count = self._ask("SELECT count(*) FROM clips")[0][0]
        self._picture = functools.cache(parts.picture)

    def _ask(self, sql: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._connection.execute(sql, values or []).fetchall()
        return found

    def summary(self) -> str:
        """Numbers of sources and clips."""
        sources, copies, size = self._ask("SELECT count(*), sum(copies), sum(bytes) FROM sources")[0]
        told = f"{copies} files, {sources} of different content ({size / 1e6:.4g} MB); {self._count} clips"
        if "clip_seconds" in self._have:
            seconds = self._ask("SELECT sum(clip_seconds) FROM clips")[0][0] or 0.0
            told += f" of {seconds / 3600:.3g} hours" if seconds > 3600 else f" of {seconds:.4g} seconds"
        return f"<h1>Curation of {parts.text(self._folder.name)}</h1><p>{told}.</p>"

    def rules(self, recipe: Recipe) -> tuple[str, str]:
        """The funnel, and the clips next to every threshold."""
        steps, before, values = [("all clips", self._count, 0)], "true", list[Any]()
        walls = []
        for name, condition, own in rules_of(recipe, self._have):
            after = f"{before} AND {condition}"
            ((kept,),) = self._ask(f"SELECT count(*) FROM clips WHERE {after}", [*values, *own])
            steps.append((name, kept, steps[-1][1] - kept))
            walls.append(self._examples(name, f"{before} AND NOT {condition}", after, [*values, *own]))
            before, values = after, [*values, *own]
        shown = "".join(walls) or "<p>The recipe has no rules: every clip is kept.</p>"
        note = "Clips that reach a rule, those next to its threshold first: dropped in red, kept in green."
        return (
            f'<section id="funnel"><h2>Funnel</h2>{parts.funnel(steps)}</section>',
            f'<section id="examples"><h2>Examples by rule</h2><p class="note">{note}</p>{shown}</section>',
        )

    def _examples(self, name: str, dropped: str, kept: str, values: list[Any]) -> str:
        column, operator = RULES.get(name.split(" ")[0], ("NULL", ""))
        limit = values[-1] if operator in ("<=", ">=") else None
        order = f"abs({column} - {limit!r}) NULLS LAST, clip" if limit is not None else "hash(clip)"
        found = [f"<h3>{parts.text(name)}</h3>"]
        for kind, condition in (("dropped", dropped), ("kept", kept)):
            sql = f"SELECT clip_path, {column} FROM clips WHERE {condition} ORDER BY {order} LIMIT {_EXAMPLES}"
            rows = self._ask(sql, values)
            pictures = [self._figure(path, "no value" if value is None else value) for path, value in rows]
            found.append(parts.wall(kind, pictures) if rows else f"<p>Nothing is {kind}.</p>")
        return "".join(found)

    def _figure(self, path: str, caption: object) -> tuple[str, str]:
        return self._picture(self._folder / path), f"{caption:.4g}" if isinstance(caption, float) else str(caption)

    def measures(self, recipe: Recipe) -> str:
        """Histograms of every measure, with the recipe's thresholds."""
        limits = _limits(recipe)
        found = [self._histogram(name, limits.get(name, {})) for name in _MEASURED if name in self._have]
        for name in _CATEGORIES:
            if name in self._have:
                counts = self._ask(
                    f"SELECT {name}, count(*) FROM clips WHERE {name} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC"
                )
                found += [parts.bars(name, [(str(value), count) for value, count in counts])] if counts else []
        shown = f'<div class="grid">{"".join(found)}</div>' if any(found) else "<p>No stage has measured clips yet.</p>"
        return f'<section id="measures"><h2>Measures</h2>{shown}</section>'

    def _histogram(self, name: str, limits: Mapping[str, float]) -> str:
        if self._have[name] not in ("DOUBLE", "BIGINT"):
            return ""
        ((low, high),) = self._ask(f'SELECT min("{name}"), max("{name}") FROM clips')
        if low is None:
            return ""
        width = ((high - low) / _BINS) or 1.0
        bin_ = f'least(floor(("{name}" - ?) / ?), ?)::INT'
        sql = f'SELECT {bin_}, count(*) FROM clips WHERE "{name}" IS NOT NULL GROUP BY 1'
        found = dict(self._ask(sql, [low, width, _BINS - 1]))
        counts = [found.get(place, 0) for place in range(_BINS)]
        return parts.histogram(name, _MEASURED[name], counts, (float(low), low + _BINS * width), limits)

    def map(self) -> str:
        """The clusters of captions, as the report's Figure 4."""
        if not {"cluster", "cluster_name", "x", "y"} <= self._have.keys():
            told = "<p>There is no map yet: it needs captions and the stage distribution.</p>"
            return f'<section id="map"><h2>Clusters</h2>{told}</section>'
        clusters = self._ask(
            "SELECT cluster, any_value(cluster_name), count(*), avg(density), avg(weight), median(x), median(y) "
            "FROM clips WHERE cluster IS NOT NULL GROUP BY 1 ORDER BY 3 DESC"
        )
        points = self._ask(
            f"SELECT cluster, x, y FROM clips WHERE x IS NOT NULL ORDER BY hash(clip) LIMIT {_MOST_POINTS}"
        )
        if not points:
            return '<section id="map"><h2>Clusters</h2><p>No clip has a place on the map.</p></section>'
        named = clusters[:_MOST_CLUSTERS]
        drawn = parts.scatter(
            points, {row[0]: f"{row[1]} ({row[2]})" for row in named}, {row[0]: row[5:] for row in named}
        )
        total = sum(row[2] for row in clusters)
        rows = [
            [name, count, f"{count / total:.1%}", density, weight] for _, name, count, density, weight, *_ in clusters
        ]
        shown = [f'<section id="map"><h2>Clusters</h2>{drawn}']
        shown.append(parts.table(["cluster", "clips", "share", "mean density", "mean weight"], rows))
        for number, name, count, *_ in named:
            paths = self._ask(f"SELECT clip_path FROM clips WHERE cluster = {number} ORDER BY hash(clip) LIMIT 4")
            shown.append(f"<h3>{parts.text(name)} ({count})</h3>")
            shown.append(parts.wall("", [self._figure(path, "") for (path,) in paths]))
        return "".join(shown) + "</section>"

    def quarantine(self) -> str:
        """Rows that a stage could not process, with the reason."""
        rows = self._ask("SELECT stage, coalesce(clip, path, source), reason FROM quarantine ORDER BY ALL")
        counts = ", ".join(
            f"{stage}: {sum(row[0] == stage for row in rows)}" for stage in dict.fromkeys(r[0] for r in rows)
        )
        told = f"<p>{parts.text(counts)}</p>" if rows else "<p>Nothing is quarantined.</p>"
        shown = parts.table(["stage", "row", "reason"], rows[:_MOST_QUARANTINED]) if rows else ""
        more = len(rows) - _MOST_QUARANTINED
        shown += f"<p>{more} more are in the table quarantine of `lcv curate query`.</p>" if more > 0 else ""
        return f'<section id="quarantine"><h2>Quarantine</h2>{told}{shown}</section>'


def _limits(recipe: Recipe) -> dict[str, dict[str, float]]:
    """Thresholds of a recipe by column and rule."""
    found: dict[str, dict[str, float]] = {}
    for name, (column, operator) in RULES.items():
        value = getattr(recipe, name)
        if operator == "IN" or value is None:
            continue
        own = column.removeprefix("coalesce(").removeprefix("least(").removesuffix(")").split(",")
        for each in own:
            found.setdefault(each.strip(), {})[name] = float(value)
    return found
