-- What a worker that hears nothing should have heard, of the first thousand that may be so in each queue.
local count = 0
for _, queue in ipairs(A.queues) do
  local ids = call(
    'ZRANGEBYSCORE', PREFIX .. 'repeated:' .. queue, '(' .. text(now - A.oldest), text(now - A.newest), 'LIMIT', 0, 1000
  )
  for _, id in ipairs(ids) do
    local next_publish_at = tonumber(call('HGET', execution_key(id), 'next_publish_at'))
    if next_publish_at > now then
      count = count + 1
    end
  end
end
return math.min(count, 1000)
