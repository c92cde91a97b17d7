// The wall: one card a desktop, drawn from what the stream says of it.

import { STATUSES } from "./words.js";

const SAMPLES = 24;
const NEARLY_FULL = 85;

/** @typedef {{id: string, name?: string, status?: string, cpu?: number, memory?: number, disk?: number,
 *             agentReady?: boolean}} Desktop */

export class Wall {
  /** @type {Map<string, {element: HTMLElement, facts: Desktop, cpu: number[], memory: number[]}>} */
  #cards = new Map();
  #list;
  #template;

  /** @param {HTMLElement} list @param {HTMLTemplateElement} template */
  constructor(list, template) {
    this.#list = list;
    this.#template = template;
  }

  /** The name of a desktop, or its id. @param {string} id */
  name(id) {
    return this.#cards.get(id)?.facts.name ?? id;
  }

  /** Take what the API lists; the stream tells only what changes. @param {Desktop[]} desktops */
  list(desktops) {
    for (const { id, name, status, agentReady } of desktops) this.#show({ id, name, status, agentReady });
  }

  /** @param {{type: string, payload: Desktop}} event */
  take({ type, payload }) {
    const { status } = payload;
    if (type === "desktop.agentReady") this.#show({ ...payload, agentReady: true });
    else if (status && status !== "running") this.#show({ ...payload, agentReady: false });
    else this.#show(payload);
  }

  /** @param {Desktop} facts */
  #show(facts) {
    const card = this.#cards.get(facts.id) ?? this.#add(facts.id);
    const known = Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== undefined));
    Object.assign(card.facts, known);
    const { element, facts: all } = card;
    const status = STATUSES.includes(all.status ?? "") ? all.status : "unknown";
    element.dataset.status = status;
    part(element, "h3").textContent = all.name ?? all.id;
    part(element, ".status use").setAttribute("href", `#s-${status}`);
    part(element, ".status span").textContent = status;
    part(element, ".agent").textContent = all.agentReady ? "agent ready" : "agent not ready";
    part(element, ".agent").dataset.ready = String(Boolean(all.agentReady));
    for (const name of /** @type {const} */ (["cpu", "memory"])) {
      if (facts[name] !== undefined) draw(part(element, `.${name}`), card[name], facts[name]);
    }
    if (facts.disk !== undefined) {
      part(element, ".track i").style.width = `${facts.disk}%`;
      part(element, ".track").dataset.full = String(facts.disk > NEARLY_FULL);
      part(element, ".disk span").textContent = percent(facts.disk);
    }
  }

  #add(id) {
    this.#list.querySelector(".nothing")?.remove();
    const element = /** @type {HTMLElement} */ (this.#template.content.firstElementChild?.cloneNode(true));
    this.#list.append(element);
    const card = { element, facts: { id }, cpu: [], memory: [] };
    this.#cards.set(id, card);
    return card;
  }
}

/** Add a sample, and draw the last of them from the right. */
function draw(meter, samples, value) {
  samples.push(value);
  if (samples.length > SAMPLES) samples.shift();
  const step = 100 / (SAMPLES - 1);
  const left = 100 - step * (samples.length - 1);
  const points = samples.map((each, n) => `${(left + n * step).toFixed(1)} ${(29 - each * 0.28).toFixed(1)}`);
  if (points.length === 1) points.unshift(`${(left - step).toFixed(1)} ${points[0].split(" ")[1]}`);
  const line = `M${points.join("L")}`;
  part(meter, ".line").setAttribute("d", line);
  part(meter, ".area").setAttribute("d", `${line}V30H${points[0].split(" ")[0]}Z`);
  part(meter, "span").textContent = percent(value);
}

const percent = (value) => `${Math.round(value)} %`;
const part = (element, selector) => element.querySelector(selector);
