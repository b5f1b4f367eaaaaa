"""Known bugs ("mutants"). Each is planted in a copy of the repository, where its test must fail.

    python -m tests.mutants [WORD ...]      all mutants, or those that contain every WORD

`<package>/<topic>.toml` holds the mutants of one package. The header of an entry describes the bug.
Fields:

    function    its place: `MovingAverage.commit`, `ENDED` (an assignment), `Norms` (a class)
    old, new    text that occurs once in the source of `function`, and its replacement
    test        the test that must fail: `test_name` or `test_name[parameters]`

Names are looked up in the whole package, and tests in `tests/`, so that code can move to another
module without a change here. A name with several definitions needs its module: `levels:_judge`,
`test_ekfac_steve:test_name`. `compiled:` stands for the whole module.
"""
