"""Ray: train trials on this machine or on a cluster. `execute` trains a grid, `search` a search.

Apart from `trainables/ray_trainable.py` this is the only code that imports Ray. This room also
inspects a cluster, checks cluster files and prints the progress. It may import `trainables`,
`precond`, `design`, `published.strict_yaml` and `evidence.metrics`, and knows no kind of artefact.
`tuning` and `search` import Ray Tune, which takes a second, so they are imported inside functions.
"""
