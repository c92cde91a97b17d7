// What happened, in sentences, newest first.

import { now } from "./words.js";

const LINES = 60;

export class Chronicle {
  #list;

  /** @param {HTMLElement} list */
  constructor(list) {
    this.#list = list;
  }

  /** @param {"info" | "good" | "bad"} tone @param {string} words */
  tell(tone, words) {
    this.#list.querySelector(".nothing")?.remove();
    const line = document.createElement("li");
    line.dataset.tone = tone;
    const time = document.createElement("time");
    time.textContent = now();
    line.append(time, words);
    this.#list.prepend(line);
    while (this.#list.children.length > LINES) this.#list.lastElementChild?.remove();
  }
}
