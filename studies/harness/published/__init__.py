"""The papers' numbers: reading them, a verdict on each beside a measured result, agreement of orders.

A measured result arrives as `verdicts.Measured`, whatever it was measured with. Put here what compares with a paper.
Imports `statistics`, `design`, and the recipes of `trainables`, to know the protocol of a published number.
"""
