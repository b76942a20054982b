/* Put NiiVue into built/: its one file, as npm's pinned package has it, and the licences of all that is in it. */
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const modules = join(here, "node_modules");
const niivue = join(modules, "@niivue/niivue");
const { version } = JSON.parse(readFileSync(join(niivue, "package.json"), "utf8"));

function refuse(sentence) {
  console.error(`make viewer: ${sentence}`);
  process.exit(1);
}

function packages() {                    // all that npm installed, but NiiVue
  return readdirSync(modules)
    .filter((name) => !name.startsWith("."))
    .flatMap((name) => (name.startsWith("@") ? readdirSync(join(modules, name)).map((own) => `${name}/${own}`) : [name]))
    .filter((name) => name !== "@niivue/niivue")
    .sort();
}

function licence(name) {
  const file = readdirSync(join(modules, name)).find((own) => /^licen[cs]e/i.test(own));
  if (!file) refuse(`expected a licence in the package ${name}, found none`);
  return readFileSync(join(modules, name, file), "utf8").trim();
}

function notices() {                     // of code by others that stands in NiiVue's own sources
  const found = new Set();
  for (const name of readdirSync(join(niivue, "src"), { recursive: true })) {
    if (!name.endsWith(".ts")) continue;
    const comments = readFileSync(join(niivue, "src", name), "utf8").match(/\/\*[^]*?\*\//g) ?? [];
    for (const one of comments) {
      if (!/copyright/i.test(one)) continue;
      found.add(one.slice(2, -2).split("\n").map((line) => line.replace(/^[\s*]+/, "").trimEnd()).join("\n").trim());
    }
  }
  return [...found].sort();
}

const parts = [
  // npm's package of NiiVue has no licence in it; this is the one of its repository
  [`NiiVue ${version}`, readFileSync(join(here, "niivue.LICENSE"), "utf8").trim()],
  ...notices().map((text) => ["Code by others in NiiVue", text]),
  ["Roboto, the letters of NiiVue", "Copyright 2011 Google Inc. Apache License, Version 2.0: apache.org/licenses/LICENSE-2.0"],
  ...packages().map((name) => [name, licence(name)]),
];
const licences = parts.map(([name, text]) => `${name}\n${"-".repeat(name.length)}\n${text}\n`).join("\n\n");
const program = readFileSync(join(niivue, "dist/niivue.umd.js"), "utf8");
for (const [what, text] of [["its program", program], ["its licences", licences]])
  for (const sign of ["</script", "<!--", "\r", "\0", ...(what === "its licences" ? ["*/"] : [])])
    if (text.includes(sign)) refuse(`a page cannot hold NiiVue ${version}: ${JSON.stringify(sign)} is in ${what}`);

mkdirSync(join(here, "built"), { recursive: true });
writeFileSync(join(here, "built/LICENSES.txt"), licences);
writeFileSync(join(here, "built/niivue.js"), `/* ${licences}*/\n${program}`);
console.log(`NiiVue ${version}: ${((licences.length + program.length) / 1e6).toFixed(1)} MB in fedmerge/pages/niivue/built/`);
