"""Tables and figures of the paper as sweeps and pages. Each has a file NAME.toml, a sweep with an entry `about`.

May import sweeps, reports and config. Imports no torch.
Start with `description.py` (the files), then `scaling.py` (shorter runs) and `page.py` (the paper beside the runs).
"""
