"""The code of the driver: it plans, executes, tracks and reports an artefact.

An artefact is a table or figure of a paper. Each folder is a room. A room imports only lower rooms;
the order is `command`; `kinds`; `cluster`, `tracking` and `report`, which do not import each other;
`evidence`; `published`; `statistics` and `design`. A file belongs to the lowest room from which it
can import everything that it needs.
"""
