"""Text and archives for the tests of data_prep."""

from __future__ import annotations

import io
import random
import tarfile

TEXT = "the house is small and green der hund läuft schnell über die brücke el río 猫 坐在 垫子 上 полет"
WORDS = TEXT.split()


def sentences(count: int, seed: int) -> list[str]:
    """Distinct-ish sentences of a few words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) + f" {draw.randint(0, 999)}." for _ in range(count)]


def tarred(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    """A tar archive of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
