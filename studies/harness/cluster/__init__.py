"""Trains trials on Ray, on this machine or on a cluster: `execute` for a grid, `search` for a search.

The only room that imports Ray, and the only one besides `trainables/ray_trainable.py`. It also inspects a cluster,
checks cluster files, and shows the progress. It may import `trainables`, `precond` and `studies.harness.design`; it
knows no kind of artefact and no command. `tuning` and `search` import Ray Tune, so they are imported late.
"""
