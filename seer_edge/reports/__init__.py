"""Reports: from run folders to one page with figures, tables and their CSV files.

Reads run folders and writes none of them. May import `runs` and `config`. Imports no torch, and matplotlib, jinja2 and
scipy only when a report is made.
Start with `build.py`. `reading.py` reads runs, `scores.py` and `statistics.py` compute the tables, `figures.py`
chooses what is drawn, `drawing.py` draws it, `page.py` fills `page.html`.
"""
