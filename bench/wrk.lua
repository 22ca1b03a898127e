-- Sends the requests of a file over and over, with a key. In each of its lines: method, path and body, with tabs between.

local prepared, sent = {}, 0

function init(args)
    local headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. args[2] }
    for line in io.lines(args[1]) do
        local method, path, body = line:match("^(.-)\t(.-)\t(.*)$")
        table.insert(prepared, wrk.format(method, path, headers, body ~= "" and body or nil))
    end
end

function request()
    sent = sent + 1
    return prepared[(sent - 1) % #prepared + 1]
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        'FIGURES {"requests": %d, "seconds": %f, "refused": %d, "broken": %d, "p50_ms": %f, "p99_ms": %f}',
        summary.requests, summary.duration / 1e6, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
    ))
end
