-- R1. A slot is pushed further each time it is taken, with up to a tenth of jitter so that herds disperse.
math.randomseed(A.seed)
local reply = {}

local function take_slot(id)
  local e = find(id)
  local count = tonumber(e.publish_count)
  local slot = math.min(SLOT * 2 ^ math.min(count, 10), LONGEST_SLOT) * (1 + math.random() / 10)
  change(id, e, {
    next_publish_at = now + math.floor(slot), publish_count = math.min(count + 1, 100), published_at = now,
  })
  reply[#reply + 1] = {id, e.queue}
end

local function republish(index)
  for _, id in ipairs(call('ZRANGEBYSCORE', index, '-inf', text(now), 'LIMIT', 0, A.limit - #reply)) do
    take_slot(id)
  end
end

local served = served_jobs()
if served then
  for _, job_id in ipairs(served) do
    republish(PREFIX .. 'publish:' .. job_id)
  end
else
  republish(PREFIX .. 'publish')
end
return reply
