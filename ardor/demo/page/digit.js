// A drawing as the digits were made (NIST's preprocessing, scikit-learn's description): slant removed, stretched into a
// box 22 wide and 32 high, drawn with one pen into 32x32 pixels, and counted in blocks of 4x4: 64 values from 0 to 16.

const GRID = 32, BOX = 22, STRETCH = 2, SLANT = 0.6;
const INK = 313; // pixels of the 1024 that a digit of the data covers on average, a 1 as much as an 8

// strokes: lists of [x, y], in any unit. Returns 64 whole numbers, row by row, or null where nothing is drawn.
function reduced(strokes) {
  const lines = upright(strokes.filter((stroke) => stroke.length));
  if (!lines.length) return null;
  let thin = 0.5, thick = 8, bitmap = null;
  for (let k = 0; k < 9; k++) { // the pen that gives this much ink; thicker lines leave less room for the box
    const pen = (thin + thick) / 2;
    bitmap = drawn(fitted(lines, pen), pen);
    if (bitmap.reduce((sum, on) => sum + on, 0) > INK) thick = pen; else thin = pen;
  }
  return counted(bitmap);
}

// 32x32 pixels of 0 and 1, row by row, to how many are on in each block of 4x4.
function counted(bitmap) {
  const counts = new Array(64).fill(0);
  bitmap.forEach((on, k) => { counts[(k >> 7) * 8 + ((k & 31) >> 2)] += on; });
  return counts;
}

// Strokes without their slant: the shear after which x and y do not vary together.
function upright(strokes) {
  const step = extent(strokes.flat()) / 100, points = strokes.flatMap((stroke) => evenly(stroke, step));
  if (!points.length) return [];
  const mean = [0, 1].map((k) => points.reduce((sum, p) => sum + p[k], 0) / points.length);
  let xy = 0, yy = 0;
  for (const [x, y] of points) {
    xy += (x - mean[0]) * (y - mean[1]);
    yy += (y - mean[1]) ** 2;
  }
  const shear = Math.max(-SLANT, Math.min(SLANT, xy / yy || 0));
  return strokes.map((stroke) => stroke.map(([x, y]) => [x - shear * (y - mean[1]), y]));
}

// The longer side of what the points cover.
function extent(points) {
  return Math.max(0, ...[0, 1].map((k) => Math.max(...points.map((p) => p[k])) - Math.min(...points.map((p) => p[k]))));
}

// Points along a stroke at even distances, so that a slow hand does not count for more.
function evenly(stroke, step) {
  const points = [stroke[0]];
  for (let k = 1; k < stroke.length; k++) {
    const [[a, b], [c, d]] = [stroke[k - 1], stroke[k]];
    const n = Math.ceil(Math.hypot(c - a, d - b) / step) || 0;
    for (let i = 1; i <= n; i++) points.push([a + (c - a) * i / n, b + (d - b) * i / n]);
  }
  return points;
}

// The strokes in the box, so that a pen of this radius stays inside; one side is stretched at most twice as much.
function fitted(strokes, pen) {
  const all = strokes.flat(), [xs, ys] = [0, 1].map((k) => all.map((p) => p[k]));
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const wide = (BOX - 2 * pen) / Math.max(right - left, 1e-6), high = (GRID - 2 * pen) / Math.max(bottom - top, 1e-6);
  const sx = Math.min(wide, STRETCH * high), sy = Math.min(high, STRETCH * wide);
  const at = (x, y) => [(x - (left + right) / 2) * sx + GRID / 2, (y - (top + bottom) / 2) * sy + GRID / 2];
  return strokes.map((stroke) => stroke.map(([x, y]) => at(x, y)));
}

// 32x32 pixels of 0 and 1: on where the middle of the pixel is within the pen's radius of a line.
function drawn(strokes, pen) {
  const bitmap = new Uint8Array(GRID * GRID);
  for (const stroke of strokes) {
    for (let k = 0; k < stroke.length; k++) paint(bitmap, stroke[Math.max(k - 1, 0)], stroke[k], pen);
  }
  return bitmap;
}

function paint(bitmap, [a, b], [c, d], pen) {
  const [low, high] = [(u, v) => Math.max(0, Math.floor(Math.min(u, v) - pen)), (u, v) => Math.min(GRID, Math.ceil(Math.max(u, v) + pen))];
  const length = (c - a) ** 2 + (d - b) ** 2;
  for (let row = low(b, d); row < high(b, d); row++) {
    for (let column = low(a, c); column < high(a, c); column++) {
      const [x, y] = [column + 0.5 - a, row + 0.5 - b];
      const t = length ? Math.max(0, Math.min(1, (x * (c - a) + y * (d - b)) / length)) : 0;
      if ((x - t * (c - a)) ** 2 + (y - t * (d - b)) ** 2 <= pen * pen) bitmap[row * GRID + column] = 1;
    }
  }
}
