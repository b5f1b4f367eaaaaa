"""Training of a trial: its configuration, data, model, loop and folder.

A trial is trained by `train.epochs` in whichever process calls it: a Ray worker, `python -m trainables`, a debugger.
This package imports torch and `precond`, and other libraries only inside the functions that need them; only
`ray_trainable` imports Ray. It knows nothing of studies, reports or tracking. `team` shares a trial among
processes, `packing` says how many trials fit a GPU, `plugins` loads a user's files.
"""
