"""The analysis of a study's trials, with the decisions on all of its claims."""

from __future__ import annotations

from dataclasses import replace

from studies.harness.evidence.analysis import Evidence, analyse, decide_claims
from studies.harness.evidence.coverage import with_caveats
from studies.harness.kinds.study.plan import StudyPlan


def evidence(plan: StudyPlan) -> Evidence:
    """Return the analysis of the plan's trials. Nothing is written."""
    figure, claims = plan.figure, plan.artefact.claims_on(plan.workload)
    evidence = analyse(plan.trials, plan.root, figure.metric, figure.references, claims)
    derived = {
        name: table
        for part in (figure, *plan.extra_figures)
        for name, table in part.claim_values(plan, evidence).items()
    }
    decisions = evidence.claims
    if derived:  # claims about these values could not be decided before the figures computed them
        decisions = decide_claims(claims, plan.workload, evidence.frame, figure.metric, derived)
    return replace(evidence, claims=with_caveats(decisions, plan.trials))
