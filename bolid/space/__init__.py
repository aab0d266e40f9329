"""The pieces of the Space (`app.py`): nothing else of the package imports them, and only they import gradio.

settings   what a user can set: ranges, checks, the text inside a PNG (no gradio)
studio     the model behind the page: find, fit, draw with progress and stop (no gradio)
views      what was found, thumbnails, progress, as pictures and HTML (no gradio)
editor     the draggable skeleton
handlers   from the page's values to the studio, and mistakes to `gr.Error`
page       the layout and its events
endpoints  /generate and /pose_preview for clients
"""
