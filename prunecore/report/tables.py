"""Tables: rich on a terminal, plain columns otherwise; and the lines that sum up a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunecore.types import Width


def plain_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns, two spaces apart."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts
    )


def bar(value: int, largest: int, *, width: int = 24) -> str:
    """A bar of up to `width` blocks, at least one."""
    return "█" * max(1, round(width * value / max(largest, 1)))


def widths_picture(widths: Sequence[Width]) -> str:
    """A line a group: width before and after, what stays filled, what went hollow."""
    widest = max((w.before for w in widths), default=1)
    rows = []
    for width in widths:
        whole = bar(width.before, widest)
        stays = max(1, round(len(whole) * width.after / width.before))
        rows.append([width.group, width.before, width.after, "█" * stays + "░" * (len(whole) - stays)])
    return plain_table(["group", "before", "after", ""], rows)


def spell_count(value: float) -> str:
    """`1.23 M`, `4.1 G`: a count with a unit of thousands."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f}"


def summary_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """What a run did, as rows of name, before, after."""
    metric = result["metric"]

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    rows = [
        ["MACs", spell_count(result["macs"]["before"]), spell_count(result["macs"]["after"])],
        ["params", spell_count(result["params"]["before"]), spell_count(result["params"]["after"])],
        [f"size ({result['target']['measure']})", "1", f"{result['size']:.4f}"],
        [f"{metric['name']} after cut", percent(metric["before"]), percent(metric["after_cut"])],
        [f"{metric['name']} after repair", percent(metric["before"]), percent(metric["after_repair"])],
        [f"{metric['name']} after fine-tune", percent(metric["before"]), percent(metric["after"])],
    ]
    control = result.get("control")
    if control:
        rows += [
            ["random control, after repair", percent(metric["before"]), percent(control["after_repair"])],
            ["random control, after fine-tune", percent(metric["before"]), percent(control["after"])],
        ]
    return rows


def certificate_line(certificate: Mapping[str, Any]) -> str:
    """The certificate in one line."""
    if not certificate["inputs"]:
        return "certificate: none, since nothing was cut"
    verdict = "verified" if certificate["verified"] else "NOT VERIFIED"
    return f"certificate: {verdict}, largest difference {certificate['max_abs_error']:.1e} in {certificate['dtype']}"
