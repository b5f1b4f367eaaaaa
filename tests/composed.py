"""A few preconditioners with other update rules, for the tests of all optimizers."""

COMPOSED = ("nysact-s+orthogonal", "nysact-g+adam", "foof+sign", "kfac+orthogonal")
