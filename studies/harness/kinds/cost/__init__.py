"""Cost studies: time and memory of a step, measured by `trainables.cost` in separate processes on an idle machine.

`cost.py` is the literal, `plan.py` the benchmark's commands, `execute.py` runs them, `report.py` presents their files
beside the published costs.
"""
