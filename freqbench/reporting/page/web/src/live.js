// A page without data of its own asks a server for it, again and again; an unchanged answer changes nothing.

import { inflate } from "./data.js";

const EVERY_MS = 10000;

export function follow(url, onData, onState) {
  let tag = null;
  const ask = async () => {
    try {
      const answer = await fetch(url, { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
      if (answer.status === 200) {
        const raw = await inflate(new Uint8Array(await answer.arrayBuffer()));
        tag = answer.headers.get("ETag");
        onData(raw);
      } else if (answer.status !== 304) throw new Error(`the server answered ${answer.status}`);
      onState(`live, checked ${new Date().toLocaleTimeString()}`);
    } catch (error) {
      onState(`no new data: ${error.message}; trying again`);
    }
    setTimeout(ask, EVERY_MS);
  };
  ask();
}
