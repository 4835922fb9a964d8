"""The plots of a report. Each is a function of plain values that returns SVG; none where there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunecore.errors import listing
from prunecore.report.figures import GRID, INK, MARK, MUTED, OURS, PAPER, RANDOM, SOFT, figure
from prunecore.report.words import spell_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from prunecore.types import Width


def axes(made: Figure, box: tuple[int, int, int, int]) -> Axes:
    """Axes with margins in px: left, right, bottom, top."""
    width, height = (72 * float(side) for side in made.get_size_inches())
    left, right, bottom, top = box
    return made.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )


_LEAST = 0.02  # span of an axis: what differs by less shall look alike


def _room(values: Sequence[float], *, share: float = 0.12) -> tuple[float, float]:
    """Limits around `values`, so that no mark is cut off and no small difference looks large."""
    middle, half = (min(values) + max(values)) / 2, max(_LEAST, max(values) - min(values)) / 2
    low, high = middle - half, middle + half
    room = share * (high - low)
    return low - room, high + room


# ---------------------------------------------------------------- one score after the other


STAGE_NAMES = {"before": "before", "after_cut": "cut", "after_repair": "repaired", "after": "fine-tuned"}


def stages_plot(metric: Mapping[str, Any], control: Mapping[str, Any] | None) -> str:
    """The metric before, after cut, after repair and after fine-tuning, beside the random control."""
    ours = [float(metric[s]) for s in STAGE_NAMES]
    rows = [("ours", ours)]
    if control is not None:
        values = [control.get(s) for s in STAGE_NAMES][1:]
        rows.append(("random", [ours[0], *(float(v) for v in values if v is not None)]))

    def draw(made: Figure, narrow: bool) -> None:
        plot = axes(made, (8, 8, 26, 8))
        plot.set_xlim(-0.35, 3.35)
        plot.set_ylim(*_room([v for _, values in rows for v in values], share=0.22))
        plot.spines[["left", "bottom"]].set_visible(False)
        plot.set_xticks(range(4), list(STAGE_NAMES.values()))
        plot.set_yticks([])
        plot.tick_params(length=0)
        for x in range(4):
            plot.axvline(x, color=GRID, linewidth=0.8, zorder=0)
        for name, values in reversed(rows):
            style = {"color": OURS} if name == "ours" else {"color": RANDOM, "linestyle": (0, (4, 2))}
            plot.plot(range(len(values)), values, marker="o", zorder=3, **style)
        for x, value in enumerate(ours):
            other = rows[-1][1][x] if len(rows) > 1 and 0 < x < len(rows[-1][1]) else None
            above = other is None or value >= other
            _label(plot, (x, value), above, OURS if x else INK)
            if other is not None:
                _label(plot, (x, other), not above, RANDOM)

    says = ", ".join(f"{words} {v:.4f}" for words, v in zip(STAGE_NAMES.values(), ours, strict=True))
    if len(rows) > 1:
        names = list(STAGE_NAMES.values())[1:]
        says += ". Random control: " + ", ".join(f"{n} {v:.4f}" for n, v in zip(names, rows[1][1][1:], strict=False))
    return figure("stages", f"{metric['name']} from stage to stage", f"{says}.", draw, heights=(230, 220))


def _label(plot: Axes, point: tuple[float, float], above: bool, colour: str) -> None:
    plot.annotate(
        spell_score(point[1]),
        point,
        xytext=(0, 7 if above else -7),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        color=colour,
    )


# ---------------------------------------------------------------- widths along the network


_NUMBERED = {False: 24, True: 9}  # bars that are wide enough for their numbers


def widths_plot(widths: Sequence[Width]) -> str:
    """A bar a group, from the input to the output: as wide as it was, filled as wide as it is. Empty without groups."""
    if not widths:
        return ""
    tallest = max(w.before for w in widths)

    def draw(made: Figure, narrow: bool) -> None:
        numbered = len(widths) <= _NUMBERED[narrow]
        plot = axes(made, (6 if numbered else 40, 6, 24, 20))
        places = range(len(widths))
        thick = 0.8 if len(widths) < 80 else 1.0
        plot.bar(places, [w.before for w in widths], thick, color=SOFT)
        plot.bar(places, [w.after for w in widths], thick, color=OURS)
        plot.set_xlim(-0.7, len(widths) - 0.3)
        plot.set_ylim(0, tallest * 1.02)
        ends = {0: "1", len(widths) - 1: str(len(widths))}
        words = "groups, input to output" if narrow else "channel groups, from input to output"
        plot.set_xticks([*ends, (len(widths) - 1) / 2], [*ends.values(), words if len(widths) > 2 else ""])
        plot.tick_params(axis="x", length=0)
        plot.spines["left"].set_visible(False)
        if not numbered:
            plot.set_yticks([0, tallest])
            return
        plot.set_yticks([])
        for place, width in enumerate(widths):
            plot.annotate(
                f"{width.before}", (place, width.before), (0, 3), textcoords="offset points", ha="center", color=MUTED
            )
            if width.after > 0.12 * tallest:
                plot.annotate(
                    f"{width.after}", (place, 0), (0, 5), textcoords="offset points", ha="center", color=PAPER
                )

    says = listing([f"{w.group} from {w.before} to {w.after}" for w in widths], most=12)
    return figure("widths", "Channels of every group, before and after", f"{says}.", draw, heights=(220, 200))


# ---------------------------------------------------------------- rounds


@dataclass(frozen=True)
class Round:
    """Scores on the validation split, by stage; None where there is none."""

    number: int
    size: float
    cut: float | None
    repaired: float | None
    tuned: float | None

    @property
    def left(self) -> float | None:
        return self.tuned if self.tuned is not None else self.repaired


def rounds_plot(name: str, rounds: Sequence[Round], before: float, control: float | None, goal: float) -> str:
    """The metric and the size over the rounds; `goal` is the size aimed at. Empty for a single round."""
    if len(rounds) < 2:
        return ""
    places = list(range(1, len(rounds) + 1))
    scores = [v for r in rounds for v in (r.cut, r.repaired, r.tuned) if v is not None]
    scores += [before, *([control] if control is not None else [])]

    def draw(made: Figure, narrow: bool) -> None:
        top = axes(made, (44, 14, 146, 22))
        low = axes(made, (44, 14, 38, 224))
        for plot, title in ((top, name), (low, "size")):
            plot.set_xlim(0.5, len(rounds) + 0.5)
            plot.set_title(title, loc="left", color=INK, pad=6)
            plot.spines["bottom"].set_visible(False)
            plot.tick_params(axis="x", length=0)
            plot.locator_params(axis="y", nbins=4)
        top.set_ylim(*_room(scores))
        top.set_xticks([])
        top.axhline(before, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        for x, made_round in zip(places, rounds, strict=True):
            known = [v for v in (made_round.cut, made_round.repaired, made_round.tuned) if v is not None]
            top.plot([x, x], [min(known), max(known)], color=SOFT, linewidth=3, zorder=1)
        _dots(top, places, [r.cut for r in rounds], marker="_", color=MUTED)
        _dots(top, places, [r.repaired for r in rounds], marker="o", color=MUTED, facecolor=PAPER)
        top.plot(places, [math.nan if r.left is None else r.left for r in rounds], color=OURS, marker="o", zorder=3)
        if control is not None:
            top.plot([places[-1]], [control], color=RANDOM, marker="D", linestyle="none", zorder=4, markersize=6)
        low.axhline(goal, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        low.plot(places, [r.size for r in rounds], color=OURS, marker="o", markersize=3)
        low.set_ylim(0, max(1.0, *(r.size for r in rounds)) * 1.03)
        low.set_yticks([0, 0.5, 1])
        few = max(1, math.ceil(len(rounds) / (6 if narrow else 14)))
        low.set_xticks(places[::few], [str(p) for p in places[::few]])
        low.set_xlabel("round")

    says = f"{len(rounds)} rounds; {name} before {before:.4f}, after the last {spell_score(rounds[-1].left)}; "
    says += f"size {rounds[0].size:.4f} after the first round, {rounds[-1].size:.4f} after the last"
    if control is not None:
        says += f"; random control {control:.4f}"
    return figure("rounds", f"{name} and size over the rounds", f"{says}.", draw, heights=(330, 330))


def _dots(plot: Axes, places: Sequence[int], values: Sequence[float | None], *, marker: str, **style: Any) -> None:
    known = [(x, v) for x, v in zip(places, values, strict=True) if v is not None]
    face = style.pop("facecolor", style["color"])
    plot.plot(
        [x for x, _ in known], [v for _, v in known], linestyle="none", marker=marker, markerfacecolor=face,
        markersize=7 if marker == "_" else 4, zorder=2, **style,
    )  # fmt: skip


# ---------------------------------------------------------------- what a search visited


@dataclass(frozen=True)
class Visit:
    """A candidate of a search. kind: `ranked`, `fine-tuned` (both trials) or `carried out`. value: on the search split."""

    number: int
    kind: str
    size: float
    value: float


def pareto_front(visits: Sequence[Visit], *, lowest: bool = False) -> list[Visit]:
    """Those that no other is both as small and as good as, by size; of equals the lowest number.

    lowest: whether a lower value is better.
    """
    sign = -1 if lowest else 1
    found: list[Visit] = []
    for visit in sorted(visits, key=lambda v: (v.size, -sign * v.value, v.number)):
        if not found or sign * visit.value > sign * found[-1].value:
            found.append(visit)
    return found


def search_plot(name: str, visits: Sequence[Visit]) -> str:
    """Size against score of everything that a search measured, with the Pareto front; of a `loss` lower is better."""
    if not visits:
        return ""
    lowest = name == "loss"
    front = pareto_front(visits, lowest=lowest)
    looks: dict[str, dict[str, Any]] = {
        "ranked": {"marker": "o", "markerfacecolor": "none", "color": MUTED, "markersize": 4, "markeredgewidth": 0.8},
        "fine-tuned": {"marker": "o", "color": MARK, "markersize": 4},
        "carried out": {"marker": "o", "color": OURS, "markersize": 6},
    }

    def draw(made: Figure, narrow: bool) -> None:
        plot = axes(made, (48, 12, 40, 22))
        for kind, look in looks.items():
            seen = [v for v in visits if v.kind == kind]
            plot.plot([v.size for v in seen], [v.value for v in seen], linestyle="none", **look)
        ends = [*(v.size for v in front), max(v.size for v in visits)]
        plot.step(ends, [*(v.value for v in front), front[-1].value], where="post", color=INK, linewidth=0.9, zorder=1)
        plot.set_xlim(*_room([v.size for v in visits], share=0.05))
        plot.set_ylim(*_room([v.value for v in visits], share=0.08))
        plot.locator_params(axis="x", nbins=5 if narrow else 9)
        plot.locator_params(axis="y", nbins=5)
        plot.set_xlabel("size")
        hint = ", lower is better" if lowest else ""
        plot.set_title(f"{name} on the search split{hint}", loc="left", color=INK, pad=8)

    says = ", ".join(f"{v.value:.4f} at size {v.size:.4f}" for v in front)
    text = f"{len(visits)} candidates were measured; on the Pareto front: {says}."
    return figure("search", f"Size and {name} of what the search visited", text, draw, heights=(320, 300))


# ---------------------------------------------------------------- several runs


@dataclass(frozen=True)
class Line:
    """A run among others; control: its random control's metric."""

    label: str
    value: float
    before: float
    control: float | None


