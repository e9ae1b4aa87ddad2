// A stock automerge-repo client: lists a notebook's cells in order, with their outputs. Shapes: wire.md.
//   npm install @automerge/automerge-repo @automerge/automerge-repo-network-websocket
//   node stock_client.mjs SYNC_URL TOKEN NOTEBOOK_URL
import { Repo } from "@automerge/automerge-repo";
import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket";

const [syncUrl, token, notebookUrl] = process.argv.slice(2);
const adapter = new WebSocketClientAdapter(`${syncUrl}?token=${encodeURIComponent(token)}`);
const repo = new Repo({ network: [adapter] });
// Without a peer, find() says after a second that there is no such document.
await new Promise(resolve => adapter.once("peer-candidate", resolve));

const notebook = await repo.find(notebookUrl);
const runtime = await repo.find(String(notebook.doc().runtime));
while (String(runtime.doc().file?.status ?? "loading") === "loading") await new Promise(then => runtime.once("change", then));

// A value is itself, {json}, or the address of a {blob}.
async function decode(value) {
  if (value?.json) return JSON.parse(String(value.json));
  if (!value?.blob) return value instanceof Object ? String(value) : value; // strings are ImmutableString
  const address = new URL(`/blobs/${value.blob}`, syncUrl.replace(/^ws/, "http"));
  const response = await fetch(address, { headers: { Authorization: `Bearer ${token}` } });
  if (/json$/.test(value.media_type)) return await response.json();
  return /^text\/|xml$|javascript$/.test(value.media_type) ? await response.text() : await response.arrayBuffer();
}

const plain = value => (value.byteLength ? `${value.byteLength} bytes` : JSON.stringify(value));

async function show(output) {
  if (output.text) return (await Promise.all(output.text.map(decode))).join("");
  if (output.traceback) return (await decode(output.traceback)).join("\n");
  const data = Object.entries(output.data).map(async ([mime, value]) => [mime, await decode(value)]);
  return (await Promise.all(data)).map(([mime, value]) => `${mime}: ${value?.trim ? value : plain(value)}`).join("\n");
}

const key = ([id, { position = "~" }]) => `${/^[0-9A-Za-z]{1,64}$/.test(position) ? position : "~"} ${id}`; // "~": last of all
for (const [id, cell] of Object.entries(notebook.doc().cells).sort((a, b) => (key(a) < key(b) ? -1 : 1))) {
  console.log(`--- ${cell.cell_type} ${id}\n${cell.source}`);
  for (const output of runtime.doc().cells[id]?.outputs ?? []) console.log(await show(output));
}
process.exit(0);
