// Events and responses on one notebook document, as a stock client hears them: taken from the daemon's peer id alone.
import { EventEmitter } from "node:events";
import { isDeepStrictEqual } from "node:util";
import { until } from "./lines.mjs";
import { plain, revive } from "./values.mjs";

const DETAILS = 20; // early messages described in full; the counts have them all

export class Conversation {
  #documents;
  #handle;
  #ownId;
  #daemonId; // a function: the peer id is known once connected
  #lastRequest = 0;
  #pending = new Map(); // request id -> {resolve}
  #heard = new EventEmitter().setMaxListeners(0); // "event": another one was recorded
  #recording = false;
  #events = [];
  #seqs = new Map(); // epoch -> last seq
  #report = {
    events: 0,
    responses: 0,
    early: 0,
    early_runtime: 0,
    early_notebook: 0,
    unopened: 0,
    gaps: 0,
    repeats: 0,
    foreign: 0,
    early_details: [],
  };

  constructor(documents, handle, ownId, daemonId) {
    this.#documents = documents;
    this.#handle = handle;
    this.#ownId = ownId;
    this.#daemonId = daemonId;
    handle.on("ephemeral-message", payload => this.#hear(payload));
  }

  #hear({ senderId, message }) {
    if (typeof message !== "object" || message?.jsonrpc !== "2.0") return;
    const isResponse = "result" in message || "error" in message;
    if (isResponse && message.to !== this.#ownId) return;
    if (senderId !== this.#daemonId()) {
      this.#report.foreign += 1;
      return;
    }
    if (this.#recording) this.#record(message, isResponse);
    if (isResponse) {
      this.#pending.get(message.id)?.resolve(message);
      this.#pending.delete(message.id);
    }
  }

  #record(message, isResponse) {
    const body = (isResponse ? message.result : message.params) ?? {};
    this.#report[isResponse ? "responses" : "events"] += 1;
    const { documentId } = this.#handle;
    const runtime = body.heads && this.#documents.holds(String(body.runtime), body.heads.map(String));
    const notebook = body.notebook_heads && this.#documents.holds(documentId, body.notebook_heads.map(String));
    if (runtime === null) this.#report.unopened += 1;
    if (runtime === false) this.#report.early_runtime += 1;
    if (notebook === false) this.#report.early_notebook += 1;
    const early = runtime === false || notebook === false;
    if (early) {
      this.#report.early += 1;
      if (this.#report.early_details.length < DETAILS) this.#report.early_details.push(plain(message));
    }
    if (isResponse) return;
    const last = this.#seqs.get(body.epoch);
    if (last !== undefined && body.seq <= last) this.#report.repeats += 1;
    else {
      if (last !== undefined) this.#report.gaps += body.seq - last - 1;
      this.#seqs.set(body.epoch, body.seq);
    }
    this.#events.push({ method: message.method, params: plain(body), early });
    this.#heard.emit("event");
  }

  /** From now on each event and response is counted, and whether the replicas held its heads when it arrived. */
  record() {
    this.#recording = true;
  }

  get report() {
    return this.#report;
  }

  get events() {
    return this.#events;
  }

  /** The first recorded or coming event of `method` whose params include `params`, from index `since` of `events`. */
  async waitEvent({ method, params = {}, since = 0, within }) {
    const wanted = Object.entries(params);
    const matches = event =>
      event.method === method && wanted.every(([key, value]) => isDeepStrictEqual(event.params[key], value));
    const look = () => {
      const value = this.#events.slice(since).find(matches);
      return value && { value };
    };
    const describe = () => `${method} ${JSON.stringify(params)} among ${this.#events.length} events`;
    return await until({ emitter: this.#heard, events: ["event"], look, within, describe });
  }

  /** Broadcasts a request in this very tick; resolves with the daemon's response, an error response included. */
  request({ method, params = {}, request_id = ++this.#lastRequest, within = 30 }) {
    const response = new Promise((resolve, reject) => {
      const deadline = setTimeout(() => {
        this.#pending.delete(request_id);
        reject(new Error(`no response to ${method} within ${within} s`));
      }, within * 1000);
      this.#pending.set(request_id, { resolve: message => (clearTimeout(deadline), resolve(plain(message))) });
    });
    this.#handle.broadcast({ jsonrpc: "2.0", id: request_id, method, params: revive(params) });
    return response;
  }
}
