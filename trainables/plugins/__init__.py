"""User-defined optimizers and workloads, in Python files that `--plugin FILE` names.

    from trainables.plugins import optimizer, workload

    @optimizer
    def signsgd(model, *, lr: float = 0.01):
        return SignSGD(model.parameters(), lr=lr)

    @workload("moons/mlp", data=moons, batch_size=50, epochs=20)
    def mlp():
        return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

The key of a trial contains a hash of the code that it uses: the registered function and everything
that this function refers to in the file. If that code is edited, the trial has a new key and is
trained again; comments and unrelated functions are not part of the hash. Workers read a copy of the
file in the output folder.

A plugin is code that runs with the user's rights. Its path therefore comes only from the command
line or from the caller in Python, never from a trial's configuration.

`loading.py` imports plugins, `optimizers.py` and `workloads.py` have the decorators, `content.py`
computes the hash, `packages.py` finds versions of packages, `neighbours.py` finds imports of modules
whose code is in no hash, `tasks.py` has the losses and metrics of plugins, and `copies.py` writes
and reads the copies. The package imports torch, `precond`
and `trainables.{config,data,files,metrics,models,recipes,tasks,workloads}`.
"""

from __future__ import annotations

from trainables.plugins.copies import has_code, load_copies, write_copy
from trainables.plugins.loading import Plugin, imported, load, load_all, unregister
from trainables.plugins.optimizers import optimizer
from trainables.plugins.registration import PluginError, is_loading
from trainables.plugins.workloads import workload

__all__ = [
    "Plugin",
    "PluginError",
    "has_code",
    "imported",
    "is_loading",
    "load",
    "load_all",
    "load_copies",
    "optimizer",
    "unregister",
    "workload",
    "write_copy",
]
