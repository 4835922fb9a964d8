"""The sentences of a report: what was reached, and whether the criterion beat chance. Plain text, no markup."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prunecore.planning.planner import LATENCY_TOLERANCE, TOLERANCE
from prunecore.report.facts import RunFacts

MEASURES = {"macs": "MACs", "ptflops": "MACs (as ptflops counts)", "params": "parameters", "latency": "latency"}
NONE, MINUS, ZERO = "\N{EN DASH}", "\N{MINUS SIGN}", "±0"
_SURE = 1.96  # standard errors of a 95 % interval


def percent(fraction: float) -> str:
    """`49.99 %`, without zeros at its end."""
    return f"{100 * fraction:.2f}".rstrip("0").rstrip(".") + " %"


def error(value: float) -> str:
    """`2.2e-16`, `0`."""
    return f"{value:.1e}" if value else "0"


def part(fraction: float) -> str:
    """`70.8 %`, for columns."""
    return f"{100 * fraction:.1f} %"


def spell_score(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def spell_change(value: float) -> str:
    """`+0.0123`, `-0.0067`, `±0`; with a true minus sign."""
    text = f"{abs(value):.4f}"
    return ZERO if float(text) == 0 else f"{'+' if value > 0 else MINUS}{text}"


def spell_seconds(seconds: float) -> str:
    """`0.14 s`, `2.0 s`, `17 s`, `4 min 10 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 trial`, `12 trials`, `1,206 trials`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


# ---------------------------------------------------------------- the network and the headline


def network_name(facts: RunFacts) -> str:
    """`torchvision:resnet18`, or the class where the source says little."""
    provenance, model = facts.result["provenance"], facts.settings.get("model")
    kind, source = (model.get("kind"), model.get("source")) if isinstance(model, Mapping) else (model, None)
    if source:
        return f"{kind}:{source}"
    found = str(provenance.get("class", "")).rpartition(".")[2]
    return found or str(provenance.get("spec") or kind or "the network")


def algorithm_name(result: Mapping[str, Any]) -> str:
    """`fpgm`, or `agp with taylor`."""
    algorithm, criterion = str(result["algorithm"]), result["criterion"]
    return algorithm if not criterion or criterion == algorithm else f"{algorithm} with {criterion}"


def measure_of(result: Mapping[str, Any]) -> str:
    return MEASURES.get(str(result["target"]["measure"]), str(result["target"]["measure"]))


def headline(facts: RunFacts) -> str:
    """What became of the network, in one sentence."""
    result, metric = facts.result, facts.result["metric"]
    change = metric["after"] - metric["before"]
    moved = f"{metric['name']} went from {metric['before']:.4f} to {metric['after']:.4f}"
    if spell_change(change) == ZERO:
        moved = f"{metric['name']} stayed at {metric['after']:.4f}"
    return f"{network_name(facts)} keeps {percent(result['size'])} of its {measure_of(result)}; {moved}."


def target_line(result: Mapping[str, Any]) -> str:
    """What was asked, and how near the run came."""
    target, goal = result["target"], 1.0 - result["target"]["reduce"]
    asked = f"Asked for: {percent(target['reduce'])} of the {measure_of(result)} removed"
    if target["multiple_of"]:
        asked += f", widths that are cut a multiple of {target['multiple_of']}"
    off, latency = result["size"] - goal, target["measure"] == "latency"
    if target["multiple_of"] and not latency:
        verdict = "not above the target" if off <= 1e-9 else "ABOVE the target"
        return f"{asked}. Size {result['size']:.4f} against {goal:.4f}: {verdict}."
    allowed = LATENCY_TOLERANCE if latency else TOLERANCE
    verdict = "on target" if abs(off) <= allowed + 1e-9 else f"OFF target by more than {allowed:g}"
    return f"{asked}. Size {result['size']:.4f} against {goal:.4f}: {verdict}."


def latency_line(found: Mapping[str, Any]) -> str:
    """How far the measurement may be off, what the tables said, and where it holds."""
    ratio, threads = found["ratio"], found["threads"]
    return (
        f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] of the original, {found['planned_size']:.3f} planned; "
        f"{found['device']}, {plural(threads, 'thread')}, batch {found['batch']}, {found['dtype']}"
    )


