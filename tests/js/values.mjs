// Values between a document (or CBOR) and JSON lines. What JSON lacks is a map with one `$` key.
import * as A from "@automerge/automerge";

export function plain(value) {
  if (typeof value === "bigint") return { $bigint: String(value) };
  if (value === null || typeof value !== "object") return value;
  if (A.isImmutableString(value)) return String(value);
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString("base64") };
  if (value instanceof Date) return { $date: value.getTime() };
  if (A.isCounter(value)) return { $counter: value.value };
  if (Array.isArray(value)) return value.map(plain);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}

const REVIVERS = {
  $bytes: text => new Uint8Array(Buffer.from(text, "base64")),
  $date: milliseconds => new Date(milliseconds),
  $counter: count => new A.Counter(count),
  $immutable: text => new A.ImmutableString(text),
  $nulls: length => Array(length).fill(null), // a huge list in a tiny change
};

export function revive(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(revive);
  const entries = Object.entries(value);
  if (entries.length === 1 && Object.hasOwn(REVIVERS, entries[0][0])) return REVIVERS[entries[0][0]](entries[0][1]);
  return Object.fromEntries(entries.map(([key, item]) => [key, revive(item)]));
}
