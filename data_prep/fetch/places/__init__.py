"""Texts of programs that stand at the same place in every language: from segments to pairs, held-out pairs and text.

1. `segments`: (page, element) -> language -> text, which a corpus fills from its packages.
2. `splits` holds whole pages out, and what is nearly the same elsewhere (`near_copies`) out of both sides.
3. `selection` makes pairs and text of them, counting what is left out.
4. `writing` has them written and named in the catalog (`data_prep.fetch.pair_files`).
"""
