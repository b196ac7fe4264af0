"""What counts as a bad answer when a server is hurt in the middle of a run: the measure of the fault claims.

With replicas every query must be answered as undisturbed. Without, a query may fail, but only for a reason that a dead
server gives; some must be answered in spite of it, and once the server is back every query must be, as before.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from operators.batann.actors import Cluster
    from operators.batann.outcomes import Result
    from operators.batann.settings import Settings

# no_vector: a state moved on from a server that died before its vector was fetched
REASONS_OF_A_DEAD_SERVER = ("partition_down", "deadline", "no_vector")
AFTERWARDS_S = 30.0


def bad_answers(result: "Result", expected: np.ndarray | None, *, replicas: int, fault: str) -> int:
    """Queries of a run that ended as none may.

    Args:
        result: how the run's queries ended
        expected: ids `(nq, k)` of the undisturbed run; None: answers are not compared
        replicas: servers a partition lives on; with several, none may be other than ok
        fault: `kill` when servers were killed: the reasons are known then, and not all may fail
    """
    status = np.array([outcome.status for outcome in result.outcomes])
    reason = np.array([outcome.reason for outcome in result.outcomes])
    ok = status == "ok"
    other = 0 if expected is None else int((ok & (result.ids != expected).any(1)).sum())
    if replicas > 1:
        return other + int((~ok).sum())
    if fault != "kill":
        return other + int((~ok & (reason == "")).sum())
    if not ok.any():
        return len(ok)
    return other + int((~ok & ~np.isin(reason, REASONS_OF_A_DEAD_SERVER)).sum())


def bad_after_restart(
    cluster: "Cluster", servers: list[int], queries: np.ndarray, expected: np.ndarray, beam: Any, settings: "Settings"
) -> int:
    """Start killed servers again and ask every query once more: those not answered as undisturbed."""
    for server in servers:
        cluster.restart(server)
    cluster.join_restarts()
    after = cluster.search(
        queries, settings.k, beam.L, 1, mem_l=settings.mem_l, timeout_s=max(AFTERWARDS_S, settings.timeout_s)
    )
    ok = np.array([outcome.status == "ok" for outcome in after.outcomes])
    return int((~ok | (after.ids != expected).any(1)).sum())
