"""Types that several rooms share: arms, trials, an artefact's facts, options, exit codes, and the value of a report.

Put a class here if several rooms need it and it needs none of them. This is a lowest room of the harness: it imports
`trainables` and `precond` only, and torch and pandas never at import, because every study file loads it.
"""
