// How the console says things: numbers with their units, and the relay's closed sets in plain words.

const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

export const number = (n) => (n === null || n === undefined ? '–' : compact.format(n));
export const rate = (n) => (n === null || n === undefined ? '–' : `${compact.format(n)}/s`);
export const plural = (n, one, many = `${one}s`) => `${compact.format(n)} ${n === 1 ? one : many}`;
export const sum = (counts) => Object.values(counts ?? {}).reduce((a, b) => a + b, 0);

export function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${n.toFixed(unit && n < 10 ? 1 : 0)} ${units[unit]}`;
}

export function age(s) {
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

export function delay(s) {
  if (s === null || s === undefined) return '–';
  if (s < 0.001) return `${Math.round(s * 1e6)} µs`;
  return s < 1 ? `${(s * 1000).toFixed(s < 0.01 ? 1 : 0)} ms` : `${s.toFixed(1)} s`;
}

export const GAPS = {
  evicted: 'away for longer than the history reaches',
  unknown_id: 'nobody knows the id they came with',
  upstream: 'upstream could not go on where it was',
  oversize: 'an event was too big',
  slow: 'read too slowly',
  degraded: 'replicas were cut off from each other',
};

export const REASONS = {
  client_gone: 'the client left',
  slow: 'the client did not read',
  credential_revoked: 'its credential was withdrawn',
  max_age: 'it had reached its greatest age',
  retired: 'a newer stream took its place',
  rebalanced: 'load was spread anew',
  operator: 'an operator ended it',
  draining: 'this replica left service',
  upstream_ended: 'upstream ended the stream',
  internal_error: 'the relay failed; see its log',
};

export const CODES = {
  missing_credential: 'no credential came',
  invalid_credential: 'a bad credential',
  conflicting_credentials: 'two keys in one request',
  forbidden: 'may not read this',
  origin_not_allowed: "a page of another origin",
  rate_limited: 'connects too often',
  too_many_failures: 'bad credentials from one address',
  too_many_streams: 'too many streams of one identity',
  at_capacity: 'the relay is full',
  draining: 'the relay is leaving service',
  upstream_error: 'an unusable answer from upstream',
  upstream_unavailable: 'upstream is away',
  identity_unavailable: 'nobody says who they are',
  upstream_ended: 'upstream has ended this stream',
  not_found: 'no such path',
  method_not_allowed: 'no such verb',
  bad_request: 'a request that makes no sense',
  internal_error: 'the relay failed; see its log',
};

export const STATES = {
  live: 'live',
  replaying: 'catching up',
  paused: 'slow: its socket takes no more',
  waiting: 'waits for what it missed',
  ending: 'ending',
};
