"""Types that several rooms share: arms, trials, facts, options, exit codes and reports.

Put a class here if several rooms use it and it uses none of them. Imports `trainables` and
`precond` only. Importing this room must not import torch or pandas, because every study file
imports it.
"""
