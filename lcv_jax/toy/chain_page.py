"""The page of examples/chain.sh: `python -m lcv_jax.toy.chain_page OUT OUT/page.html`.

One self-contained file: what curation kept, curves of every training, the judge's rewards against the readers' truth,
every stage's model beside the one before, what simulated people say, clips side by side, and where the time went. It
reads what the links of the chain wrote, and nothing else.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from lcv_jax.command_line import mistakes_in_one_line, parse_arguments, positional
from lcv_jax.curation import report_parts as parts
from lcv_jax.evaluation import report, statistics
from lcv_jax.evaluation.comparing import Comparison, compare_runs
from lcv_jax.evaluation.ratings import Ratings
from lcv_jax.evaluation.runs import Run, read_run
from lcv_jax.evaluation.statistics import Difference
from lcv_jax.evaluation.studies import read_study
from lcv_jax.evaluation.study_results import rating_rows, study_findings
from lcv_jax.own_files import write_text
from lcv_jax.user_files import read_json, read_lines, read_rows

RECIPES = ("pretrain", "sft", "refinement", "prompts")
TRAINED = {
    "images": "pretraining on images", "pretrained": "pretraining on all tasks",
    "tuned": "fine-tuning, weighed by density", "judge": "the judge, on ratings", "grpo": "alignment",
    "guidance": "distillation of guidance", "distilled": "distillation to 16 steps",
    "refinement_dense": "refinement, dense", "refinement": "refinement, sparse",
}  # fmt: skip
"""Runs of training, in order."""
PAIRS = (("pretrained", "tuned"), ("tuned_8", "aligned_8"), ("aligned_50", "distilled"))
"""Models before and after a stage."""
MODELS = {
    "pretrained": "pretrained, 16 steps with guidance",
    "tuned": "fine-tuned, 16 steps with guidance",
    "tuned_8": "fine-tuned, 8 steps without guidance, as GRPO samples",
    "aligned_8": "aligned with GRPO, 8 steps without guidance",
    "aligned_50": "aligned with GRPO, 50 steps with guidance",
    "distilled": "distilled, 16 steps without guidance",
}
"""What is compared, in words."""
TRUTHS = {"ta": "alignment", "mq": "motion", "vq": "sharpness"}
"""The judge's dimensions with what the readers call the same."""
_STYLE = report.CLIPS_STYLE + "th, td { overflow-wrap: normal; } .bars { max-width: 40rem; margin: 1rem 0; }"
_STYLE += ".clips figure { flex: 1 1 9rem; max-width: 11rem; }"
_SHOWN_PROMPTS = 3
_STEP = re.compile(r"\s*(\d+) kept\s+(\d+) dropped\s+(.+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write the page of a chain that is done."""

    chain: Annotated[tyro.conf.Positional[Path], positional("CHAIN")]
    """The folder of examples/chain.sh."""
    out: Annotated[tyro.conf.Positional[Path], positional("OUT.html")]
    """The page to write."""


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.chain_page") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    with mistakes_in_one_line():
        chosen = parse_arguments(Arguments, arguments, prog=prog)
        write_text(chosen.out, page(chosen.chain))
        print(f"wrote {chosen.out}")


def page(chain: Path) -> str:
    """The whole page.

    Raises:
        OSError: a link's output is missing.
        ValueError: one that cannot be used.
    """
    runs = {name: read_run(chain / "evaluation" / name) for name in MODELS}
    found = {pair: compare_runs([runs[name] for name in pair]) for pair in PAIRS}
    everything = compare_runs([*runs.values()])
    sections = {
        "What each stage changed": changes(found, everything),
        "What curation kept": funnels(chain),
        "Training": curves(chain),
        "Reward against truth": rewards(found["tuned_8", "aligned_8"], everything),
        "Each model beside the one before": "".join(comparison(one) for one in found.values()),
        "Simulated people": people(chain),
        "Clips": clips(list(runs.values())),
        "Refinement": refinement(chain),
        "Where the time went": times(chain),
    }
    told = "".join(f"<section><h2>{parts.text(title)}</h2>{section}</section>" for title, section in sections.items())
    return parts.page("From raw films to an aligned model", [
        f"<style>{_STYLE}</style><h1>From raw films to an aligned and judged model</h1>", told,
        f"<script>{report.CLIPS_SCRIPT}</script>",
    ])  # fmt: skip


def changes(found: Mapping[tuple[str, str], Comparison], everything: Comparison) -> str:
    """The readers' scores, the truth of this world: of every model, and of each stage after minus before."""
    named = [f"<li><b>{parts.text(name)}</b>: {parts.text(title)}</li>" for name, title in MODELS.items()]
    keys = [("readers", truth) for truth in TRUTHS.values()]
    rows = [[f"{after} - {before}", *(_difference(one, key) for key in keys)] for (before, after), one in found.items()]
    drawn = [
        f'<figure class="bars">{report.bars(dict(everything.estimates(key)))}'
        f"<figcaption><b>{key[1]}</b>, by the readers, with 95 % intervals</figcaption></figure>"
        for key in keys
    ]
    told = (
        "The readers know what each clip should show: they are the truth. All models have the same prompts and noise."
    )
    head = ["readers", *TRUTHS.values()]
    return f'<p class="note">{told}</p><ul>{"".join(named)}</ul>{parts.table(head, rows)}{"".join(drawn)}'


def funnels(chain: Path) -> str:
    """What each recipe's rules kept and dropped, as `curate select` printed it."""
    shown = []
    for name in RECIPES:
        found = [_STEP.fullmatch(line.rstrip()) for line in read_lines(chain / "logs" / f"select_{name}.txt")]
        steps = [(one[3], int(one[1]), int(one[2])) for one in found if one]
        if not steps:
            raise ValueError(f"{chain}/logs/select_{name}.txt: expected what `lcv curate select` prints, found no rule")
        shown.append(f"<figure><figcaption><b>{parts.text(name)}</b></figcaption>{parts.funnel(steps)}</figure>")
    return f'<div class="grid">{"".join(shown)}</div>'


def curves(chain: Path) -> str:
    """The loss of every training, and the rewards of alignment."""
    shown = []
    for name, title in TRAINED.items():
        lines = list(read_rows(chain / name / "metrics.jsonl"))
        keys = [key for key in dict.fromkeys(key for line in lines for key in line) if _is_shown(name, key)]
        for key in keys:
            points = [(float(line["step"]), float(line[key])) for line in lines if line.get(key) is not None]
            shown.append(curve(f"{title}: {key}", points))
    return f'<div class="grid">{"".join(shown)}</div>'


def _is_shown(name: str, key: str) -> bool:
    return (
        key.startswith("reward/")
        if name == "grpo"
        else key in ("loss", "validation_loss") or key.startswith("validation/")
    )


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """A line over steps, from its lowest to its highest value."""
    steps, values = zip(*points, strict=True)
    low, high, last = min(values), max(values), max(steps)

    def place(step: float, value: float) -> str:
        return f"{320 * step / (last or 1):.1f} {100 - 90 * (value - low) / ((high - low) or 1.0):.1f}"

    path = "L".join(place(*point) for point in points)
    drawn = f'<path d="M{path}" fill="none" stroke="{parts.COLOURS[0]}" stroke-width="2"/>'
    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="2.5" fill="{parts.COLOURS[0]}"/>'
        for x, y in (place(*point).split() for point in points if len(points) < 40)
    )
    ends = f'<text x="0" y="116">step {steps[0]:g} to {last:g}</text>'
    return (
        f'<figure><svg class="curve" viewBox="-4 -2 328 122" role="img">{drawn}{dots}{ends}</svg>'
        f"<figcaption><b>{parts.text(title)}</b> {values[0]:.3g} at first, {values[-1]:.3g} at last; "
        f"{low:.3g} to {high:.3g}</figcaption></figure>"
    )


