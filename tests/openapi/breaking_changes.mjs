// Lists the breaking changes between two OpenAPI documents, as JSON: [{ path, description }, …].
import { readFileSync, writeSync } from "node:fs";
import { apiCompare } from "api-smart-diff";

const [before, after] = process.argv.slice(2).map((path) => JSON.parse(readFileSync(path, "utf8")));
// Examples, samples and texts break nothing; without them the comparison is fast and has no noise.
const IGNORED = new Set(["example", "examples", "description", "summary", "x-codeSamples"]);
const SCHEMAS_BY_NAME = new Set(["properties", "schemas", "parameters", "responses", "headers"]);

function essential(node, names = false) {
  if (Array.isArray(node)) return node.map((inner) => essential(inner));
  if (node === null || typeof node !== "object") return node;
  const members = Object.entries(node).filter(([name]) => names || !IGNORED.has(name));
  return Object.fromEntries(
    members.map(([name, inner]) => [name, essential(inner, !names && SCHEMAS_BY_NAME.has(name))]),
  );
}

const changes = new Map();
for (const diff of apiCompare(essential(before), essential(after)).diffs) {
  if (diff.type === "breaking") changes.set(diff.path.join("/"), diff.description ?? diff.action);
}
const found = [...changes].map(([path, description]) => ({ path, description }));
writeSync(1, JSON.stringify(found));
