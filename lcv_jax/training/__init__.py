"""The trainer behind train.py: its config, the train state, one step, and what is written along the way."""
