"""The figures. Only this room imports matplotlib.

A drawing function takes evidence or plain data and a folder, writes `<name>.pdf`, `.png` and `.svg`
into the folder and returns their paths. Figures of a single kind of artefact are here, too. Imports
the rooms that `report` may import.
"""
