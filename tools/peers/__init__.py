"""Other ways to learn and to store, measured beside this project."""
