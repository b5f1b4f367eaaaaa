"""Cost studies, which compare the time and memory of a step of each optimizer on an idle machine.

`trainables.cost` is the benchmark that measures a step. `cost.py` has the class of the literals,
`plan.py` selects the commands of the benchmark, `execute.py` runs them in separate processes, and
`report.py` compares their results with the published costs.
"""
