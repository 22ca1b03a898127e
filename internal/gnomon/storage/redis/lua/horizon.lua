-- When to wake, and whether the mark that `open` left is gone: then so is everything else. It is put back.
end_holds(1000)
local at = nil

local function consider(moment)
  if moment then
    at = math.min(at or tonumber(moment), tonumber(moment))
  end
end

local function consider_first(index)
  consider(call('ZRANGE', PREFIX .. index, 0, 0, 'WITHSCORES')[2])
end

local served = served_jobs()
if served then
  for _, id in ipairs(served) do
    consider(call('ZSCORE', PREFIX .. 'due', id))
    consider_first('publish:' .. id)
  end
else
  consider_first('due')
  consider_first('publish')
end
consider_first('resume')
return {text(now), at and text(at) or false, call('SETNX', PREFIX .. 'format', A.format)}
