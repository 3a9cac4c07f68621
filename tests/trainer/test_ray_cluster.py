"""A cluster that is not there."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from contracts.errors import ConfigError
from trainer import ray_cluster


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "here:there"])
def test_an_address_where_no_cluster_answers_is_one_sentence(address: str) -> None:
    """Before Ray is asked, which would try for ever."""
    ray = SimpleNamespace(is_initialized=lambda: False)
    expected = f"no Ray cluster at {re.escape(address)}.*ray start"
    with pytest.raises(ConfigError, match=expected), ray_cluster.cluster(ray, address):
        pass