# ---------------------------------------------------------------- the random control


def control_lines(facts: RunFacts) -> list[str]:
    """Whether the criterion beat channels drawn at random, and by how much; never more than the numbers say."""
    result, control = facts.result, facts.result["control"]
    if control is None:
        asked = facts.settings.get("control", "none") != "none"
        why = "the notes say why" if asked else "control: none"
        return [
            f"No random control was made ({why}), so nothing here shows that the criterion does better than chance."
        ]
    name, rounds = algorithm_name(result), len(facts.steps)
    tuned, lines = control["after"] is not None, []
    if tuned:
        lines.append(_compared(facts, name, "after", "After fine-tuning"))
    if (
        rounds <= 1 and result["metric"]["after_repair"] is not None
    ):  # what is repaired in the last of several rounds has been fine-tuned in those before
        lines.append(_compared(facts, name, "after_repair", "Repaired, before any fine-tuning"))
    if not tuned and rounds > 1:
        lines.append(
            f"The control was cut and repaired only (control: cut), while the run was fine-tuned in its {rounds} rounds: "
            "nothing here shows that the criterion does better than chance."
        )
    elif not tuned:
        lines.append("Whether that lasts through fine-tuning is not known: the control had none (control: cut).")
    return lines + _caveats(facts)


def _compared(facts: RunFacts, name: str, stage: str, words: str) -> str:
    metric, control = facts.result["metric"], facts.result["control"]
    ours, theirs = float(metric[stage]), float(control[stage])
    gap = ours - theirs
    if spell_change(gap) == ZERO:
        return f"{words}: {name} did no better than the random control (both {ours:.4f})."
    error = sampling_error(metric["name"], (ours, theirs), facts.images)
    if error is not None and abs(gap) <= error:
        verdict = f"{name} cannot be told from the random control"
    else:
        verdict = f"{name} {'beat' if gap > 0 else 'LOST to'} the random control by {abs(gap):.4f}"
    text = f"{words}: {verdict} ({ours:.4f} against {theirs:.4f}"
    if error is None:
        return text + ")."
    apart = round(abs(gap) * (facts.images or 0))
    return text + f"; {plural(apart, 'image')} of {facts.images:,}, where chance alone makes up to {error:.4f})."


def sampling_error(name: str, values: Sequence[float], images: int | None) -> float | None:
    """Half the 95 % interval of the difference of two accuracies, each a share of `images` (as if independent).

    None for other metrics: what is no share of right answers has no error that could be known from here.
    """
    if name != "accuracy" or not images:
        return None
    if any(abs(v * images - round(v * images)) > 1e-3 * max(1.0, math.sqrt(images)) for v in values):
        return None  # of pixels, say
    return _SURE * math.sqrt(sum(v * (1 - v) / images for v in values))


def _caveats(facts: RunFacts) -> list[str]:
    """What makes the comparison with the control weaker than it looks."""
    result, control = facts.result, facts.result["control"]
    found = []
    rounds = len(facts.steps)
    if rounds > 1 and control["after"] is not None:
        found.append(
            f"The control is cut once and trained once, while the run went through {rounds} rounds: "
            "part of any difference is due to the rounds, not to the choice of channels."
        )
    if abs(control["size"] - result["size"]) > TOLERANCE:
        found.append(f"The two are not of one size: {result['size']:.4f} and {control['size']:.4f}.")
    if result["criterion"] == "random":
        found.append("The criterion is random itself: this compares two draws.")
    else:
        found.append("The control is one draw with one seed.")
    return found


# ---------------------------------------------------------------- the rest


def why_of(step_why: str, criterion: str, reduce: float | None, cuts: bool) -> str:
    """Why the channels of a step went: what its search said, or that it was planned."""
    if step_why:
        return step_why
    if not cuts:
        return "nothing was cut: only trained"
    aim = "" if reduce is None else f" to a reduction of {percent(reduce)}"
    return f"planned{aim}: lowest saliency by {criterion} first"
