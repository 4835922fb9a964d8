"""Planning: target and saliencies in, the channels that stay out; exact before any weight moves."""

from __future__ import annotations

from prunecore.planning.measured import plan_measured
from prunecore.planning.planner import Plan, Reach, plan, reachable
from prunecore.planning.ranking import uniform_scores

__all__ = ["Plan", "Reach", "plan", "plan_measured", "reachable", "uniform_scores"]
