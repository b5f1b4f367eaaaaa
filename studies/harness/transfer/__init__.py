"""Moves results between output folders: a plan of the merge, and the copies that it makes.

`plan.py` compares the folders and decides what is copied; nothing is written before the plan has no
errors. `place.py` writes. `archive.py` packs results into one file. The other files decide about
one kind of result each: trials, probes, the files that consist of lines, and the copies of plugins.
This room may import every room except `command`.
"""
