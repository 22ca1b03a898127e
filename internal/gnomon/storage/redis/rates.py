"""The buckets of limits on requests, where several processes of the API take from them."""

import redis

from gnomon.job.errors import Unavailable
from gnomon.job.rates import Rate, Taken
from gnomon.storage.redis.client import connect, translated

# One caller is one key: in a cluster they spread.
PREFIX = "gnomon:requests:1:"
PATIENCE = 0.2  # a request waits no longer than this to be counted
# job/rates.py's `take`: the value is when the bucket is full again, in microseconds of the server's clock. A number
# that long would lose digits where Lua writes it by itself.
TAKE = """
local cost, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local debt = math.min(math.max(tonumber(redis.call('GET', KEYS[1]) or now) - now, 0), most)
if debt + cost > most then return {0, debt} end
debt = debt + cost
redis.call('SET', KEYS[1], string.format('%.0f', now + debt), 'PX', math.ceil(debt / 1000))
return {1, debt}
"""


class RedisBuckets:
    """SharedBuckets on Redis or Valkey. A bucket is gone as soon as it is full again."""

    def __init__(self, url: str, *, ca_file: str | None = None) -> None:
        """Connects when first used. `ca_file`: who vouches for it. Raises ConfigurationError for a URL of no Redis."""
        self._client = connect(url, answer_seconds=PATIENCE, ca_file=ca_file)
        self._script = self._client.register_script(TAKE)

    def take(self, caller: str, rate: Rate) -> Taken:
        """By the server's clock, in one script."""
        with translated():
            try:
                allowed, debt = self._script(keys=[PREFIX + caller], args=[rate.cost, rate.most])
            except redis.ResponseError as error:
                raise Unavailable(f"Redis does not count requests: {type(error).__name__}") from error
        return Taken(allowed=bool(allowed), debt=int(debt))

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()
