"""Searches, which tune each optimizer with the same budget of configurations.

The best configuration of an optimizer, its winner, is then trained with fresh seeds, which the
tuning did not use. These fresh trials are the results of the search.

`search.py` has the class of the literals. `tuning.py` resolves the options of a command to a
`SearchPlan`, and `plan.py` determines the missing work. `proposer.py` chooses the next trial,
`proposals.py` stores the proposed configurations, and `sampling.py` samples them; no other file
imports Optuna. `execute.py` trains, `results.py` reads the results, and `report.py` writes the
report.
"""
