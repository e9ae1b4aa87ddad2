// A stock automerge-repo client, driven by JSON lines. Only the library's own behaviour is on the wire.
import * as A from "@automerge/automerge";
import { Repo, cbor, parseAutomergeUrl } from "@automerge/automerge-repo";
import { WebSocketClientAdapter, WebSocketServerAdapter } from "@automerge/automerge-repo-network-websocket";
import { EventEmitter, once } from "node:events";
import { WebSocketServer } from "ws";
import { Conversation } from "./conversation.mjs";
import { Documents } from "./documents.mjs";
import { faults, serve } from "./lines.mjs";
import { LatentStorage } from "./storage.mjs";

/** The stock adapter; looks at its frames as they pass, since it hides `error` frames and counts nothing. */
class ObservedAdapter extends WebSocketClientAdapter {
  frames = { received: {}, sent: {} };
  errors = []; // messages of `error` frames

  receiveMessage(bytes) {
    const { type, message } = cbor.decode(new Uint8Array(bytes));
    this.frames.received[type] = (this.frames.received[type] ?? 0) + 1;
    if (type === "error") this.errors.push(message);
    super.receiveMessage(bytes);
  }

  send(message) {
    this.frames.sent[message.type] = (this.frames.sent[message.type] ?? 0) + 1;
    super.send(message);
  }
}

/** Takes whatever comes, as adapters between the tabs of a browser do; the stock server looks at the sender. */
class TrustingServerAdapter extends WebSocketServerAdapter {
  receiveMessage(bytes, socket) {
    const message = cbor.decode(new Uint8Array(bytes));
    if (message.type === "join") super.receiveMessage(bytes, socket);
    else this.emit("message", message);
  }
}

let repo, adapter;
const documents = new Documents();
const conversations = new Map(); // document id of the notebook -> Conversation

function conversation(url) {
  const { documentId } = parseAutomergeUrl(url);
  if (!conversations.has(documentId)) {
    const { handle } = documents.open(url);
    conversations.set(documentId, new Conversation(documents, handle, repo.peerId, () => adapter.remotePeerId));
  }
  return conversations.get(documentId);
}

/** Resolves when the adapter has its peer; rejects when the connection fails first. */
function joined(adapter) {
  return new Promise((resolve, reject) => {
    faults.once("fault", reject);
    adapter.once("peer-candidate", ({ peerId }) => {
      faults.off("fault", reject);
      resolve(peerId);
    });
  });
}

const network = {
  connect: async ({ url, peer_id, storage_latency_ms, seed = 0, retry_ms = 5000 }) => {
    adapter = new ObservedAdapter(url, retry_ms);
    const daemon = joined(adapter);
    const storage = storage_latency_ms === undefined ? undefined : new LatentStorage(storage_latency_ms, seed);
    repo = new Repo({ peerId: peer_id, network: [adapter], storage });
    documents.repo = repo;
    return { peer_id: repo.peerId, daemon_id: await daemon };
  },
  disconnect: () => adapter.disconnect(),
  reconnect: async () => {
    const daemon = joined(adapter);
    adapter.connect(repo.peerId, adapter.peerMetadata);
    return { daemon_id: await daemon };
  },
  /** The TCP connection breaks; the stock adapter connects again after its retry interval, for which this waits. */
  drop: async () => {
    const daemon = joined(adapter);
    adapter.socket.terminate();
    return { daemon_id: await daemon };
  },
  /** Lets other stock repos link with this one. */
  listen: async () => {
    const sockets = new WebSocketServer({ host: "127.0.0.1", port: 0 });
    await once(sockets, "listening");
    repo.networkSubsystem.addNetworkAdapter(new TrustingServerAdapter(sockets));
    return { url: `ws://127.0.0.1:${sockets.address().port}` };
  },
  /** A second connection of the same repo, to another stock repo: it will pass on what it hears. */
  link: async ({ url }) => {
    const other = new WebSocketClientAdapter(url);
    const peer = joined(other);
    repo.networkSubsystem.addNetworkAdapter(other);
    return { peer_id: await peer };
  },
};

const requests = {
  record: ({ url }) => conversation(url).record(),
  report: ({ url }) => ({ ...conversation(url).report, frames: adapter.frames, error_frames: adapter.errors }),
  events: ({ url, since = 0 }) => conversation(url).events.slice(since),
  wait_event: ({ url, ...parameters }) => conversation(url).waitEvent(parameters),
  request: async parameters => {
    const { url, at_heads, params } = parameters;
    const handle = await documents.ready(url);
    const heads = at_heads && { notebook_heads: A.getHeads(handle.doc()) };
    return await conversation(url).request({ ...parameters, params: { ...params, ...heads } });
  },
  /**
   * Sets a widget's trait to one value after the other, some requests at a time, as a hand that drags a slider does. Shows
   * its own value until its last request is answered, then the document's, and goes on with that: `watched(name)`.
   */
  drag: async ({ url, runtime, comm_id, trait, values, name, in_flight, within }) => {
    const handle = await documents.ready(runtime);
    const news = new EventEmitter();
    let own, open = 0;
    const show = documents.collect(name, () => (open ? own : handle.doc().comms[comm_id].state[trait]));
    handle.on("heads-changed", show);
    const set = async value => {
      const params = { comm_id, state: { [trait]: value } };
      const { error } = await conversation(url).request({ method: "update_comm", params, within });
      if (error) throw new Error(JSON.stringify(error));
      open -= 1;
      show();
      news.emit("answered");
    };
    const all = [];
    for (const value of values) {
      if (open === in_flight) await once(news, "answered");
      own = value;
      open += 1;
      show();
      all.push(set(value));
    }
    await Promise.all(all);
  },
  /** Edits and asks in one tick: the stock client sends the request first and the edit after it. */
  edit_and_execute: async ({ url, cell_id, source, params = {}, within }) => {
    const handle = await documents.ready(url);
    const path = ["cells", cell_id, "source"];
    const notebook_heads = documents.change(handle, [{ op: "update_text", path, value: source }]);
    const request = { method: "execute_cell", params: { cell_id, notebook_heads, ...params }, within };
    return await conversation(url).request(request);
  },
};

serve({ ...documents.commands, ...network, ...requests });
