"""Aligning an encoder that there is: sentence pairs in, the same encoder with better translations out.

1. `inputs`: what files of pairs and text are, as a catalog.   2. `choices`: what is trained, how long, and why, as a recipe.
3. `measures`: retrieval and gain, before and after.           4. `report`: both as a table and on the model card.

In: a Hugging Face encoder and pairs. Out: a folder with data, run, model and table. Start reading at line, which does all
this in turn, then choices.
"""
