"""Who may do what in Redis, word by word."""

from everesthood.adapters.redis.acl import bell_rules, worker_rules


def test_a_worker_may_do_this_and_nothing_else():
    """The rights of a worker's user are written down here a second time, so that no change slips in."""
    expected = (
        "agi-u reset on #d ~agi:u:* resetchannels -@all +hello +auth +ping +select +client|setname "
        "+multi +exec +watch +unwatch +lpush +rpush +brpop +llen +hset +hget +hdel +zadd +zrem +zrange "
        "+zrangebyscore +zrevrangebyscore +sadd +srem +smembers +get +set +del +expire +pexpire +evalsha "
        "+script|load"
    )

    assert " ".join(worker_rules("u", "d")) == expected


def test_who_rings_may_do_this_and_nothing_else():
    """Web and gateway can ring and settle; they can read no key and list none."""
    expected = (
        "bell reset on #d ~agi:* resetchannels -@all +hello +auth +ping +select +client|setname "
        "+evalsha +script|load +set +del +llen +lpush"
    )

    assert " ".join(bell_rules("d")) == expected
