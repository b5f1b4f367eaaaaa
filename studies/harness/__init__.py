"""The code of the driver, the process that plans, executes, tracks and reports artefacts.

An artefact is a study, search, probe or cost study, which reproduces a table or figure of a paper,
or the tuning of a workload's recipe.

Each folder is a room, and a room imports only lower rooms. The rooms, from top to bottom:

1. `command`
2. `kinds`
3. `cluster`, `tracking` and `report`, which do not import each other
4. `evidence`
5. `published`
6. `statistics` and `design`, which do not import each other

A file belongs to the lowest room from which it can import everything that it needs.
"""
