-- wrk: POST the records of $BODIES in turn to $TARGET_PATH with the headers of $HEADERS; print one JSON line.
-- A record is its length in decimal, a line feed, and that many bytes. With $PAUSE_MS every connection waits between
-- its requests, exponentially distributed around that mean: a load below saturation instead of a closed loop.
local requests, turn = {}, 0
local pause_ms = tonumber(os.getenv("PAUSE_MS") or "0")

function init(_)
  local headers = {}
  for name, value in string.gmatch(os.getenv("HEADERS") or "", "([^:\n]+): ([^\n]+)") do headers[name] = value end
  local file = assert(io.open(os.getenv("BODIES"), "rb"))
  for length in function() return file:read("*l") end do
    requests[#requests + 1] = wrk.format("POST", os.getenv("TARGET_PATH"), headers, file:read(tonumber(length)))
  end
  file:close()
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

if pause_ms > 0 then
  function delay()
    return math.floor(-math.log(1 - math.random()) * pause_ms + 0.5)
  end
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format('JSON {"n":%d,"us":%d,"p50":%d,"p99":%d,"errors":%d}\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.status + e.connect + e.read + e.write + e.timeout))
end
