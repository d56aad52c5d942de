// Arrays of the page: base64 in script elements, raw deflate, inflated by the browser itself when they are first looked at.
const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array };
const NO_INFLATE = "This browser has no DecompressionStream for raw deflate (Chromium 103, Firefox 113 and Safari 16.4 have it): maps are left out, everything else is here.";
const canInflate = (() => {
  try { return Boolean(new DecompressionStream("deflate-raw")); } catch { return false; }
})();
const parsed = new Promise((resolve) => {
  if (document.readyState !== "loading") resolve();
  else document.addEventListener("DOMContentLoaded", () => resolve(), { once: true });
});
const inflated = new Map();

function inflate(chunk) {
  if (!inflated.has(chunk.at)) inflated.set(chunk.at, unpack(chunk));
  return inflated.get(chunk.at);
}

async function unpack(chunk) {
  await parsed;
  const text = atob($(`a${chunk.at}`).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new KINDS[chunk.form](await new Response(stream).arrayBuffer());
}

const FORMATS = { bfloat16: [16, 8], float16: [16, 5], float32: [32, 8], float64: [32, 8] };
const word = new DataView(new ArrayBuffer(4));

/** The value that some bits are. */
function valueOf(bits, dtype) {
  if (dtype === "bfloat16") { word.setUint32(0, bits << 16); return word.getFloat32(0); }
  if (dtype === "float32" || dtype === "float64") { word.setUint32(0, bits); return word.getFloat32(0); }
  if (dtype === "float16") {
    const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, rest = bits & 1023;
    return exponent === 31 ? (rest ? NaN : sign * Infinity) : exponent ? sign * 2 ** (exponent - 15) * (1 + rest / 1024) : sign * rest * 2 ** -24;
  }
  return bits;
}

function valuesOf(bits, dtype) {
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = valueOf(bits[i], dtype);
  return out;
}

/** Sign, exponent and fraction; bits that differ from the other side's are marked. */
function bitsText(bits, other, dtype) {
  const [width, exponent] = FORMATS[dtype] || [32, 0];
  const spelled = el("span", { class: "bits mono" });
  const text = (bits >>> 0).toString(2).padStart(width, "0").slice(-width);
  const against = (other >>> 0).toString(2).padStart(width, "0").slice(-width);
  for (let i = 0; i < width; i++) {
    if (exponent && (i === 1 || i === 1 + exponent)) spelled.append(" ");
    spelled.append(text[i] === against[i] ? text[i] : el("i", {}, text[i]));
  }
  return spelled;
}
