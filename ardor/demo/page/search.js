// The worst perturbation found of an image against a net that gives no gradient: random search as in Square
// (Andriushchenko et al., ECCV 2020). Every pixel moves by eps, up or down; a square of them is set anew, at first large,
// later a single pixel, and what makes the net surer of another class is kept.

const QUERIES = 1000;

// How far the best other class is ahead of `label`: positive where the net is fooled.
function margin(logits, label) {
  let other = -Infinity;
  logits.forEach((z, k) => { if (k !== label && z > other) other = z; });
  return other - logits[label];
}

function largest(values) {
  return values.indexOf(Math.max(...values));
}

// image + scale * change, inside [0, 1]. Float32Array, as everything that a net sees.
function moved(image, change, scale) {
  return image.map((v, k) => Math.max(0, Math.min(1, v + scale * change[k])));
}

// run(images) -> a promise of logits, one list each. Returns the change (64 values, at most eps) or null if told to stop.
async function search(run, image, label, eps, goesOn) {
  const random = randomOf(image), side = 8;
  let signs = new Float32Array(64);
  const stripe = Array.from({ length: side }, () => random() < 0.5 ? -eps : eps);
  signs = signs.map((_, k) => stripe[k % side]);
  let best = margin((await run([moved(image, signs, 1)]))[0], label);
  for (let k = 0; k < QUERIES; k++) {
    const size = Math.max(1, Math.round(4 * (1 - k / QUERIES) ** 2));
    const row = Math.floor(random() * (side + 1 - size)), column = Math.floor(random() * (side + 1 - size));
    const value = random() < 0.5 ? -eps : eps, next = signs.slice();
    for (let i = 0; i < size * size; i++) next[(row + Math.floor(i / size)) * side + column + i % size] = value;
    const found = margin((await run([moved(image, next, 1)]))[0], label);
    if (found > best) [best, signs] = [found, next];
    if (k % 50 === 49 && !await goesOn(k + 1)) return null;
  }
  const worst = moved(image, signs, 1);
  return worst.map((v, k) => v - image[k]);
}

// Random numbers that depend on the image alone (mulberry32), so that a drawing always meets the same search.
function randomOf(image) {
  let state = 2166136261;
  for (const v of image) state = Math.imul(state ^ Math.round(v * 16), 16777619);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
