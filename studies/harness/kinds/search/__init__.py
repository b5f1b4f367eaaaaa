"""Searches: every optimizer tuned with the same budget, then its winner trained under fresh seeds.

`search.py` is the literal; `tuning.py` resolves the command line to a `SearchPlan`; `plan.py` says what is missing;
`proposer.py` and `proposals.py` decide and store what is tried; `sampling.py` asks Optuna (only this file imports it);
`execute.py` trains; `results.py` and `report.py` present the outcome.
"""
