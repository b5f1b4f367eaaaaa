"""Measurements of the preconditioners and of the layers' inputs; they do not change the training.

`monitor.py` measures one bank. Banks use it, so it imports only algorithms, layers and parts.
`measures.py` reads the monitors of an optimizer's banks, and `observe.py` collects covariances
without an optimizer. Both may import banks and hooks, but not the optimizer.
"""
