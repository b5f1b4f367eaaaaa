"""The tuning of a recipe, by the same procedure and with the same budget for every optimizer.

`trainables.recipes.tuning` defines the procedure. `tuning.py` has the class of the artefact,
`plan.py` lists the trials, which are executed as those of a study, and `report.py` writes the ledger
of the scores and the values for the recipe. The command is `python -m studies tune-recipe`.
"""
