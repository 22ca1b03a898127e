-- When to wake, and whether the mark that `open` left is gone: then so is everything else. It is put back.
end_holds(1000)
local at = nil
for _, name in ipairs({'due', 'resume', 'publish'}) do
  local first = call('ZRANGE', PREFIX .. name, 0, 0, 'WITHSCORES')
  if first[2] then
    at = math.min(at or tonumber(first[2]), tonumber(first[2]))
  end
end
return {text(now), at and text(at) or false, call('SETNX', PREFIX .. 'format', A.format)}
