-- R1. A slot is pushed further each time it is taken, with up to a tenth of jitter so that herds disperse.
math.randomseed(A.seed)
local reply = {}
for _, id in ipairs(call('ZRANGEBYSCORE', PREFIX .. 'publish', '-inf', text(now), 'LIMIT', 0, A.limit)) do
  local e = find(id)
  local count = tonumber(e.publish_count)
  local slot = math.min(SLOT * 2 ^ math.min(count, 10), LONGEST_SLOT) * (1 + math.random() / 10)
  change(id, e, {
    next_publish_at = now + math.floor(slot), publish_count = math.min(count + 1, 100), published_at = now,
  })
  reply[#reply + 1] = {id, e.queue}
end
return reply
