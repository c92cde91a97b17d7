// A reader that holds its breath: what an EventSource is to a page, but nothing is read until it is let go.
//
// A browser's own EventSource reads whatever the page does. `fetch` leaves the reading to the page: what it
// doesn't take fills the browser's buffers, then the kernel's, and at last the relay finds that this one is slow.

// Nothing more for so long: it has caught up with the present.
const QUIET_MS = 400;

export class HeldSource extends EventTarget {
  /** As an EventSource's. @type {number} */ readyState = EventSource.CONNECTING;
  #stop = new AbortController();
  /** @type {ReadableStreamDefaultReader<Uint8Array> | undefined} */ #reader;
  #lastId = "";

  /** @param {string} url */
  constructor(url) {
    super();
    this.#connect(url);
  }

  async #connect(url) {
    try {
      const headers = { accept: "text/event-stream" };
      const answer = await fetch(url, { headers, cache: "no-store", signal: this.#stop.signal });
      if (!answer.ok || !answer.body) throw new Error(`answered ${answer.status}`);
      this.#reader = answer.body.getReader();
      this.readyState = EventSource.OPEN;
      this.dispatchEvent(new Event("open"));
    } catch {
      this.#fail();
    }
  }

  /** Read all that has piled up; done when nothing more comes at once. */
  async release() {
    const decoder = new TextDecoder();
    let text = "";
    try {
      for (;;) {
        const next = await Promise.race([this.#reader?.read(), later(QUIET_MS)]);
        if (!next || this.readyState === EventSource.CLOSED) return;
        if (next.done) break;
        const blocks = (text + decoder.decode(next.value, { stream: true })).split("\n\n");
        text = blocks.pop() ?? "";
        for (const block of blocks) this.#tell(block);
      }
    } catch {
      // The relay had broken off, and what it had sent before was still to be read.
    }
    this.#fail();
  }

  close() {
    this.readyState = EventSource.CLOSED;
    this.#stop.abort();
  }

  /** One block, in the one form in which the relay writes them. @param {string} block */
  #tell(block) {
    let type = "message";
    const data = [];
    for (const line of block.split("\n")) {
      if (line.startsWith("data: ")) data.push(line.slice(6));
      else if (line.startsWith("id: ")) this.#lastId = line.slice(4);
      else if (line.startsWith("event: ")) type = line.slice(7);
    }
    this.dispatchEvent(new MessageEvent(type, { data: data.join("\n"), lastEventId: this.#lastId }));
  }

  #fail() {
    if (this.readyState === EventSource.CLOSED) return;
    this.close();
    this.dispatchEvent(new Event("error"));
  }
}

/** @param {number} ms @returns {Promise<undefined>} */
const later = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
