"""What Valkey does in one step, in Lua. Plain commands of old: they run on Redis as on Valkey."""

TAKE = """
-- Limits of many calls, one after the other: from every bucket of a call its count is taken, or nothing from any.
-- KEYS: the buckets, call by call.
-- ARGV: the time in microseconds (-1: the server's own); then of each call its count, how many buckets it has, and of
-- each of them the rate and the burst.
-- Answers for each call 1 or 0, and what each of its buckets lacks of being full: after it where it passed.
local now, own = tonumber(ARGV[1]), tonumber(ARGV[1]) < 0
if own then
  local time = redis.call('TIME')
  now = time[1] * 1e6 + time[2]
end
local lacks, rates, told = {}, {}, {}
local key, arg = 1, 2
while arg < #ARGV do
  local count, last = tonumber(ARGV[arg]), key + ARGV[arg + 1] - 1
  local passes, at = true, arg + 2
  for place = key, last do
    local name, rate, burst = KEYS[place], tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    if not lacks[name] then
      local lacked, since = string.match(redis.call('GET', name) or '0 0', '(%S+) (%S+)')
      lacks[name] = math.max(0, lacked - math.max(0, now - since) * rate / 1e6)
    end
    lacks[name], rates[name] = math.min(lacks[name], burst), rate
    passes = passes and lacks[name] + count <= burst + 1e-6
    at = at + 2
  end
  told[#told + 1] = passes and '1' or '0'
  for place = key, last do
    local name = KEYS[place]
    lacks[name] = lacks[name] + (passes and count or 0)
    told[#told + 1] = string.format('%.17g', lacks[name])
  end
  key, arg = last + 1, at
end
for name, lack in pairs(lacks) do
  if lack > 0 then
    -- Its time is over when it would be full. A clock that was set back is healed, since a refusal writes, too.
    redis.call('SET', name, string.format('%.17g %.0f', lack, now))
    if own then
      redis.call('PEXPIRE', name, math.ceil(lack / rates[name] * 1000) + 1)
    end
  end
end
return table.concat(told, ' ')
"""

BEAT = """
-- A sign of life of one replica; answers how many there are.
-- KEYS: the replicas. ARGV: this one, and after how many seconds without a sign one is taken for gone.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], 60)
return redis.call('ZCARD', KEYS[1])
"""
