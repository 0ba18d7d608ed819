"""The same four algorithms for Redis: one script, one round trip for all limits of a stage.

Rules of this file: what is said here is what algorithms.py says, number by number. The time is the server's, so that
gateways whose clocks differ count alike. All keys of a call are in one slot of a cluster, for they bear the same tag;
each ends by itself when it says nothing any more. Requests that come at once are asked about together, one after the other;
for each of them everything is decided before anything is written.

KEYS: one for each limit. ARGV: seven for each: word, its two numbers, the largest cost that can pass, the cost, 1 where
the limit is binding, and the number of the request. The answer has three integers for each: microseconds until the question
passes (0: it has, -1: never), units left, microseconds until all are back.
"""

from __future__ import annotations

from typing import Final

from gateway.limits.algorithms import SLACK, SLOTS

EPOCH: Final = 1_767_225_600
"""The first of January 2026, UTC. Counted from there, a number has room for billionths of a second."""
WORDS: Final = 7
"""Of ARGV, for each limit."""

SCRIPT: Final = f"""
local clock = redis.call('TIME')
local EPOCH, SLACK, DUST, SLOTS = {EPOCH}, {SLACK}, 1e-9, {SLOTS}
local now = tonumber(clock[1]) - EPOCH + tonumber(clock[2]) / 1000000

local function first_of_month(day)
  local z = day + EPOCH / 86400 + 719468
  local doe = z % 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524)
    - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local month = math.floor((5 * doy + 2) / 153)
  return day - (doy - math.floor((153 * month + 2) / 5))
end

local function window(at, period)
  if period > 0 then
    local start = math.floor(at / period) * period
    return start, start + period
  end
  local first = first_of_month(math.floor(at / 86400))
  return first * 86400, first_of_month(first + 32) * 86400
end

local take = {{}}

function take.gcra(s, interval, tolerance, most, cost)
  local back = math.max(s[1] or now, now)
  local later = back + cost * interval
  local spare = tolerance + now - later
  if spare >= -SLACK then
    return {{later}}, 0, (spare + SLACK / 2) / interval, later - now
  end
  local wait = cost > most and -1 or -spare
  return nil, wait, (spare + later - back + SLACK / 2) / interval, back - now
end

function take.token_bucket(s, rate, burst, most, cost)
  local tokens = most
  if s[1] then tokens = math.min(most, s[1] + math.max(0, now - s[2]) * rate) end
  local early, wait = SLACK * rate, 0
  if tokens + early >= cost then
    tokens = tokens - cost
  else
    wait = cost > most and -1 or (cost - tokens) / rate
  end
  return {{tokens, now}}, wait, tokens + early / 2, (most - tokens) / rate
end

function take.fixed_window(s, amount, period, most, cost)
  local first, last = window(now + SLACK, period)
  local used, wait = 0, 0
  if s[1] and first <= s[1] and s[1] < last + last - first then
    if s[1] > first then first, last = window(s[1], period) end
    used = s[2]
  end
  local left = math.max(last - now, SLACK)
  if used + cost <= most + DUST then
    used = used + cost
  else
    wait = cost > most and -1 or left
  end
  return {{first, used}}, wait, most - used + DUST, left
end

local function gone(s, excess, slot)
  for age = SLOTS, 0, -1 do
    excess = excess - s[2 + age]
    if excess <= DUST then return (s[1] - age + SLOTS + 1) * slot - now end
  end
  return -1
end

function take.sliding_window(s, amount, slot, most, cost)
  local index = math.floor((now + SLACK) / slot)
  local passed = s[1] and math.max(0, index - s[1]) or SLOTS + 1
  local new, total, wait = {{s[1] and passed == 0 and s[1] or index}}, 0, 0
  for age = 0, SLOTS do
    local used = age >= passed and s[2 + age - passed] or 0
    new[2 + age] = used
    total = total + used
  end
  if total + cost <= most + DUST then
    new[2] = new[2] + cost
    total = total + cost
  else
    wait = gone(new, total + cost - most, slot)
  end
  return new, wait, most - total + DUST, total > 0 and gone(new, total, slot) or 0
end

local answer, states, passes = {{}}, {{}}, true

local function settle()
  if passes then
    for key, kept in pairs(states) do
      local words = {{}}
      for n, number in ipairs(kept[1]) do words[n] = string.format('%.17g', number) end
      redis.call('SET', key, table.concat(words, ' '), 'PX', kept[2])
    end
  end
  states, passes = {{}}, true
end

for i, key in ipairs(KEYS) do
  local a, stored = (i - 1) * {WORDS}, {{}}
  if i > 1 and ARGV[a + 7] ~= ARGV[a + 7 - {WORDS}] then settle() end
  for word in string.gmatch(redis.call('GET', key) or '', '%S+') do
    stored[#stored + 1] = tonumber(word)
  end
  local state, wait, left, back = take[ARGV[a + 1]](stored, tonumber(ARGV[a + 2]),
    tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5]))
  if wait == 0 then
    states[key] = {{state, math.ceil(back * 1000) + 1000}}
  elseif ARGV[a + 6] == '1' then
    passes = false
  end
  answer[#answer + 1] = wait < 0 and -1 or math.ceil(wait * 1000000)
  answer[#answer + 1] = math.max(0, math.floor(left))
  answer[#answer + 1] = math.ceil(back * 1000000)
end
settle()
return answer
"""
