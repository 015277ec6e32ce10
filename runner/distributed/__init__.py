"""One run on several processes: the group that they form, and what needs the whole batch of them.

`Ranks` is all that other packages know of it. May import system and optimizers.
"""
