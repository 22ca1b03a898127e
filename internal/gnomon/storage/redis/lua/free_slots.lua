-- R1, when the broker lost its messages: a part of those published before a moment, past the first `passed`, which are
-- due already. Answers how many were looked at and freed, and the clock, which the first call asks for.
local before = A.before or now
local ids = call('ZRANGEBYSCORE', PREFIX .. 'published', '-inf', '(' .. text(before), 'LIMIT', A.passed, A.limit)
local freed = 0
for _, id in ipairs(ids) do
  local e = find(id)
  if tonumber(e.next_publish_at) > now then
    change(id, e, {next_publish_at = now, publish_count = 0})
    freed = freed + 1
  end
end
return {#ids, freed, text(before)}
