local delay, spread = A.delay or 0, A.spread or 0
math.randomseed(A.seed or 0)
for _, id in ipairs(A.ids) do
  local e = find(id)
  if e and e.state == 'PENDING' then
    local moment = now + delay + math.floor(math.random() * spread)
    change(id, e, {next_publish_at = math.max(moment, tonumber(e.available_at)), publish_count = 0})
  end
end
return 0
