"""Judgements: is a candidate better than a baseline, decided again after each pair of seeds.

`judge.py` has the class and its options. `sides.py` reads the candidates and the baseline, and
`tuning.py` tunes them. `plan.py` and `scales.py` resolve a command to a `JudgePlan`. `execute.py`
trains one pair after another until there is a decision, which `results.py` reads from the trial
folders. `ledger.py` records each judgement, and `report.py` writes the report.
"""
