"""The published numbers of the papers: reading them, verdicts, and the agreement of orders.

A measured result is passed as a `verdicts.Measured`, independent of its origin. Put code here if it
compares results with a paper. Imports `statistics`, `design`, and the recipes of `trainables`, which
define the protocol of a published number.
"""
