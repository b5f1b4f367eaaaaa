"""Judgements, which compare a candidate with a baseline by one pair of trials after another.

`judge.py` has the class and its options. `plan.py` resolves a command to a `JudgePlan`
(`judge_plan.py`): `option_values.py` reads numbers, `sides.py` the candidates and the baseline,
`scales.py` the metric and the margin; `checks.py` collects the errors, and `tuning.py` plans the
trials that tune the sides. `execute.py` trains pairs until `results.py`, which reads the trial
folders, has a decision. `ledger.py` records each judgement, `times.py` compares time and memory,
and `report.py` writes the report.
"""
