"""Cost studies: the time and memory of a step, measured on an idle machine.

`trainables.cost` measures them in separate processes. `cost.py` has the class of the literals,
`plan.py` selects the commands of the benchmark, `execute.py` runs them, and `report.py` compares
their results with the published costs.
"""
