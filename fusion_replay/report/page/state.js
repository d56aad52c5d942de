// What the page is about, and what is looked at now: data by rows, and a state that lives in the URL's fragment.
const data = JSON.parse(document.getElementById("data").textContent);

const rows = (() => {
  const n = data.runs.reduce((sum, run) => sum + run[2], 0);
  const invocation = new Int32Array(n), step = new Int32Array(n), sequence = new Int32Array(n);
  const of = new Map(data.invocations.map(([index, number]) => [index, number]));
  const at = new Map();
  let row = 0;
  for (const [call, first, count] of data.runs) {
    for (let i = 0; i < count; i++, row++) {
      invocation[row] = call;
      step[row] = first + i;
      sequence[row] = of.get(call) || 0;
      at.set(`${call}:${first + i}`, row);
    }
  }
  const figures = {};
  for (const name of data.columns) {
    const column = figures[name] = new Float64Array(n).fill(NaN);
    data.judged.forEach((r, i) => { column[r] = number(data.figures[name][i]); });
  }
  const reason = new Map(), marks = new Map(data.marks);
  data.reasons.forEach(([text, all]) => all.forEach((r) => reason.set(r, text)));
  return { n, invocation, step, sequence, at, figures, reason, marks, states: data.states.map(([kind, n]) => kind.repeat(n)).join("") };
})();

function number(x) {
  return x === null ? NaN : x === "Inf" ? Infinity : x === "-Inf" ? -Infinity : x === "NaN" ? NaN : x;
}

const address = (row) => `${rows.invocation[row]}:${rows.step[row]}`;
const entry = (row) => data.sequences[rows.sequence[row]].entries[rows.step[row]] || ["?", "", []];
const label = (row) => `${address(row)} ${entry(row)[0]} ${entry(row)[1]}`;
const isBad = (row) => "MFX".includes(rows.states[row]);

const STATES = {
  ".": ["match", "good"], "M": ["mismatch", "bad"], "O": ["outside its bound", "warn"], "F": ["in flight", "bad"],
  "X": ["failed", "bad"], "-": ["not judged", "plain"], "_": ["not selected", "plain"],
  "d": ["differs by itself", "bad"], "i": ["differs, inside the tolerance", "warn"], "h": ["inherits a difference", "plain"],
  "m": ["masked: equal again", "plain"], "=": ["the same", "good"], "1": ["on one side only", "bad"],
};

const DEFAULTS = { step: data.headline.address, tab: "step", sort: "", down: "", op: "", q: "", only: "", limit: "", core: "" };
let state = { ...DEFAULTS };
const listeners = [];

function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  const next = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS)) if (given.has(key)) next[key] = given.get(key);
  return next;
}

function writeFragment() {
  const told = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) if (value !== DEFAULTS[key]) told.set(key, value);
  const text = told.toString().replace(/%3A/g, ":");
  return text ? `#${text}` : "#";
}

/** Change what is looked at. A new step or view is a place to come back to; other changes replace the fragment. */
function go(change) {
  const before = state;
  state = { ...state, ...change };
  if (change.step !== undefined && change.step !== before.step) { state.limit = change.limit || ""; state.core = change.core || ""; }
  const moved = state.step !== before.step || state.tab !== before.tab;
  const target = writeFragment();
  if (target !== (location.hash || "#")) history[moved ? "pushState" : "replaceState"](null, "", target);
  tell(before);
}

function tell(before) {
  for (const listener of listeners) listener(state, before);
}

function follow() {
  const before = state;
  state = readFragment();
  tell(before);
}
