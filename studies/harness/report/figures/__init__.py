"""The figures: the only place that imports matplotlib, so figures of a single kind of artefact are here, too.

A drawing function takes evidence or plain data and a folder, draws `<name>.pdf`, `.png` and `.svg` there and returns
the files. Imports what `report` may import.
"""
