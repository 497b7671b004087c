"""Control in real time: one thread steps the environment at a fixed rate, while another one learns (`--hz`).

`control.py` has the control thread, `session.py` the learner's side, and `feed.py` what goes from one to the other.
May import `agents`, `config`, `envs`, `runs` and `training`.
"""
