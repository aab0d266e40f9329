"""The pieces of the Space (`app.py`): nothing else of the package imports them, and only they import gradio.

settings    what a user can set: ranges, checks, the text inside a PNG (no gradio)
measures    ID similarity and pose accuracy of a picture, with the networks' names (no gradio)
provenance  marks that say "generated": texts in the PNG, an invisible watermark (no gradio)
studio      the model behind the page: find, fit, draw with progress and stop (no gradio)
views       what was found, thumbnails, progress, strips, as pictures and HTML (no gradio)
stops       which drawings of which visitors are running (no gradio)
zero        ZeroGPU's decorator, where there is one (no gradio)
editor      the draggable skeleton
inputs      a picture input that leaves reading to `bolid.pictures`
handlers    from the page's values to the studio, and mistakes to `gr.Error`
drawings    what the drawing buttons do: generate, vary, other poses, sweep
results     the chosen picture: details, comparison, order
controls    the settings' controls
sections    what stands in the page's parts
page        the parts side by side, and what happens on which event
endpoints   /generate and /pose_preview for clients
serve       the page with its queue, on an address
"""
