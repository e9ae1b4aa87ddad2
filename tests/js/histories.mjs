// Random histories as the stock library writes them: several authors, every kind of operation, branches and merges.
// `node histories.mjs SEED HISTORIES STEPS` prints one JSON line for each: its changes in hex, dependencies first.
import * as A from "@automerge/automerge";

function generator(seed) {
  let state = seed >>> 0;
  // A linear congruential generator of full period 2^32; its high bits are what is used.
  const next = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  return { below: n => Math.floor(next() * n), of: items => items[Math.floor(next() * items.length)] };
}

const TEXTS = ["", "a", "print(1)\n", "héllo 😀", "x".repeat(300), "🏳️‍🌈 flag", "a\nb\nc"];

function value(random, depth = 2) {
  const scalars = [
    1, -1, 0, 2 ** 40, 1.5, NaN, Infinity, true, false, null, "text", "", new Date(1e12), new Uint8Array([1, 2, 3]),
    new A.ImmutableString("register"), new A.Counter(3), new A.Uint(7), new A.Float64(2), 2n ** 60n,
  ];
  const kind = depth ? random.below(4) : 3;
  if (kind === 0) return Array.from({ length: random.below(4) }, () => value(random, depth - 1));
  if (kind === 1) return Object.fromEntries(TEXTS.slice(1, 1 + random.below(4)).map(k => [k, value(random, depth - 1)]));
  return random.of(scalars);
}

/** All maps, lists and texts of a document, as [path, value]. */
function containers(value, path = [], found = []) {
  const isContainer = typeof value === "string" || Array.isArray(value) || Object.getPrototypeOf(value ?? 0) === Object.prototype;
  if (!isContainer) return found;
  found.push([path, value]);
  if (typeof value !== "string") for (const key of Object.keys(value)) containers(value[key], [...path, Array.isArray(value) ? +key : key], found);
  return found;
}

const at = (doc, path) => path.reduce((value, key) => value[key], doc);

/** One edit, if the library lets it: a counter below a conflict, for one, can't be counted. */
function tryEdit(random, doc, marks = true) {
  try {
    edit(random, doc, marks);
  } catch (error) {
    if (error?.name === "PanicError") throw error;
  }
}

function edit(random, doc, marks) {
  const [path, target] = random.of(containers(A.toJS(doc)));
  if (typeof target === "string") {
    const index = random.below(target.length + 1);
    if (random.below(6) === 0) return A.updateText(doc, path, random.of(TEXTS));
    if (random.below(8) === 0) return A.splitBlock(doc, path, index, { type: "p", parents: [], attrs: {} });
    if (marks && random.below(6) === 0 && target.length > 1)
      return A.mark(doc, path, { start: 0, end: 1 + random.below(target.length), expand: random.of(["both", "none", "after"]) }, "bold", random.of([true, null, "x"]));
    if (marks && random.below(8) === 0 && target.length > 1) return A.unmark(doc, path, { start: 0, end: target.length }, "bold");
    return A.splice(doc, path, index, random.below(Math.min(5, target.length - index + 1)), random.of(TEXTS));
  }
  const here = at(doc, path);
  if (Array.isArray(target)) {
    const index = random.below(target.length + 1);
    const counter = target.findIndex(item => item instanceof A.Counter);
    if (counter >= 0 && random.below(2)) return here[counter].increment(random.below(9) - 4);
    if (index < target.length && random.below(2)) return random.below(2) ? A.deleteAt(here, index) : (here[index] = value(random));
    return A.insertAt(here, index, ...Array.from({ length: 1 + random.below(3) }, () => value(random)));
  }
  const keys = Object.keys(target);
  const counter = keys.find(key => target[key] instanceof A.Counter);
  if (counter && random.below(2)) return here[counter].increment(random.below(9) - 4);
  if (keys.length && random.below(4) === 0) return delete here[random.of(keys)];
  here[keys.length && random.below(2) ? random.of(keys) : `k${random.below(20)}`] = value(random);
}

function history(random, steps) {
  let docs = [A.from({ cells: { a: { source: "print(1)", metadata: { tags: ["x"] } } }, list: [1, 2, 3], n: new A.Counter(1) })];
  docs.push(A.clone(docs[0]), A.clone(docs[0]));
  const past = [A.getHeads(docs[0])];
  // A change in the past by an author with an empty change does not build on it, and makes the library panic elsewhere.
  const hasEmpty = random.below(2);
  for (let step = 0; step < steps; step++) {
    const who = random.below(docs.length);
    const other = (who + 1 + random.below(docs.length - 1)) % docs.length;
    const edits = doc => { for (let n = random.below(3); n >= 0; n--) tryEdit(random, doc); };
    switch (random.below(12)) {
      case 0:
      case 1:
        docs[who] = A.merge(docs[who], docs[other]);
        break;
      case 2:
        if (hasEmpty) docs[who] = A.emptyChange(docs[who], "nothing");
        break;
      case 3: {
        const heads = random.of(past);
        // No marks: in the past, the library lets their ends stand behind characters of the present.
        const inThePast = doc => tryEdit(random, doc, false);
        if (!hasEmpty && A.hasHeads(docs[who], heads)) docs[who] = A.changeAt(docs[who], heads, inThePast).newDoc;
        break;
      }
      case 4: // a session that ends: whoever goes on has another actor id
        docs[who] = A.clone(docs[who]);
        break;
      default:
        docs[who] = A.change(docs[who], { message: random.of([undefined, "why"]) }, edits);
        past.push(A.getHeads(docs[who]));
    }
  }
  const all = docs.reduce((one, other) => A.merge(one, other));
  return A.getAllChanges(all).map(change => Buffer.from(change).toString("hex"));
}

const [seed, histories, steps] = process.argv.slice(2).map(Number);
for (let number = 0, done = 0; done < histories && number < 2 * histories; number++) {
  let changes;
  try {
    changes = history(generator(seed * 1000 + number), steps);
  } catch (error) {
    // Some conflicts of counters are more than the library can show; a page would have lost such a document, too.
    if (error?.name === "PanicError") throw error;
    continue;
  }
  console.log(JSON.stringify(changes));
  done += 1;
}
