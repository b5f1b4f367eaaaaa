"""The published numbers of the papers: their files, verdicts on them, and orders of the arms.

Trials, times to a target and costs are all passed as `verdicts.Measured`. Put code here if it
compares results with a paper. Imports `statistics`, `design`, and the recipes of `trainables`, which
define the protocol of a published number.
"""
