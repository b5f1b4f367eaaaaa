"""Documents (Markdown, HTML, LaTeX, CSV), sections and figures: print what `evidence` holds and compute nothing.

`document.py` has the blocks and their formats; each other file turns one part of the evidence into blocks. Sections
that only one kind of artefact has belong to that kind. Imports `evidence` and the rooms below it, and no kind.
"""
