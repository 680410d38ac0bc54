#!/usr/bin/env node
// solc for forge on a machine that has none: the pinned WebAssembly build behind the two calls that forge makes,
// `--version` and `--standard-json`. Paths that forge passes besides (--base-path and the like) are not needed: all sources come in the JSON.
"use strict";

const solc = require("solc");

if (process.argv.includes("--version")) {
  process.stdout.write(`solc, the solidity compiler commandline interface\nVersion: ${solc.version()}\n`);
} else if (process.argv.includes("--standard-json")) {
  const input = require("fs").readFileSync(0, "utf8");
  process.stdout.write(solc.compile(input));
} else {
  process.stderr.write("solc.js answers --version and --standard-json only\n");
  process.exitCode = 2;
}
