"""Control in real time: one thread steps the environment at a fixed rate, while another one learns (`--hz`).

`control.py` has the control thread, `session.py` the learner's side, and `feed.py` what goes from one to the other.
`envs/paced.py` limits the actions and brings the environment to rest.
May import `agents`, `config`, `envs`, `machine` and `training`.
"""
