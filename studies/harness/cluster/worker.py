"""The script of the worker processes of a Ray that is started here: import what a trial needs, then run Ray's script.

The imports are done while the driver prepares the first trial; with Ray's own script they would follow.
"""

import os
import runpy
import sys

del sys.path[0]  # this script's folder, whose `inspect.py` would replace Python's
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # as Ray does for a trial; numpy reads it when it is imported

import ray._private.workers.default_worker as default_worker  # noqa: E402
import ray.util.serialization_addons as addons  # noqa: E402

import trainables.ray_trainable  # noqa: E402, F401

if __name__ == "__main__":
    # Serializers for pyarrow, pydantic and starlette, which no trial uses; pyarrow alone takes 50 MB.
    addons.apply = lambda context: None
    runpy.run_path(default_worker.__file__, run_name="__main__")
