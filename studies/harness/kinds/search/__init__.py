"""Searches: each optimizer is tuned with the same budget, then its winner trains under fresh seeds.

`search.py` has the class of the literals. `tuning.py` resolves the command line to a `SearchPlan`,
and `plan.py` determines the missing work. `proposer.py` chooses the next trial, `proposals.py`
stores the proposed configurations, and `sampling.py`, the only file that imports Optuna, samples
them. `execute.py` trains; `results.py` and `report.py` present the results.
"""