def runs_plot(name: str, runs: Sequence[Line]) -> str:
    """A line a run: the metric before, after, and of the random control, side by side on one scale."""

    def draw(made: Figure, narrow: bool) -> None:
        plot = axes(made, (12, 12, 40, 8))
        for row, run in enumerate(runs):
            known = [v for v in (run.value, run.before, run.control) if v is not None]
            plot.plot([min(known), max(known)], [row, row], color=SOFT, linewidth=3, zorder=1, solid_capstyle="butt")
            plot.plot([run.before], [row], marker="|", color=MUTED, markersize=11)
            if run.control is not None:
                plot.plot([run.control], [row], marker="D", color=RANDOM, markersize=5, zorder=3)
            plot.plot([run.value], [row], marker="o", color=OURS, markersize=7, zorder=4)
            plot.text(0, row - 0.3, run.label, transform=plot.get_yaxis_transform(), color=INK, va="bottom")
        plot.set_ylim(len(runs) - 0.6, -1.0)
        plot.set_xlim(*_room([v for r in runs for v in (r.value, r.before, r.control) if v is not None], share=0.06))
        plot.spines["left"].set_visible(False)
        plot.set_yticks([])
        plot.locator_params(axis="x", nbins=4 if narrow else 8)
        plot.set_xlabel(name)

    height = 52 + 40 * len(runs)
    says = "; ".join(f"{run.label}: {run.value:.4f}" for run in runs)
    return figure("runs", f"{name} of the runs", f"{says}.", draw, heights=(height, height))
