// Commands on the documents of one stock Repo: what a client and a server have in common.
import * as A from "@automerge/automerge";
import { Presence, isValidAutomergeUrl, parseAutomergeUrl } from "@automerge/automerge-repo";
import { isDeepStrictEqual } from "node:util";
import { until } from "./lines.mjs";
import { plain, revive } from "./values.mjs";

const at = (doc, path) => path.reduce((value, key) => value?.[key], doc);

const OPERATIONS = {
  put: (doc, { path, value }) => (at(doc, path.slice(0, -1))[path.at(-1)] = revive(value)),
  delete: (doc, { path }) => {
    const parent = at(doc, path.slice(0, -1));
    if (Array.isArray(parent)) A.deleteAt(parent, path.at(-1));
    else delete parent[path.at(-1)];
  },
  insert: (doc, { path, index, values }) => A.insertAt(at(doc, path), index, ...revive(values)),
  update_text: (doc, { path, value }) => A.updateText(doc, path, value),
  splice: (doc, { path, index, remove, insert }) => A.splice(doc, path, index, remove, insert),
};

export class Documents {
  repo; // set once there is one
  #opened = new Map(); // document id -> {handle, ready}
  #presences = new Map(); // document id -> Presence
  #watched = new Map(); // name -> values
  #followed = new Map(); // url -> URLs that it named

  /** The handle of a document, at once: it may still be loading, which is when early events arrive. */
  open(url) {
    const { documentId } = parseAutomergeUrl(url);
    let opened = this.#opened.get(documentId);
    if (!opened) {
      const ready = this.repo.find(url);
      ready.catch(() => this.#opened.delete(documentId)); // told to whoever awaits `ready`; the next find asks anew
      opened = { handle: this.repo.handles[documentId], ready };
      this.#opened.set(documentId, opened);
    }
    return opened;
  }

  /** Whether the replica of a document holds `heads`; null if this peer never opened it. */
  holds(documentId, heads) {
    const handle = this.repo.handles[documentId];
    if (!handle) return null;
    return handle.isReady() && A.hasHeads(handle.doc(), heads);
  }

  async ready(url) {
    return await this.open(url).ready;
  }

  change(handle, operations) {
    handle.change(doc => {
      for (const { op, ...parameters } of operations) OPERATIONS[op](doc, parameters);
    });
    return A.getHeads(handle.doc());
  }

  async #presence(url) {
    const handle = await this.ready(url);
    if (!this.#presences.has(handle.documentId)) this.#presences.set(handle.documentId, new Presence({ handle }));
    return this.#presences.get(handle.documentId);
  }

  /** A function that adds what `find` finds to what `watched(name)` tells, where it is another value than before. */
  collect(name, find) {
    const seen = [];
    this.#watched.set(name, seen);
    return () => {
      let value;
      try {
        value = plain(find());
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // a path that is not there
      }
      if (!seen.length || !isDeepStrictEqual(seen.at(-1), value ?? null)) seen.push(value ?? null);
    };
  }

  commands = {
    create: ({ value }) => ({ url: this.repo.create(revive(value)).url }),
    find: async ({ url }) => void (await this.ready(url)),
    doc: async ({ url, path = [] }) => plain(at((await this.ready(url)).doc(), path)),
    heads: async ({ url }) => A.getHeads((await this.ready(url)).doc()),
    change: async ({ url, ops }) => ({ heads: this.change(await this.ready(url), ops) }),
    broadcast: async ({ url, message }) => (await this.ready(url)).broadcast(revive(message)),
    /** In one tick, so that the message overtakes the change; its params get the heads after the change. */
    change_and_broadcast: async ({ url, ops, message }) => {
      const handle = await this.ready(url);
      const heads = this.change(handle, ops);
      handle.broadcast({ ...message, params: { ...revive(message.params), heads, notebook_heads: heads } });
      return { heads };
    },

    /** Waits for a path to have a value, for a JS expression over `doc` to be truthy, or for heads to be held. */
    wait: async ({ url, path = [], value, expression, heads, within }) => {
      const handle = await this.ready(url);
      const evaluate = expression && new Function("doc", "plain", `return (${expression})`);
      const look = () => {
        const doc = handle.doc();
        if (heads) return A.hasHeads(doc, heads) && { value: null };
        if (!evaluate) return isDeepStrictEqual(plain(at(doc, path)), value) && { value };
        try {
          const result = evaluate(doc, plain);
          return result && { value: plain(result) };
        } catch (error) {
          if (error instanceof TypeError) return false; // a path that is not there yet
          throw error;
        }
      };
      const wanted = expression ?? heads ?? JSON.stringify(value);
      const found = () => JSON.stringify(plain(at(handle.doc(), path)))?.slice(0, 2000);
      const describe = () => `${wanted}; ${JSON.stringify(path)} is ${found()}`;
      // Not "change": that is left out for a change which shows nothing, an edit of something deleted for example.
      return await until({ emitter: handle, events: ["heads-changed"], look, within, describe });
    },

    /** Collects what a JS expression over `doc` is now and after each change, where it is another value. */
    watch: async ({ url, name, expression }) => {
      const handle = await this.ready(url);
      const evaluate = new Function("doc", `return (${expression})`);
      const look = this.collect(name, () => evaluate(handle.doc()));
      look();
      handle.on("heads-changed", look);
    },
    watched: ({ name }) => this.#watched.get(name),
    /** Opens the document that a path names, now and whenever it names another one; `followed` lists them all. */
    follow: async ({ url, path }) => {
      const handle = await this.ready(url);
      const urls = [];
      const look = () => {
        const named = String(at(handle.doc(), path));
        if (named === urls.at(-1) || !isValidAutomergeUrl(named)) return;
        urls.push(named);
        this.open(named);
      };
      look();
      handle.on("heads-changed", look);
      this.#followed.set(url, urls);
    },
    followed: ({ url }) => this.#followed.get(url),

    presence_start: async ({ url, state = {} }) => (await this.#presence(url)).start({ initialState: state }),
    presence_set: async ({ url, channel, value }) => (await this.#presence(url)).broadcast(channel, value),
    presence_stop: async ({ url }) => (await this.#presence(url)).stop(),
    presence_wait: async ({ url, peer_id, channel, value, within }) => {
      const presence = await this.#presence(url);
      const seen = () => presence.getPeerStates().value[peer_id]?.value?.[channel];
      return await until({
        emitter: presence,
        events: ["update", "snapshot"],
        look: () => isDeepStrictEqual(seen(), value) && { value },
        within,
        describe: () => `${peer_id} has ${JSON.stringify(seen())}`,
      });
    },
  };
}
