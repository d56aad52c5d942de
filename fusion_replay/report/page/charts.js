// Small charts: bars for counts, lines for errors on a logarithmic scale. Each says in words what it shows.
function bars(title, counts, labels, words, second) {
  const canvas = el("canvas", { role: "img", "aria-label": `${title}: ${words}` });
  const draw = () => {
    const width = canvas.clientWidth || 200, height = 84, foot = 14, context = sized(canvas, width, height);
    const most = Math.max(1, ...counts, ...(second || [])), each = width / counts.length;
    const tall = (n) => (n ? Math.max(2, Math.log1p(n) / Math.log1p(most) * (height - foot - 4)) : 0);
    if (second) { context.fillStyle = variable("--bar"); second.forEach((n, i) => context.fillRect(i * each, height - foot - tall(n), Math.max(1, each - 1), tall(n))); }
    context.fillStyle = second ? variable("--bar-bad") : variable("--bar");
    counts.forEach((n, i) => {
      if (second) context.fillRect(i * each, height - foot - tall(n), Math.max(1, each - 1), 2.5);
      else context.fillRect(i * each, height - foot - tall(n), Math.max(1, each - 1), tall(n));
    });
    context.fillStyle = variable("--soft");
    context.font = "10.5px system-ui, sans-serif";
    context.textBaseline = "alphabetic";
    let free = -1;
    labels.forEach((text, i) => {
      const wide = context.measureText(text).width, x = Math.min(width - wide, Math.max(0, i * each + (counts.length === labels.length ? each / 2 - wide / 2 : 0)));
      if (text && x > free) { context.fillText(text, x, height - 3); free = x + wide + 4; }
    });
  };
  canvas.addEventListener("pointermove", (event) => {
    const i = Math.floor((event.clientX - canvas.getBoundingClientRect().left) / canvas.clientWidth * counts.length);
    if (counts[i] !== undefined) showTip(`${labels.length === counts.length ? `${labels[i]}: ` : ""}${counts[i].toLocaleString("en")}${second ? ` actual, ${second[i].toLocaleString("en")} expected` : ""}`, event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", () => showTip(""));
  later(canvas, draw);
  return el("div", {}, el("h4", {}, title), canvas);
}

/** Draw once the canvas has a size, and again when that or the theme changes. */
function later(canvas, draw) {
  const watch = new ResizeObserver(() => canvas.isConnected && draw());
  watch.observe(canvas.tagName === "CANVAS" ? canvas : canvas);
  dark.addEventListener("change", () => canvas.isConnected && draw());
}

/** Lines over the number of a step; ``log``: the vertical axis. A series is {name, points: [[x, y]], colour, steps}. */
function lines(title, series, { log, height = 220, band, words, onPick }) {
  const canvas = el("canvas", { class: "wide", role: "img", "aria-label": `${title}: ${words}` });
  const all = series.flatMap((s) => s.points), finite = all.filter(([, y]) => Number.isFinite(y) && (!log || y > 0));
  const high = Math.max(1e-12, ...finite.map(([, y]) => y)), low = log ? Math.min(high / 10, ...finite.map(([, y]) => y)) : 0;
  const left = 54, foot = 18, far = Math.max(1, ...all.map(([x]) => x));
  const across = (x, width) => left + x / far * (width - left - 10);
  const up = (y) => {
    if (!Number.isFinite(y)) return 6;
    const t = log ? (Math.log(Math.max(y, low)) - Math.log(low)) / (Math.log(high) - Math.log(low) || 1) : y / high;
    return 6 + (1 - t) * (height - foot - 12);
  };
  const draw = () => {
    const width = canvas.clientWidth, context = sized(canvas, width, height);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    if (band && log) { context.fillStyle = variable("--line"); context.globalAlpha = 0.5; context.fillRect(left, up(band), width - left - 10, height - foot - up(band)); context.globalAlpha = 1; }
    for (let k = 0; k <= 4; k++) {
      const y = log ? low * (high / low) ** (k / 4) : high * k / 4;
      context.fillStyle = variable("--line"); context.fillRect(left, up(y), width - left - 10, 1);
      context.fillStyle = variable("--soft"); context.fillText(fig(+y.toPrecision(2)), 2, up(y));
    }
    context.fillText("0", left, height - 7); context.fillText(String(far), width - 10 - context.measureText(String(far)).width, height - 7);
    for (const { points, colour, steps, dots } of series) {
      context.strokeStyle = context.fillStyle = variable(colour);
      context.lineWidth = 2;
      context.beginPath();
      let before = null;
      for (const [x, y] of points) {
        const px = across(x, width), py = up(y);
        if (dots) { context.fillRect(px - 1.5, py - 1.5, 3, 3); continue; }
        if (before === null) context.moveTo(px, py); else { if (steps) context.lineTo(px, before); context.lineTo(px, py); }
        before = py;
      }
      context.stroke();
      if (!dots) for (const [x, y] of points) if (points.length < 60) context.fillRect(across(x, width) - 2.5, up(y) - 2.5, 5, 5);
    }
  };
  const nearest = (event) => {
    const box = canvas.getBoundingClientRect(), px = event.clientX - box.left;
    return all.reduce((best, p) => (Math.abs(across(p[0], box.width) - px) < Math.abs(across(best[0], box.width) - px) ? p : best), all[0]);
  };
  canvas.addEventListener("pointermove", (event) => { if (all.length) { const [x] = nearest(event); showTip(series.map((s) => { const p = s.points.find((q) => q[0] === x); return p ? `${s.name} ${fig(p[1])}` : ""; }).filter(Boolean).join(", ") + ` (${words.split(";")[0]}: ${x})`, event.clientX, event.clientY); } });
  canvas.addEventListener("pointerleave", () => showTip(""));
  if (onPick) canvas.addEventListener("click", (event) => all.length && onPick(nearest(event)[0]));
  later(canvas, draw);
  const key = el("p", { class: "soft" }, series.map((s) => { const b = el("span", {}, "■ "); b.style.color = `var(${s.colour})`; return el("span", {}, b, `${s.name}  `); }), band ? "grey: one honest rounding" : "");
  return el("div", {}, el("h3", {}, title), key, canvas);
}
