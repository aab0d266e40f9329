"""Estimators for photographs: person, key-points, parts, face, vision encoder and captions by public models.

`choice.open_estimator` is the door; what it gives fits the pipelines' `estimator=` and `train/prepare.py`
alike. `catalogue` knows the models by name, `networks`, `parsing`, `openpose` and `faces` run them, `photo`
puts them together. Nothing is loaded before it is used, and nothing is kept outside the objects a caller
holds.
"""