def rewards(aligned: Comparison, everything: Comparison) -> str:
    """Whether the judge agrees with the readers, and whether what it rewards became more of what they see."""
    head = [
        "judge",
        "readers",
        "Pearson, over clips of all models",
        "reward, aligned - tuned",
        "truth, aligned - tuned",
    ]
    rows, drawn = [], []
    for reward, truth in TRUTHS.items():
        said, true = everything.values["judge", reward], everything.values["readers", truth]
        pairs = [(said[run][item], true[run][item]) for run in said for item in said[run].keys() & true[run].keys()]
        changes = [_difference(aligned, key) for key in (("judge", reward), ("readers", truth))]
        rows.append([reward, truth, _correlation(pairs), *changes])
        drawn.append(scatter(f"{truth}, by the readers", f"{reward}, by the judge", [(x, y) for y, x in pairs]))
    note = "Each dot is a clip. Where a reward rises and the truth does not, it was hacked, or the judge is weak."
    return f'{parts.table(head, rows)}<p class="note">{note}</p><div class="grid">{"".join(drawn)}</div>'


def _difference(found: Comparison, key: tuple[str, str]) -> str:
    """After minus before, with the verdict."""
    before, after = (run.name for run in found.runs)
    return _told(found.difference(key, after, before), after, before)


def _told(difference: Difference, a: str, b: str) -> str:
    return f"{difference.estimate}: {difference.verdict(a, b)}"


