-- The next ids of an index, newest first, that fit; after `scan` looks it answers where to go on.
local ids = call('ZREVRANGEBYLEX', PREFIX .. A.index, A.max, A.min, 'LIMIT', 0, A.scan)
local reply = {#ids == A.scan and ids[#ids] or ''}
for _, id in ipairs(ids) do
  local e = fields(execution_key(id), {'state', 'trigger', 'scheduled_at'})
  local at = tonumber(e.scheduled_at or '0')
  local fits = (not A.states or A.states[e.state]) and (not A.trigger or A.trigger == e.trigger)
  if e.state and fits and at >= (A.since or 0) and at <= (A['until'] or at) then
    reply[#reply + 1] = id
  end
end
return reply
