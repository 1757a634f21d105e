"""Text that must not be trained on: sentences of evaluation sets (`exclude` in the catalog), and what is held out of pairs.

1. `letters.py` brings texts to a normal form (letters and digits alone, in lower case) and hashes it, whole and in runs.
2. `evaluation_files.py` reads the sentences of evaluation sets, in the formats that they come in.
3. `entries.py` keeps the hashes in a file of the data folder, 8 bytes each, with where they come from.
4. `lookup.py` finds the lines of a corpus that have one of them. Whoever converts a chunk asks it.
5. `held_out.py` notes the texts that are held out, before any corpus is converted.
6. `changes.py` finds the corpora that it concerns when this is no longer what it was in a folder that a build grows from.
"""
