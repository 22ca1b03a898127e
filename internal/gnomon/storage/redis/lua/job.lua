-- A living job by id or name, and the clock by which to decide what becomes of it.
local id = A.id or call('HGET', PREFIX .. 'names', A.name)
if not id or not find_job(id) then
  return false
end
return {text(now), shown_job(id)}
