// A process driven by JSON lines: {id, command, ...} on stdin, {id, result} or {id, error} on stdout.
import { EventEmitter } from "node:events";
import { createInterface } from "node:readline";

// Parts of the stock library report trouble with console.log; stdout belongs to the answers.
console.log = console.error;

// What nobody caught ("fault", error). A page survives such an error, so this process does as well, but says so.
export const faults = new EventEmitter();

function say(message) {
  process.stdout.write(JSON.stringify(message) + "\n");
}

function fault(error) {
  say({ fault: { message: String(error?.message ?? error), code: error?.code, stack: String(error?.stack) } });
  faults.emit("fault", error);
}

export function serve(commands) {
  process.on("uncaughtException", fault);
  process.on("unhandledRejection", fault);
  const lines = createInterface({ input: process.stdin });
  lines.on("line", async line => {
    const { id, command, ...parameters } = JSON.parse(line);
    try {
      if (!Object.hasOwn(commands, command)) throw new Error(`no such command: ${command}`);
      say({ id, result: (await commands[command](parameters)) ?? null });
    } catch (error) {
      say({ id, error: String(error?.message ?? error) });
    }
  });
  // The driver closes stdin to end the process; timers of the stock adapters would keep it alive.
  lines.on("close", () => process.exit(0));
}

/**
 * Resolves with the `value` of what `look` returns, once that is truthy; looks again on each of `events`.
 * Rejects after `within` seconds, saying `describe()`.
 */
export function until({ emitter, events, look, within = 30, describe }) {
  return new Promise((resolve, reject) => {
    const settle = (outcome, value) => {
      clearTimeout(deadline);
      for (const event of events) emitter.off(event, again);
      outcome(value);
    };
    const again = () => {
      try {
        const found = look();
        if (found) settle(resolve, found.value);
      } catch (error) {
        settle(reject, error);
      }
    };
    const expire = () => settle(reject, new Error(`not within ${within} s: ${describe()}`));
    const deadline = setTimeout(expire, within * 1000);
    for (const event of events) emitter.on(event, again);
    again();
  });
}
