"""Where the time of a run went: the seconds that its journal holds, by phase."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# the first that fits the name of a record
PHASES = {
    "tables": r"latency-tables",
    "pretraining": r"pretraining",
    "control": r"control/.*",
    "trials": r"trial-\d+",
    "analysis": r"(plan|blocks)-.*",
    "cut": r".*/cut",
    "repair": r".*/repair",
    "fine_tune": r".*/fine-tune",
    "evaluation": r"before|.*/(after_cut|after_repair|after|search)",
}
REST = "rest"


def seconds_by_phase(records: Sequence[Mapping[str, Any]], total: float) -> dict[str, float]:
    """Wall-clock seconds of every phase, and of what is in none of them: start-up, the estimate, reading back.

    A phase that is cut off and done again counts once, as in the run's own `total`.
    """
    spent = dict.fromkeys(PHASES, 0.0)
    for record in records:
        name = str(record["name"])
        phase = next((p for p, pattern in PHASES.items() if re.fullmatch(pattern, name)), None)
        if phase is not None:
            spent[phase] += float(record.get("seconds", 0.0))
    return {**{p: round(s, 3) for p, s in spent.items()}, REST: round(max(0.0, total - sum(spent.values())), 3)}
