from __future__ import annotations

from tests.downstream_fixtures import real_data, tiny_encoder

__all__ = ["real_data", "tiny_encoder"]
