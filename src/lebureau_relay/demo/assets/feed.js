// The Mission Control feed: what happened to tasks, approvals and desktops, newest first.

import { EVENTS, now } from "./words.js";

const MOST = 60;
const TASKS_REMEMBERED = 300;

export class Feed {
  #list;
  #nameOf;
  /** @type {Map<string, string>} */ #tasks = new Map();

  /** @param {HTMLElement} list @param {(id: string) => string} nameOf a desktop */
  constructor(list, nameOf) {
    this.#list = list;
    this.#nameOf = nameOf;
  }

  /** @param {{type: string, payload: any}} event */
  take({ type, payload }) {
    if (payload.taskId && payload.content) this.#remember(payload.taskId, payload.content);
    const [icon, tone, sentence] = EVENTS[type] ?? ["i-other", "quiet", `${type}: %s`];
    const rejected = type === "approval.resolved" && payload.decision === "reject";
    const desktop = payload.name ?? this.#nameOf(payload.desktopId ?? payload.id ?? "");
    const subject = payload.taskId ? this.#tasks.get(payload.taskId) ?? payload.taskId : desktop;
    const words = rejected ? "Approval refused: %s" : sentence;
    const where = [payload.taskId && desktop, payload.error].filter(Boolean).join(" · ");
    this.#add(icon, rejected ? "bad" : tone, words.replace("%s", () => subject), where, type);
  }

  /** Say in the list that something is missing here. @param {string} words */
  gap(words) {
    this.#add("i-error", "bad", "Events may be missing here", words, "relay.gap");
  }

  #remember(task, content) {
    this.#tasks.set(task, content);
    if (this.#tasks.size > TASKS_REMEMBERED) this.#tasks.delete(this.#tasks.keys().next().value);
  }

  #add(icon, tone, words, where, type) {
    this.#list.querySelector(".nothing")?.remove();
    const entry = document.createElement("li");
    entry.dataset.tone = tone;
    entry.dataset.type = type;
    entry.innerHTML = '<svg class="icon" aria-hidden="true"><use/></svg><p></p><small></small><time></time>';
    entry.querySelector("use").setAttribute("href", `#${icon}`);
    entry.querySelector("p").textContent = words;
    entry.querySelector("small").textContent = where;
    entry.querySelector("time").textContent = now();
    this.#list.prepend(entry);
    while (this.#list.children.length > MOST) this.#list.lastElementChild.remove();
  }
}
