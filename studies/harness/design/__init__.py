"""What an experiment is made of: arms, trials, the facts of a paper's artefact, a command's options, how it ends.

Put a class here if several rooms need it and it needs none of them. This is the lowest room of the harness: it imports
`trainables` and `precond` only, and torch and pandas never at import, because every study file loads it.
"""
