"""MLflow as a view of the output folder, written by the driver. The only room that imports mlflow.

Each kind of artefact returns one of the views in `views.py`. `background.py` sends views during the
training, `sync.send_all` sends the views of an output folder, and `ui.py` starts MLflow's UI. This
room may import `evidence` and the rooms below it. `view.py` and `background.py` must load quickly,
because every command imports them.
"""