def _correlation(pairs: Sequence[tuple[float, float]]) -> str:
    try:
        one = statistics.correlation(*(list(side) for side in zip(*pairs, strict=True)))
    except ValueError as error:
        return str(error)
    return f"{one.pearson:.2f} [{one.pearson_low:.2f}, {one.pearson_high:.2f}], n = {one.count}"


def scatter(across: str, up: str, points: Sequence[tuple[float, float]]) -> str:
    """A dot for each pair of values."""
    ranges = [(min(side), (max(side) - min(side)) or 1.0) for side in zip(*points, strict=True)]
    dots = []
    for point in points:
        x, y = ((value - low) / span for value, (low, span) in zip(point, ranges, strict=True))
        dots.append(f'<circle cx="{310 * x + 5:.1f}" cy="{195 - 190 * y:.1f}" r="3" fill="{parts.COLOURS[0]}"/>')
    told = f"up: {up}; to the right: {across}"
    return f'<figure><svg class="scatter" viewBox="0 0 320 200" role="img">{"".join(dots)}</svg><figcaption>{parts.text(told)}</figcaption></figure>'  # noqa: E501


def comparison(found: Comparison) -> str:
    """The scores of a model and of the one before."""
    before, after = (run.name for run in found.runs)
    head, *rows = report.summary(found)
    notes = "".join(f'<p class="note">{parts.text(note)}</p>' for note in found.notes)
    told = f"<p>{len(found.items)} prompts; means with 95 % bootstrap intervals; differences are paired by prompt.</p>"
    return f"<h3>{parts.text(before)}, then {parts.text(after)}</h3>{told}{parts.table(head, rows)}{notes}"


def people(chain: Path) -> str:
    """Opinion scores, and the differences of each stage."""
    study = read_study(chain / "study")
    found = study_findings(study, rating_rows(Ratings(study)))
    dimensions = list(dict.fromkeys(dimension for _, dimension in found.scores))
    rows = [[name, *(str(found.scores[name, dimension]) for dimension in dimensions)] for name in MODELS]
    differences = []
    for before, after in PAIRS:
        told = [_of_people(found.differences, after, before, dimension) for dimension in dimensions]
        differences.append([f"{after} - {before}", *told])
    raters = f"<p>{len(study.raters)} simulated raters, {found.num_ratings} answers from 1 to 5.</p>"
    return (
        raters
        + parts.table(["mean opinion", *dimensions], rows)
        + parts.table(["difference", *dimensions], differences)
    )


def _of_people(differences: Mapping[tuple[str, str, str], Difference], a: str, b: str, dimension: str) -> str:
    """A minus B, whichever way round the study has it."""
    one = differences.get((a, b, dimension))
    if one is not None:
        return _told(one, a, b)
    other = differences[b, a, dimension]
    mean, low, high = other.estimate.mean, other.estimate.low, other.estimate.high
    turned = dataclasses.replace(
        other.estimate, mean=-mean, low=None if high is None else -high, high=None if low is None else -low
    )
    return _told(Difference(estimate=turned), a, b)


def clips(runs: Sequence[Run]) -> str:
    """Clips of all models side by side."""
    by_run = {run.name: {video.item.id: video for video in reversed(run.videos)} for run in runs}
    items = [item for item in next(iter(by_run.values())) if all(item in of_run for of_run in by_run.values())]
    shown = ['<p class="note">A click beside the clips of a prompt starts them together.</p>']
    for item in items[:: max(1, len(items) // _SHOWN_PROMPTS)][:_SHOWN_PROMPTS]:
        prompt = parts.text(next(iter(by_run.values()))[item].item.prompt)
        shown.append(
            f"<p>{prompt}</p>{report.players([(MODELS[name], of_run[item].path) for name, of_run in by_run.items()])}"
        )
    return "".join(shown)


def refinement(chain: Path) -> str:
    """How close refined clips are to true large ones."""
    rows = [[name, _value(value)] for name, value in read_json(chain / "refined.json")["measured"].items()]
    return parts.table(["refined clips of the procedural world", "mean, with 95 % interval"], rows)


def _value(value: Mapping[str, Any]) -> str:
    mean = value.get("percent", value.get("mean"))
    interval = f" [{value['low']:.4g}, {value['high']:.4g}]" if "low" in value else ""
    return f"{mean:.4g}{interval}" + (" %" if "percent" in value else "")


def times(chain: Path) -> str:
    """Seconds of every link."""
    rows = list(read_rows(chain / "times.jsonl"))
    total = sum(row["seconds"] for row in rows)
    told = f"<p>{total / 60:.1f} minutes; of a link that was killed, the attempt that ended it counts.</p>"
    return told + parts.bars("seconds", [(row["name"], row["seconds"]) for row in rows])


if __name__ == "__main__":
    main()
