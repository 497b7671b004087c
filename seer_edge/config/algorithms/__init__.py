"""One file for each agent: the sizes and costs of its networks, and its entry for the registry. No torch.

`algorithm.py` says what the rest of the program needs to know of any agent.
"""
