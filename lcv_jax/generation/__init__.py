"""Generation tasks as checked values (tasks.py), and long videos segment by segment (long_video.py)."""
