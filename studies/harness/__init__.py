"""What runs on the driver: plan, execute, track and report an artefact, a table or figure of a paper.

Each folder is a room and imports lower rooms only: `command`; `kinds`; `cluster`, `tracking` and `report`, which do not
import each other; `evidence`; `published`; `statistics` and `design`. A file belongs to the lowest room that has all
that it needs.
"""
