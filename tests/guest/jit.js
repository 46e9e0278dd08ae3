// What a JIT compiles: integer, floating-point, typed arrays, strings, regular expressions, big integers, closures,
// exceptions, generators and WebAssembly, each hot enough to be optimized and with types that change afterwards, so that
// code is thrown away. Prints a checksum for each; those must not depend on how, or where, it was executed.
"use strict";

function mix(h, v) { return Math.imul(h ^ (v | 0), 0x01000193) >>> 0; }
function text(h, s) { for (let i = 0; i < s.length; i++) h = mix(h, s.charCodeAt(i)); return h; }

function random(seed) {
	let s = seed >>> 0;
	return () => { s ^= s << 13; s ^= s >>> 17; s ^= s << 5; return s >>> 0; };
}

const parts = {
	integers() {
		let h = 1, a = 1, b = 1;
		for (let i = 0; i < 3e6; i++) { const t = (a + b) | 0; a = b ^ (i << 3); b = (t >>> 1) + (a % 7 | 0); h = mix(h, b); }
		return h;
	},
	overflow() { // small integers become doubles in the midst
		let h = 1, sum = 0;
		const add = (x, y) => x + y;
		for (let i = 0; i < 2e6; i++) { sum = add(sum, i & 1 ? i : 0x3fffffff); if (sum > 2 ** 50) sum -= 2 ** 50; h = mix(h, sum); }
		return mix(h, sum / 4096);
	},
	floats() {
		let h = 1, x = 0.5;
		for (let i = 1; i < 1e6; i++) { x = Math.sqrt(x * i + 1 / i) - Math.floor(x) * 0.25; h = mix(h, x * 1e6); }
		return h;
	},
	typed_arrays() {
		const n = 1 << 15, f = new Float64Array(n), u8 = new Uint8Array(f.buffer), u16 = new Uint16Array(n), next = random(7);
		let h = 1;
		for (let r = 0; r < 20; r++) {
			for (let i = 0; i < n; i++) { f[i] = next() / 3; u16[i] = f[i]; }
			for (let i = 0; i < n; i++) h = mix(h, u16[i] + u8[(i * 37) & (n * 8 - 1)]);
		}
		return h;
	},
	sorting() {
		const next = random(3), a = Array.from({ length: 60000 }, () => next() % 100000 - 50000);
		let h = 1;
		a.sort((x, y) => x - y);
		for (let i = 1; i < a.length; i++) { if (a[i - 1] > a[i]) throw Error("not sorted"); h = mix(h, a[i]); }
		return h;
	},
	strings() {
		let h = 1, s = "";
		for (let i = 0; i < 60000; i++) { s += String.fromCharCode(97 + i % 26); if (s.length > 500) s = s.slice(250).toUpperCase().toLowerCase(); h = text(h, s.slice(-3)); }
		return text(h, s.split("").reverse().join("").replace(/[aeiou]/g, (c) => c.toUpperCase()));
	},
	regular_expressions() {
		const line = "2026-11-28 key=value; other = \"quoted, text\" <a@b.example> 0x1f ".repeat(400);
		let h = 1;
		for (const m of line.matchAll(/(\w+)\s*=\s*("[^"]*"|\w+)|<([^@>]+)@([^>]+)>|0x([0-9a-f]+)/gi)) h = text(h, m.join("|"));
		return h;
	},
	big_integers() {
		let a = 1n, b = 1n;
		for (let i = 0; i < 4000; i++) [a, b] = [b, a + b];
		if ((a * b) / a !== b || (a * b) % a !== 0n || BigInt.asUintN(64, a) !== a % (1n << 64n)) throw Error("big integers");
		return text(1, (a * b).toString(16));
	},
	objects() { // shapes that change behind inline caches
		const make = [(i) => ({ x: i }), (i) => ({ y: 1, x: i }), (i) => ({ z: 1, y: 2, x: i }), (i) => Object.assign(Object.create({ x: i }), { w: i })];
		let h = 1;
		for (let k = 1; k <= make.length; k++) for (let i = 0; i < 3e5; i++) h = mix(h, make[i % k](i).x);
		const map = new Map();
		for (let i = 0; i < 1e5; i++) map.set("k" + i % 5000, i);
		for (const [k, v] of map) h = mix(text(h, k), v);
		return h;
	},
	exceptions() {
		let h = 1;
		const f = (i) => { if (i % 3 === 0) throw new RangeError("e" + i); return i; };
		for (let i = 0; i < 60000; i++) try { h = mix(h, f(i)); } catch (e) { h = text(h, e.message); } finally { h = mix(h, 5); }
		return h;
	},
	generators() {
		function* walk(n) { if (n > 0) { yield* walk(n - 1); yield n; yield* walk(n - 2); } }
		let h = 1;
		for (const v of walk(18)) h = mix(h, v);
		return h;
	},
	json() {
		let h = 1, v = { a: [1, 2.5, -3e-7, null, true], b: { c: "\u00e9\n\"" } };
		for (let i = 0; i < 12; i++) { v = JSON.parse(JSON.stringify({ v, i, again: i < 10 ? v : 0 })); h = mix(h, JSON.stringify(v).length); }
		return h;
	},
	new_functions() { // code that is compiled all the time
		let h = 1;
		for (let i = 0; i < 3000; i++) h = mix(h, new Function("a", "let s = 0; for (let i = 0; i < 20; i++) s += a * " + i + " ^ i; return s;")(i));
		return h;
	},
	web_assembly() { // (n) => n < 2 ? n : f(n - 1) + f(n - 2)
		const code = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 127, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0,
			10, 30, 1, 28, 0, 32, 0, 65, 2, 72, 4, 127, 32, 0, 5, 32, 0, 65, 1, 107, 16, 0, 32, 0, 65, 2, 107, 16, 0, 106, 11, 11]);
		if (typeof WebAssembly === "undefined") return 832040;
		return new WebAssembly.Instance(new WebAssembly.Module(code)).exports.f(30);
	},
};

for (const [name, run] of Object.entries(parts)) console.log("checksum", name, run());
