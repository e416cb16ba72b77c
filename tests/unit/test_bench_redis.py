# SPDX-License-Identifier: Apache-2.0
"""scripts/guest_redis.py: which page holds which value, and how many requests went there."""

import signal
from collections.abc import Iterator

import numpy as np
import pytest
from guest_redis import Redis, calls, encoded, shares_of


def test_the_server_tells_how_often_each_command_was_called() -> None:
    told = (
        "# Commandstats\r\n"
        "cmdstat_config|get:calls=4,usec=20,usec_per_call=5.00,rejected_calls=0,failed_calls=0\r\n"
        "cmdstat_get:calls=402216,usec=637574,usec_per_call=1.59,rejected_calls=0,failed_calls=0\r\n"
    )
    assert calls(told) == {"config|get": 4, "get": 402216}
    assert calls("# Commandstats\r\n") == {}


def test_a_command_is_the_lengths_and_the_words() -> None:
    assert encoded(("GET", "key:1")) == b"*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n"


def test_hot_keys_get_their_part_of_the_requests_for_every_key_as_well() -> None:
    assert shares_of(keys=4, hot_keys=1, hot_calls=60, every_calls=40) == pytest.approx([0.7, 0.1, 0.1, 0.1])
    assert not shares_of(keys=4, hot_keys=1, hot_calls=0, every_calls=0).any()  # nobody has asked yet


@pytest.fixture
def redis() -> Iterator[Redis]:
    server = Redis(mib=4, seed=1)
    yield server
    server.stop()


@pytest.mark.needs("redis")
def test_each_value_has_a_page_and_the_hot_ones_lie_scattered(redis: Redis) -> None:
    assert np.unique(redis.vpn).size == redis.keys == 1024
    places = np.argsort(np.argsort(redis.vpn))[: redis.hot_keys]
    assert set(places // 128) == set(range(8))  # some in each eighth of the memory


@pytest.mark.needs("redis")
def test_requests_are_counted_until_the_server_is_halted(redis: Redis) -> None:
    redis.load()
    assert redis.accesses() == 0
    redis.send(signal.SIGCONT)
    while not 0 < redis.page_shares[-1] < redis.page_shares[0]:
        pass
    assert "keyspace_misses:0" in redis.ask("INFO", "stats")  # the benchmark names its keys as they were set
    redis.send(signal.SIGSTOP)
    assert redis.page_shares.sum() == pytest.approx(1)
    assert redis.accesses() == redis.accesses() > 0  # nobody is asked any more
