"""What Valkey does in one step, in Lua. Plain commands of old: they run on Redis as on Valkey."""

TAKE = """
-- Limits of many calls, one after the other: from every bucket of a call its count is taken, or nothing from any.
-- KEYS: the buckets, call by call.
-- ARGV: the time in microseconds (-1: the server's own); then of each call its count, how many buckets it has, and of
-- each of them the rate, the burst, and whether it lends (1 or 0): then a call larger than the burst passes where one
-- item would, and what the bucket lacks beyond the burst is a debt.
-- A negative count is given back to each bucket, as far as that lacks it.
-- A bucket is kept as what it lacked, when, and its burst at that time: a smaller burst doesn't cancel a debt.
-- Answers for each call 1 or 0, and what each of its buckets lacks of being full: after it where it passed.
local now, own = tonumber(ARGV[1]), tonumber(ARGV[1]) < 0
if own then
  local time = redis.call('TIME')
  now = time[1] * 1e6 + time[2]
end
local lacked, since, held, changed, told = {}, {}, {}, {}, {}
local trifle = 1e-6
local key, arg = 1, 2
while arg < #ARGV do
  local count, last = tonumber(ARGV[arg]), key + ARGV[arg + 1] - 1
  local passes, lacks, at = true, {}, arg + 2
  for place = key, last do
    local name, rate, burst, lends = KEYS[place], tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2] == '1'
    if not lacked[name] then
      local found, when, of = string.match(redis.call('GET', name) or '0 0', '(%S+) (%S+) ?(%S*)')
      lacked[name], since[name], held[name] = tonumber(found), tonumber(when), tonumber(of) or burst
      if since[name] > now then -- the clock was set back: what the bucket lacked, it lacks now
        since[name], changed[name] = now, rate
      end
    end
    local lack = math.max(0, lacked[name] - (now - since[name]) * rate / 1e6)
    if lack > burst and held[name] > burst then -- it was made smaller, and counts as that from now on
      lack = lack - (math.min(held[name], lack) - burst)
      lacked[name], since[name], held[name], changed[name] = lack, now, burst, rate
    end
    lacks[place] = lack
    local needed = (lends and count > burst) and 1 or count
    passes = passes and (count < 0 or lack + needed <= burst + trifle)
    at = at + 3
  end
  told[#told + 1] = passes and '1' or '0'
  for place = key, last do
    if passes then
      local given = arg + 2 + 3 * (place - key)
      local name, rate, burst = KEYS[place], tonumber(ARGV[given]), tonumber(ARGV[given + 1])
      lacks[place] = math.max(0, lacks[place] + count)
      lacked[name], since[name], held[name], changed[name] = lacks[place], now, burst, rate
    end
    told[#told + 1] = string.format('%.17g', lacks[place])
  end
  key, arg = last + 1, at
end
for name, rate in pairs(changed) do
  redis.call('SET', name, string.format('%.17g %.0f %.17g', lacked[name], now, held[name]))
  if own then -- its time is over when it is full, and any debt paid; a time that is given is not the server's
    redis.call('PEXPIRE', name, math.ceil(lacked[name] / rate * 1000) + 1)
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
