"""Trials as files of other trackers, such as TensorBoard.

`runs.py` reads a trial folder, `files.py` writes its export so that a kill leaves nothing
half-written, and `formats/` has one file for each format. This room may import `evidence` and the
rooms below it. Only `formats/` imports the libraries of the trackers.
"""
