// A stock automerge-repo server, driven by JSON lines: what a daemon that is not ours does.
import { Repo } from "@automerge/automerge-repo";
import { WebSocketServerAdapter } from "@automerge/automerge-repo-network-websocket";
import { once } from "node:events";
import { WebSocketServer } from "ws";
import { Documents } from "./documents.mjs";
import { serve } from "./lines.mjs";

const sockets = new WebSocketServer({ host: "127.0.0.1", port: 0 });
await once(sockets, "listening");
const repo = new Repo({
  peerId: `server-${process.pid}`,
  network: [new WebSocketServerAdapter(sockets)],
  sharePolicy: async () => false, // as a sync server: documents are served to those who ask
});
const documents = new Documents();
documents.repo = repo;

const address = () => ({ url: `ws://127.0.0.1:${sockets.address().port}`, peer_id: repo.peerId });

serve({ ...documents.commands, address });
