// Tasks as the feed knows them: what each is about, and how far on its way it had come at each event.

const REMEMBERED = 1000;
const DIRECT = ["created", "started", "end"];
const GATED = ["created", "started", "review", "approval", "end"];
const STAGES = {
  "task.created": "created",
  "task.started": "started",
  "task.review": "review",
  "approval.created": "review",
  "approval.resolved": "approval",
  "task.completed": "end",
  "task.failed": "end",
  "task.cancelled": "end",
};
const SVG = "http://www.w3.org/2000/svg";
const STEP = 14;

/** @typedef {{content: string, gated: boolean}} Task */

export class Tasks {
  /** @type {Map<string, Task>} */ #known = new Map();

  /** What is known of the task that an event is about. @param {string} type @param {any} payload */
  learn(type, payload) {
    const id = payload.taskId;
    const task = this.#known.get(id) ?? { content: id, gated: false };
    task.content = payload.content ?? payload.summary ?? task.content;
    task.gated ||= Boolean(payload.requiresApproval) || ["review", "approval"].includes(STAGES[type]);
    this.#known.set(id, task);
    if (this.#known.size > REMEMBERED) this.#known.delete([...this.#known.keys()][0]);
    return task;
  }
}

/** The way of a task as dots: behind it, where it is, and ahead. @param {string} type @param {boolean} gated */
export function way(type, gated) {
  const stages = gated ? GATED : DIRECT;
  const at = stages.indexOf(STAGES[type]);
  if (at < 0) return "";
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "way");
  svg.setAttribute("viewBox", `0 0 ${GATED.length * STEP} 12`);
  svg.setAttribute("aria-hidden", "true");
  const left = (GATED.length - stages.length) * STEP;
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", `M${left + 7} 6H${GATED.length * STEP - 7}`);
  svg.append(line);
  stages.forEach((_, n) => {
    const dot = document.createElementNS(SVG, "circle");
    dot.setAttribute("class", n < at ? "behind" : n === at ? "at" : "ahead");
    dot.setAttribute("cx", String(left + 7 + n * STEP));
    dot.setAttribute("cy", "6");
    dot.setAttribute("r", n === at ? "4.2" : "3");
    svg.append(dot);
  });
  return svg;
}
