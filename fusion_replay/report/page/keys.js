// Everything by keyboard; ? lists the keys.
const KEYS = [
  ["j, k", "next, previous step of the list (as it is filtered and sorted)"], ["n, p", "next, previous mismatch; without any, of the worst ten"], ["/", "find a step"],
  ["1 to 9", "views, in the order of the tabs"], ["g", "back to the step that the sentence is about"], ["arrows", "in the strip: steps and invocations; in a map: the cursor"], ["[, ]", "narrow, widen the limits"], ["Esc", "leave the search, close this"], ["?", "these keys"],
];

function walk(order, by) {
  if (!order.length) return;
  const here = order.indexOf(rows.at.get(state.step));
  const next = here < 0 ? (by > 0 ? 0 : order.length - 1) : (here + by + order.length) % order.length;
  go({ step: address(order[next]) });
}

function nextBad(by) {
  const bad = [...badRows];
  walk(bad.length ? bad : data.worst.map(([where]) => rows.at.get(where)), by);
}

function onKey(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "range";
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const tab = views[Number(event.key) - 1];
  const done = {
    j: () => walk([...list.inOrder()], 1), k: () => walk([...list.inOrder()], -1), n: () => nextBad(1), p: () => nextBad(-1),
    g: () => go({ step: data.headline.address, tab: "step" }), "?": () => $("keys").showModal(),
    "/": () => { go({ tab: "list" }); $("search").focus(); },
    "[": () => nudge(-1), "]": () => nudge(1),
  }[event.key];
  if (!done && !tab) return;
  event.preventDefault();
  if (done) done();
  else go({ tab: tab[0] });
}

function nudge(by) {
  const range = document.querySelector(".slider input");
  if (!range) return;
  range.value = Number(range.value) + by;
  range.dispatchEvent(new Event("input"));
}
