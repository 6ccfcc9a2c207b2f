"""Calls a function of a JavaScript program: what is put behind the program, and the call it reads."""

from __future__ import annotations

import json

from rewardmesh.verifier.code.suite import CallTest

CALL = r"""
;(() => {
  const fs = require("fs")
  const call = JSON.parse(fs.readFileSync("call.json", "utf8"))
  const encode = (value, depth) => {
    if (depth > 90) throw new TypeError("the value is nested too deeply")
    if (value === null || value === undefined || typeof value === "boolean" || typeof value === "string") return value ?? null
    if (typeof value === "bigint") return ["i", (value < 0n ? "-" : "") + "0x" + (value < 0n ? -value : value).toString(16)]
    if (typeof value === "number") return Number.isFinite(value) ? value : ["f", String(value).replace("Infinity", "inf")]
    if (Array.isArray(value) || ArrayBuffer.isView(value)) return ["l", Array.from(value, (one) => encode(one, depth + 1))]
    if (value instanceof Set) return ["s", Array.from(value, (one) => encode(one, depth + 1))]
    const pairs = value instanceof Map ? [...value] : Object.entries(value)
    return ["d", pairs.map(([key, one]) => [encode(key, depth + 1), encode(one, depth + 1)])]
  }
  let found
  try { found = eval(call.name) } catch (error) { found = module.exports[call.name] }
  const tell = (report) => fs.writeSync(Number(process.env.REPORT_FD), JSON.stringify(report))
  if (typeof found !== "function") return tell({ error: "NameError", message: `name '${call.name}' is not defined`, line: 0 })
  Promise.resolve(found(...call.args)).then((value) => tell({ value: encode(value, 0) }))
})()
"""


def call_file(test: CallTest) -> bytes:
    """The call as the program reads it. Raises ValueError for keyword arguments, which JavaScript does not have."""
    if test.kwargs:
        raise ValueError("kwargs: JavaScript has no keyword arguments")
    return json.dumps({"name": test.function, "args": test.args}).encode()
