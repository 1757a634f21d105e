"""MultiUN (Eisele & Chen 2010): OPUS's zip (https://opus.nlpl.eu/MultiUN), or a tar archive with two aligned plain
texts ending in .<xx> and .<yy>. Both are Moses inside.
"""

from data_prep.readers.moses import read

__all__ = ["read"]
