"""Planning: target and saliencies in, the channels that stay out; exact before any weight moves."""

from __future__ import annotations

from prunecore.planning.blocks import BlockCut, block_cuts
from prunecore.planning.measured import plan_measured
from prunecore.planning.planner import Plan, Reach, plan, plan_least, reachable, remarks, with_remarks
from prunecore.planning.ranking import uniform_scores

__all__ = [
    "BlockCut",
    "Plan",
    "Reach",
    "block_cuts",
    "plan",
    "plan_least",
    "plan_measured",
    "reachable",
    "remarks",
    "uniform_scores",
    "with_remarks",
]
