"""The script of the worker processes of a Ray that is started here: import what a trial needs, then run Ray's script.

The imports are done while the driver prepares the first trial; Ray's script would do them when it gets the trial.
"""

import os
import runpy
import sys

del sys.path[0]  # this script's folder, whose `inspect.py` would replace Python's
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Ray does for a trial; numpy reads it when it is imported

import ray._private.workers.default_worker as default_worker

import trainables.ray_trainable  # noqa: F401

if __name__ == "__main__":
    runpy.run_path(default_worker.__file__, run_name="__main__")
