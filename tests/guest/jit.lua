-- Traces of LuaJIT: loops over integers, doubles, 64-bit integers of its FFI, tables, strings, closures, coroutines and
-- errors, with side exits. Prints a checksum for each; with and without its compiler they must be the same.
local bit, ffi = require("bit"), require("ffi")
local function mix(h, v) return bit.tobit(bit.bxor(bit.rol(h, 5), v) * 31 % 4294967296) end
local function text(h, s) for i = 1, #s do h = mix(h, s:byte(i)) end return h end

local parts = {
	{ "integers", function()
		local h, a, b = 1, 1, 1
		for i = 1, 3e6 do local t = bit.tobit(a + b); a = bit.bxor(b, bit.lshift(i, 3)); b = bit.tobit(bit.rshift(t, 1) + a % 7); h = mix(h, b) end
		return h
	end },
	{ "doubles", function()
		local h, x = 1, 0.5
		for i = 1, 1e6 do x = math.sqrt(x * i + 1 / i) - math.floor(x) * 0.25; h = mix(h, math.floor(x * 1e5)) end
		return h
	end },
	{ "wide", function()
		local h, x = 1, 0x9e3779b97f4a7c15ULL
		for i = 1, 1e6 do x = x * 6364136223846793005ULL + i; h = mix(h, tonumber(bit.band(x / 65536ULL, 0xffffULL))) end
		return h
	end },
	{ "tables", function()
		local h, t, s = 1, {}, 12345
		for i = 1, 60000 do s = (s * 1103515245 + 12345) % 2147483648; t[i] = s end
		table.sort(t)
		for i = 2, #t do assert(t[i - 1] <= t[i]); h = mix(h, t[i]) end
		for i = 1, 1e5 do t["k" .. i % 3000] = i end
		for i = 0, 2999 do h = mix(h, t["k" .. i]) end
		return h
	end },
	{ "strings", function()
		local h, s = 1, ("key = value, number=42; "):rep(500)
		for k, v in s:gmatch("(%w+)%s*=%s*(%w+)") do h = text(h, k .. v) end
		return text(h, s:gsub("%d+", function(n) return n * 2 end):reverse():sub(1, 100))
	end },
	{ "memory", function()
		local h, n = 1, 65536
		local a = ffi.new("struct { uint8_t b; double d; int16_t s; }[?]", n)
		for r = 1, 10 do
			for i = 0, n - 1 do a[i].b = i * r; a[i].d = i / r; a[i].s = i - r * 3 end
			for i = 0, n - 1 do h = mix(h, a[i].b + a[i].s + math.floor(a[i].d)) end
		end
		return h
	end },
	{ "coroutines", function()
		local h = 1
		local function walk(n) if n > 0 then walk(n - 1); coroutine.yield(n); walk(n - 2) end end
		for v in coroutine.wrap(function() walk(20) end) do h = mix(h, v) end
		return h
	end },
	{ "errors", function()
		local h = 1
		for i = 1, 1e5 do
			local ok, e = pcall(function(n) if n % 3 == 0 then error("e" .. n, 0) end return n end, i)
			h = ok and mix(h, e) or text(h, e)
		end
		return h
	end },
	{ "types", function() -- a trace is left when the type changes
		local h, v = 1, { 1, 2.5, "3", 4 }
		for i = 1, 1e6 do h = mix(h, math.floor(v[i % 4 + 1] * 2)) end
		return h
	end },
}
for _, p in ipairs(parts) do print("checksum", p[1], p[2]()) end
