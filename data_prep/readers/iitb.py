"""IIT Bombay English-Hindi (https://www.cfilt.iitb.ac.in/iitb_parallel/): parallel.tgz with parallel/IITB.en-hi.en and
parallel/IITB.en-hi.hi, aligned by line: Moses in a tar archive.
"""

from data_prep.readers.moses import read

__all__ = ["read"]
