"""Documents (Markdown, HTML, LaTeX, CSV) and figures of results that `evidence` has computed.

`document.py` defines the blocks of a document and writes its formats. Each other file converts one
part of the evidence to blocks. A section that only one kind of artefact has belongs to that kind.
Imports `evidence` and the rooms below it, and no kind.
"""
