"""Photographs into training rows: `train/prepare.py`.

`gather` lists the pictures of a folder or a dataset with their persons and captions, `examine` finds the
person in one picture, `work` does that for all of them, in parallel and resumably, `pairs` joins pictures of
one person, `shards` writes the rows with their card, `prepare` is the whole.
"""
