"""MLflow as a view of the output folder, written by the driver. The only room that imports mlflow.

Each kind of artefact returns one of the views in `view.py`. `background.py` sends views beside the training,
`resync.py` sends those of a whole output folder, `ui.py` opens MLflow's pages. Nothing here knows a kind of artefact.
May import `design`, `evidence` and `report`; `view.py` and `background.py` load quickly, because every command does.
"""
