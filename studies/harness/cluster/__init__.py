"""Ray: train trials on this machine or on a cluster, `execute` for a grid, `search` for a search.

Apart from `trainables/ray_trainable.py` this is the only code that imports Ray. It also inspects a cluster, checks
cluster files and shows the progress. It may import `trainables`, `precond`, `design` and `published.strict_yaml`, and
knows no kind of artefact. `tuning` and `search` import Ray Tune, so they are imported late.
"""
