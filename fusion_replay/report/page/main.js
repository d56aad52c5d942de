// Puts the page together and keeps it in step with the state.
function worstTen() {
  const finite = data.worst.map(([, , d]) => number(d)).filter(Number.isFinite), most = Math.log1p(Math.max(1, ...finite));
  const line = ([where, cause, distance]) => {
    const row = rows.at.get(where), far = number(distance), bar = el("span", { class: "bar" });
    bar.style.width = `${Math.max(2, Math.round(100 * (far === Infinity ? 1 : Math.log1p(far) / most)))}%`;
    return el("tr", { class: isBad(row) || rows.states[row] === "d" ? "mismatch" : "", "data-step": where }, el("td", {}, link(where)), el("td", { title: label(row) }, name(entry(row)[0])), el("td", { title: cause }, name(cause)),
      el("td", { class: "n", title: `${far} of its limit` }, far === 0 ? "0" : `${fig(far)}×`), el("td", {}, bar));
  };
  const widths = [56, 92, null, 74, 48];
  const made = el("table", {}, el("colgroup", {}, widths.map((w) => { const c = el("col"); if (w) c.style.width = `${w}px`; return c; })), el("thead", {}, el("tr", {}, ["step", "operator", "cause", "limit", ""].map((t, i) => (t ? el("th", { scope: "col", class: i === 3 ? "n" : null }, t) : el("td"))))), el("tbody", {}, data.worst.map(line)));
  $("worst-box").replaceChildren(data.worst.length ? made : el("p", { class: "card" }, "No step was judged, so none is the worst."));
}

function tabs() {
  const box = $("tabs");
  box.replaceChildren(...views.map(([key, words]) => el("button", { type: "button", role: "tab", id: `tab-${key}`, "aria-controls": "view", "aria-selected": String(state.tab === key), tabindex: state.tab === key ? 0 : -1, on: { click: () => go({ tab: key }) } }, words)));
  box.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], here = views.findIndex(([key]) => key === state.tab);
    if (!by) return;
    event.preventDefault();
    const next = views[(here + by + views.length) % views.length][0];
    go({ tab: next });
    $(`tab-${next}`).focus();
  });
}

function show() {
  if (!views.length) return;
  const current = views.find(([key]) => key === state.tab) || views[0];
  for (const [key] of views) { const tab = $(`tab-${key}`), on = key === current[0]; tab.setAttribute("aria-selected", String(on)); tab.tabIndex = on ? 0 : -1; }
  $("view").setAttribute("aria-labelledby", `tab-${current[0]}`);
  for (const line of document.querySelectorAll("#worst-box tr[data-step]")) {
    if (line.dataset.step === state.step) line.setAttribute("aria-current", "true"); else line.removeAttribute("aria-current");
  }
  current[2]($("view"));
}

function start() {
  state = readFragment();
  if (!views.some(([key]) => key === state.tab)) state.tab = views.length ? views[0][0] : "";
  DEFAULTS.tab = views.length ? views[0][0] : "";
  worstTen();
  if (!rows.n) $("first").hidden = true;
  else strip.start();
  tabs();
  show();
  listeners.push((now, before) => {
    const only = (key) => now[key] !== before[key];
    if (only("step") || only("tab") || (now.tab === "list" && ["sort", "down", "op", "q", "only"].some(only))) show();
  });
  addEventListener("popstate", follow);
  addEventListener("hashchange", follow);
  addEventListener("keydown", onKey);
  dark.addEventListener("change", show);
  $("inside").replaceChildren(...data.inside.map((text) => el("li", {}, text)));
  $("hint").replaceChildren("Press ", el("kbd", {}, "?"), " for the keys. ", data.command ? el("span", {}, "Another step's arrays: ", el("code", {}, data.command.replace("{step}", "INVOCATION:STEP"))) : "");
  $("keys-table").replaceChildren(...KEYS.map(([key, words]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", {}, words))));
}

start();
