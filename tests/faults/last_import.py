"""Imported last by the server of `runs.py`: the processes that it forks do not collect the imported modules as garbage.

A collection would touch and so copy the memory of all modules, which takes longer than most of the tests' runs.
"""

import gc

gc.collect()
gc.freeze()
