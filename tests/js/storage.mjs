// A storage adapter in memory that answers late, as IndexedDB does, and reproducibly so.
import { StorageAdapter } from "@automerge/automerge-repo";

export class LatentStorage extends StorageAdapter {
  #chunks = new Map(); // "a/b/c" -> Uint8Array
  #random;
  #latency;

  /** Each operation takes 0 to `latency` milliseconds, drawn from a generator that starts at `seed`. */
  constructor(latency, seed) {
    super();
    this.#latency = latency;
    this.#random = seed >>> 0;
  }

  #wait() {
    // A linear congruential generator of full period 2^32; its high bits are what is used.
    this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0;
    return new Promise(resolve => setTimeout(resolve, (this.#random / 2 ** 32) * this.#latency));
  }

  async load(key) {
    await this.#wait();
    return this.#chunks.get(key.join("/"));
  }

  async save(key, data) {
    await this.#wait();
    this.#chunks.set(key.join("/"), data);
  }

  async remove(key) {
    await this.#wait();
    this.#chunks.delete(key.join("/"));
  }

  async loadRange(prefix) {
    await this.#wait();
    return this.#keys(prefix).map(key => ({ key: key.split("/"), data: this.#chunks.get(key) }));
  }

  async removeRange(prefix) {
    await this.#wait();
    for (const key of this.#keys(prefix)) this.#chunks.delete(key);
  }

  #keys(prefix) {
    const start = prefix.join("/") + "/";
    return [...this.#chunks.keys()].filter(key => key.startsWith(start) || key === prefix.join("/"));
  }
}
