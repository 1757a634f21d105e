"""Raw corpora -> token shards: read, clean, tokenize, write (docs/data_format.md)."""
