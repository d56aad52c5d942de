// Colours: one scale for magnitude, one around zero, marks that differ in shape too. Safe for the common colour blindnesses.
const dark = matchMedia("(prefers-color-scheme: dark)");
const CIVIDIS = [[0, 34, 78], [44, 62, 110], [86, 92, 108], [122, 120, 120], [164, 152, 116], [210, 188, 96], [254, 232, 56]];
const BLUE_ORANGE = { light: [[8, 60, 125], [86, 145, 200], [246, 246, 246], [236, 150, 70], [150, 60, 0]],
  dark: [[120, 185, 255], [50, 100, 165], [24, 28, 34], [190, 95, 25], [255, 165, 85]] };
const NEAR_LIMIT = { light: [[222, 230, 239], [150, 182, 214], [70, 120, 175], [20, 60, 115]], dark: [[40, 50, 63], [58, 90, 130], [95, 145, 205], [170, 210, 255]] };
const SPECIAL = { nan: [240, 60, 180] };
const MARKS = {
  M: { fill: "#d55e00", shape: "cross", ink: "#fff" }, d: { fill: "#d55e00", shape: "cross", ink: "#fff" },
  O: { fill: "#e69f00", shape: "dot", ink: "#000" }, i: { fill: "#e69f00", shape: "dot", ink: "#000" },
  F: { fill: "#000", shape: "hourglass", ink: "#fff" }, X: { fill: "#7b3294", shape: "bar", ink: "#fff" }, 1: { fill: "#7b3294", shape: "bar", ink: "#fff" },
  nan: { fill: "#f0e442", shape: "diamond", ink: "#000" }, clobbered: { fill: "#009e73", shape: "triangle", ink: "#000" },
};

function along(anchors, t) {
  const at = Math.max(0, Math.min(1, t)) * (anchors.length - 1), i = Math.min(Math.floor(at), anchors.length - 2), f = at - i;
  return anchors[i].map((a, k) => Math.round(a + (anchors[i + 1][k] - a) * f));
}
const theme = () => (dark.matches ? "dark" : "light");
const magnitude = (t) => along(CIVIDIS, t);
const around = (t) => along(BLUE_ORANGE[theme()], (t + 1) / 2);
const nearLimit = (t) => along(NEAR_LIMIT[theme()], t);
const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
const variable = (key) => getComputedStyle(document.documentElement).getPropertyValue(key).trim();

/** What is drawn over a cell so that nobody takes it for its neighbour, in colour or without. */
function drawMark(context, kind, x, y, size) {
  const mark = MARKS[kind];
  if (!mark) return;
  const half = size / 2, inner = half * 0.55;
  context.save();
  context.translate(x, y);
  context.fillStyle = mark.fill;
  context.strokeStyle = mark.ink;
  context.lineWidth = Math.max(1.2, size / 8);
  context.beginPath();
  if (mark.shape === "diamond") { context.moveTo(0, -half); context.lineTo(half, 0); context.lineTo(0, half); context.lineTo(-half, 0); context.closePath(); }
  else if (mark.shape === "triangle") { context.moveTo(0, -half); context.lineTo(half, half); context.lineTo(-half, half); context.closePath(); }
  else if (mark.shape === "dot") context.arc(0, 0, half, 0, 7);
  else context.rect(-half, -half, size, size);
  context.fill();
  context.beginPath();
  if (mark.shape === "cross") { context.moveTo(-inner, -inner); context.lineTo(inner, inner); context.moveTo(inner, -inner); context.lineTo(-inner, inner); context.stroke(); }
  else if (mark.shape === "hourglass") { context.moveTo(-inner, -inner); context.lineTo(inner, -inner); context.lineTo(-inner, inner); context.lineTo(inner, inner); context.closePath(); context.stroke(); }
  else if (mark.shape === "bar") { context.moveTo(-inner, 0); context.lineTo(inner, 0); context.stroke(); }
  else { context.lineWidth = 1; context.strokeStyle = mark.ink;
    if (mark.shape === "diamond") { context.moveTo(0, -half); context.lineTo(half, 0); context.lineTo(0, half); context.lineTo(-half, 0); context.closePath(); }
    else if (mark.shape === "triangle") { context.moveTo(0, -half); context.lineTo(half, half); context.lineTo(-half, half); context.closePath(); }
    else context.arc(0, 0, half * 0.4, 0, 7);
    context.stroke(); }
  context.restore();
}

/** A canvas's context in CSS pixels, as sharp as the screen. */
function sized(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
