"""The figures, one kind a file: the only place that imports matplotlib.

A drawing function takes evidence or plain data and a folder, draws `<name>.pdf`, `.png` and `.svg` there and returns
the files. Imports what `report` may import.
"""
