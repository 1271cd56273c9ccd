"""What a stage, a verb and a notebook do to one clip: each module introduces rooms to each other for one verb.

Import the modules by name; this one imports none, so that each verb reaches the rooms that it needs and no more.
"""
