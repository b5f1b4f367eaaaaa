"""The script of Ray's workers on this machine: import what a trial needs, then run Ray's script.

A worker does these imports while the driver prepares the first trial. With Ray's script alone, the
worker would do them when the trial starts.
"""

import os
import runpy
import sys

del sys.path[0]  # this script's folder, whose `inspect.py` would shadow Python's
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Ray does for a trial; numpy reads it on import

import ray._private.workers.default_worker as default_worker  # noqa: E402
import ray.util.serialization_addons as addons  # noqa: E402

import trainables.ray_trainable  # noqa: E402, F401

if __name__ == "__main__":
    # Do not import the serializers for pyarrow, pydantic and starlette: no trial uses them, and
    # pyarrow takes 50 MB.
    addons.apply = lambda context: None
    runpy.run_path(default_worker.__file__, run_name="__main__")
