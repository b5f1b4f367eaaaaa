"""Compare two optimizers step by step, and name the conventions in which they differ.

`compare.py` has the function `precond.audit`. Both optimizers train copies of one small model
(`problem.py`) in float64. Before each step, the second copy gets the weights of the first
(`running.py`), so that both optimizers see the same weights and the same gradients, and a
difference of a step does not grow in later steps. Then the differences are explained:

    conventions.py      the members of a family of optimizers that differ in their conventions
    catalogue.py        the conventions, with a sentence for each choice
    reference.py        a reference implementation of SGD, Adam, RMSprop, Adagrad, Lion and sign momentum
    estimation.py       estimates hyperparameters from the updates
    fitting.py          searches for the conventions that reproduce the updates of an optimizer
    directions.py       the directions of methods that are not in the reference, and their changes
    explanation.py      the differences between the conventions of the two sides
    undistinguished.py  conventions that the run cannot distinguish
    report.py           the result, as text and JSON

The package imports only torch and `precond`; `sides.py` reads the descriptions of the optimizers.
"""
