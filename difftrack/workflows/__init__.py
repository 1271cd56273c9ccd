"""Work on one clip that stages, verbs and notebooks share: each module combines rooms for one verb.

Import the modules by name; this one imports none, so that each verb only reaches the rooms that it needs.
"""
