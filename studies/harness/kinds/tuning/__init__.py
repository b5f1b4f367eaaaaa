"""The tuning of a recipe, by the same procedure and with the same budget for every optimizer.

`trainables.recipes.tuning` defines the procedure. `tuning.py` has the class of the artefact, and
`plan.py` lists the trials. They are executed in the same way as the trials of a study. `report.py`
writes the ledger, a CSV file with the score of each trial, and the values for the recipe. The
command is `python -m studies tune-recipe`.
"""
