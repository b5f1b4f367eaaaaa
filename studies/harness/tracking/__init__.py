"""MLflow as a view of the output folder, written by the driver. The only room that imports mlflow.

Each kind of artefact returns one of the views in `views.py`. `background.py` sends views beside the training,
`view.everything` those of a whole output folder, and `ui.py` opens MLflow's pages. May import `design`, `statistics`
and `evidence`; `view.py` and `background.py` load quickly, since every command imports them.
"""
