// Plain words for the closed sets of the contract, and for the events of the specification.

export const STREAMS = { desktops: "Desktops", activity: "Mission Control" };

export const STATES = {
  connecting: { text: "connecting", shape: "s-unknown" },
  live: { text: "live", shape: "s-running" },
  slow: { text: "not reading", shape: "s-stopped" },
  offline: { text: "offline", shape: "s-unknown" },
  reconnecting: { text: "reconnecting", shape: "s-booting" },
  refused: { text: "refused for now", shape: "s-stopped" },
  ended: { text: "no valid key", shape: "s-error" },
};

export const GAPS = {
  evicted: "this page was away for longer than the relay remembers",
  unknown_id: "nobody knows the id that it came with",
  upstream: "Le Bureau could not continue where it had stopped",
  oversize: "an event was too big to be passed on",
  slow: "this page read too slowly",
  degraded: "replicas of the relay were cut off from each other",
};

export const CLOSINGS = {
  slow: "this page read too slowly",
  credential_revoked: "the key was revoked",
  max_age: "the stream had reached its greatest age",
  retired: "a newer stream took its place",
  rebalanced: "the relay spreads its load anew",
  operator: "an operator ended it",
  draining: "the relay is being stopped or replaced",
  upstream_ended: "Le Bureau ended this stream",
  internal_error: "something failed in the relay",
};

export const REFUSALS = {
  rate_limited: "too many connects within a minute",
  too_many_failures: "too many bad keys came from this address",
  too_many_streams: "too many open streams of this user",
  upstream_unavailable: "Le Bureau can’t be reached, or fails",
  identity_unavailable: "nobody can say whose key it is just now",
  at_capacity: "the relay is full",
  draining: "the relay is being stopped or replaced",
};

/** What happened, by type: an icon, a tone, and how it is said. `%s` is what it happened to. */
export const EVENTS = {
  "task.created": ["i-created", "calm", "Task created: %s"],
  "task.started": ["i-started", "calm", "Started: %s"],
  "task.completed": ["i-completed", "good", "Completed: %s"],
  "task.failed": ["i-failed", "bad", "Failed: %s"],
  "task.review": ["i-review", "wait", "Waits for review: %s"],
  "task.cancelled": ["i-cancelled", "quiet", "Cancelled: %s"],
  "desktop.started": ["i-started", "good", "%s is running"],
  "desktop.stopped": ["i-stopped", "quiet", "%s has stopped"],
  "desktop.error": ["i-error", "bad", "%s has failed"],
  "approval.created": ["i-asked", "wait", "Approval asked for: %s"],
  "approval.resolved": ["i-resolved", "good", "Approval given: %s"],
};

export const STATUSES = ["running", "booting", "stopped", "error"];

/** @param {number} count @param {string} one @param {string} many */
export const plural = (count, one, many = `${one}s`) => (count === 1 ? one : many);

/** @param {Record<string, string>} list @param {string} word what it says, or the word itself where nothing is known */
export const say = (list, word) => list[word] ?? String(word).replaceAll("_", " ");

/** The number in an id of the simulated API, or the id. @param {string} id */
export const ordinal = (id) => /^evt_0*(\d+)$/.exec(id)?.[1] ?? id;

/** @param {string} words */
export const capital = (words) => words[0].toUpperCase() + words.slice(1);

const CLOCK = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** The time of day, as short as it can be written. */
export const now = () => CLOCK.format(new Date());
