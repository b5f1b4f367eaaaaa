"""Searches: every optimizer tuned with the same budget, then its winner trained under fresh seeds.

`search.py` is the literal, `tuning.py` the plan, `proposer.py` and `proposals.py` decide and store what is tried,
`sampling.py` asks Optuna (only this file imports it), `results.py` and `report.py` present the outcome.
"""
