"""Measures of what the preconditioners do to each layer, and of what the layers see; nothing here changes a number.

`monitor.py` watches one bank and needs only algorithms, layers and parts, because banks use it. `measures.py` reads the
monitors of an optimizer's banks, and `observe.py` collects covariances without an optimizer; both may import banks and
hooks, but not the optimizer.
"""
