// The page: what is drawn or picked, the two nets on onnxruntime, the slider.

const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($('data').textContent);
const STEP = 0.005, PEN = 46, PAUSE = 350; // of the slider; pixels of the pad; milliseconds without a stroke before a search
const state = { strokes: [], image: null, digit: null, found: null, clean: null, mapped: false, version: 0 };
const cards = [...document.querySelectorAll('.net')];
let sessions = [], ready = null, turn = Promise.resolve(), wait = 0;

// An address, good in this page only, of a file that stands in it.
async function blob(id, type) {
  const packed = new Blob([fromBase64($(id).textContent)]).stream();
  const whole = await new Response(packed.pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();
  return URL.createObjectURL(new Blob([whole], { type }));
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

async function begin() {
  const [mjs, wasm] = await Promise.all([blob('glue', 'text/javascript'), blob('wasm', 'application/wasm')]);
  ort.env.logLevel = 'error';
  ort.env.wasm.numThreads = 1; // a page from a file may not share memory between threads
  ort.env.wasm.wasmPaths = { mjs, wasm }; // wasmBinary would do, but that glue then asks for an address beside its own
  for (const net of DATA.nets) sessions.push(await ort.InferenceSession.create(fromBase64(net.onnx)));
  [mjs, wasm].forEach((url) => URL.revokeObjectURL(url));
}

// Images (64 values each) to logits, one list each; one call at a time, for a session takes no more.
function run(net, images) {
  const call = async () => {
    const all = new Float32Array(images.length * 64);
    images.forEach((image, k) => all.set(image, 64 * k));
    const out = await sessions[net].run({ images: new ort.Tensor('float32', all, [images.length, 1, 8, 8]) });
    const values = Array.from(out.logits.data), classes = values.length / images.length;
    return images.map((_, k) => values.slice(k * classes, (k + 1) * classes));
  };
  const answer = turn.then(call);
  turn = answer.catch(() => {});
  return answer;
}

// A new image: read at once; the search waits until the hand rests.
function take(image, digit) {
  Object.assign(state, { image, digit, found: null, clean: null, mapped: false, version: state.version + 1 });
  clearTimeout(wait);
  if (digit) state.found = digit.worst.map((worst) => Float32Array.from(worst, (v, k) => v - image[k]));
  else if (image) wait = setTimeout(() => attempt(hunt), PAUSE);
  document.querySelectorAll('.pick').forEach((button, k) => button.setAttribute('aria-pressed', String(DATA.digits[k] === digit)));
  say($('source'), digit ? `showing a ${digit.label} of the test set` : image ? 'your drawing' : '');
  say($('progress'), digit ? 'The worst perturbation of this digit was found with gradients when this page was made.' : '');
  showStrips(null);
  show();
}

async function hunt() {
  await ready; // a hand may be faster than the nets
  const { version, image } = state;
  const tries = cards.map(() => 0);
  const clean = await Promise.all(cards.map(async (_, net) => (await run(net, [image]))[0]));
  const found = await Promise.all(cards.map((_, net) => search((images) => run(net, images), image, largest(clean[net]), DATA.eps, async (done) => {
    tries[net] = done;
    say($('progress'), `Looking for the worst perturbation: ${Math.min(...tries)} of ${QUERIES.toLocaleString('en')} tries against each net.`);
    await new Promise((next) => setTimeout(next));
    return version === state.version;
  })));
  if (version !== state.version) return;
  state.found = found;
  say($('progress'), `The worst of ${QUERIES.toLocaleString('en')} tries against each net, made just now in your browser. Push the slider.`);
  show();
}

// Everything that hangs on the image and the slider. What is overtaken while it computes is dropped.
function show() {
  const amount = Number($('slider').value);
  say($('amount'), amount.toFixed(3).replace(/0$/, ''));
  $('slider').setAttribute('aria-valuetext', `${amount} of the way from white to black`);
  document.querySelectorAll('.now').forEach((line) => { line.style.left = `${100 * amount / DATA.far}%`; });
  if (sessions.length === cards.length) attempt(() => shown(amount));
}

let latest = 0;

async function shown(amount) {
  const mine = ++latest, { image, found, version } = state;
  if (!image) return cards.forEach(blank);
  const seen = cards.map((_, net) => found ? moved(image, found[net], amount / DATA.eps) : image);
  const clean = state.clean || await Promise.all(cards.map(async (_, net) => (await run(net, [image]))[0]));
  const logits = await Promise.all(cards.map(async (_, net) => (await run(net, [seen[net]]))[0]));
  if (mine !== latest || version !== state.version) return;
  cards.forEach((card, net) => fill(card, seen[net], logits[net], largest(clean[net]), found && amount > 0));
  state.clean = clean;
  if (found && !state.mapped) attempt(() => strips(image, found, clean, version));
  $('numbers').textContent = JSON.stringify({
    searched: Boolean(found), perturbation: found ? amount : 0, untouched: short(image),
    nets: cards.map((_, net) => ({ title: DATA.nets[net].title, image: short(seen[net]), logits: short(logits[net]), untouched_logits: short(clean[net]) })),
  });
}

const short = (values) => Array.from(values, (v) => Number(v.toPrecision(8)));

function fill(card, image, logits, before, touched) {
  const top = largest(logits), shares = softmax(logits);
  grey(card.querySelector('.sees'), image);
  card.classList.toggle('holds', touched && top === before);
  card.classList.toggle('fooled', touched && top !== before);
  say(card.querySelector('.answer'), String(top));
  say(card.querySelector('.judged'), !touched ? 'is what it reads' : top === before ? `✓ still reads ${before}` : `✗ fooled: it read ${before}`);
  card.querySelectorAll('.bars li').forEach((row, k) => {
    row.classList.toggle('largest', k === top);
    row.classList.toggle('was', k === before);
    row.querySelector('.share').style.width = `${100 * shares[k]}%`;
    row.querySelector('.percent').textContent = `${(100 * shares[k]).toFixed(0)} %`;
  });
}

function blank(card) {
  card.classList.remove('holds', 'fooled');
  grey(card.querySelector('.sees'), new Float32Array(64));
  say(card.querySelector('.answer'), '–');
  say(card.querySelector('.judged'), '');
  card.querySelectorAll('.bars li').forEach((row) => {
    row.classList.remove('largest', 'was');
    row.querySelector('.share').style.width = '0';
    row.querySelector('.percent').textContent = '–';
  });
}

// For every place of the slider whether each net still gives its answer, as a strip of green and red.
async function strips(image, found, clean, version) {
  const places = Array.from({ length: Math.round(DATA.far / STEP) + 1 }, (_, k) => k * STEP);
  const same = await Promise.all(cards.map(async (_, net) => {
    const answers = await run(net, places.map((s) => moved(image, found[net], s / DATA.eps)));
    return answers.map((logits) => largest(logits) === largest(clean[net]));
  }));
  if (version !== state.version) return;
  state.mapped = true;
  showStrips(same, places);
}

function showStrips(same, places) {
  cards.forEach((_, net) => {
    const [ground, words] = ['.ground', '.until'].map((part) => $('strips').children[net].querySelector(part));
    const first = same ? same[net].indexOf(false) : -1;
    say(words, !same ? '' : first < 0 ? `holds up to ${DATA.far}` : `fooled from ${places[first].toFixed(3).replace(/0$/, '')} on`);
    const width = same ? 100 / (same[net].length - 1) : 0;
    ground.style.backgroundImage = same ? `linear-gradient(90deg, ${same[net].map((good, k) => `var(--${good ? 'good' : 'fooled'}) ${(k - 0.5) * width}% ${(k + 0.5) * width}%`).join(', ')})` : 'none';
  });
}

function strip(net) {
  const box = document.createElement('div');
  box.className = 'strip';
  box.append(...[['b', '', net.title], ['span', 'until', ''], ['span', 'ground', '']].map(([tag, name, text]) => {
    const part = document.createElement(tag);
    part.className = name;
    part.textContent = text;
    return part;
  }));
  const now = document.createElement('span');
  now.className = 'now';
  box.lastChild.append(now);
  return box;
}

function softmax(logits) {
  const top = Math.max(...logits), e = logits.map((z) => Math.exp(z - top)), sum = e.reduce((a, b) => a + b);
  return e.map((v) => v / sum);
}

// Ink is dark: 0 is white, 1 is black.
function grey(canvas, image) {
  const context = canvas.getContext('2d'), pixels = context.createImageData(8, 8);
  image.forEach((v, k) => pixels.data.set([255 * (1 - v), 255 * (1 - v), 255 * (1 - v), 255], 4 * k));
  context.putImageData(pixels, 0, 0);
}

// A text is only set anew where it changed: a screen reader says what is set.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function attempt(work) {
  Promise.resolve().then(work).catch((error) => say($('progress'), `This browser cannot go on: ${error.message || error}`));
}

// The pad.
const pad = $('pad'), ink = pad.getContext('2d');

function wipe() {
  ink.fillStyle = '#fff';
  ink.fillRect(0, 0, pad.width, pad.height);
}

function at(event) {
  const box = pad.getBoundingClientRect(), scale = pad.width / pad.clientWidth;
  return [(event.clientX - box.left - pad.clientLeft) * scale, (event.clientY - box.top - pad.clientTop) * scale];
}

function stroke([a, b], [c, d]) {
  Object.assign(ink, { strokeStyle: '#1d2329', lineWidth: PEN, lineCap: 'round', lineJoin: 'round' });
  ink.beginPath();
  ink.moveTo(a, b);
  ink.lineTo(c, d);
  ink.stroke();
}

function look() {
  const counts = reduced(state.strokes);
  take(counts && Float32Array.from(counts, (n) => n / 16), null);
}

function clear() {
  state.strokes = [];
  wipe();
  take(null, null);
}

pad.addEventListener('pointerdown', (event) => {
  if (!event.isPrimary || event.button) return;
  event.preventDefault();
  if (state.digit) clear();
  if (!state.strokes.length) $('slider').value = 0; // first one sees how both read it
  pad.setPointerCapture(event.pointerId);
  const point = at(event);
  state.strokes.push([point]);
  stroke(point, point);
  look();
});
pad.addEventListener('pointermove', (event) => {
  if (!event.isPrimary || !pad.hasPointerCapture(event.pointerId)) return;
  const line = state.strokes.at(-1), moves = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  for (const point of (moves.length ? moves : [event]).map(at)) {
    if (Math.hypot(point[0] - line.at(-1)[0], point[1] - line.at(-1)[1]) < 4) continue;
    stroke(line.at(-1), point);
    line.push(point);
  }
  look();
});
$('clear').addEventListener('click', clear);
$('slider').addEventListener('input', show);

function pick(digit) {
  state.strokes = [];
  wipe();
  const small = document.createElement('canvas');
  small.width = small.height = 8;
  grey(small, digit.image);
  ink.imageSmoothingEnabled = false;
  ink.drawImage(small, 0, 0, pad.width, pad.height);
  take(Float32Array.from(digit.image), digit);
}

document.querySelectorAll('.pick').forEach((button, k) => {
  grey(button.firstElementChild, DATA.digits[k].image);
  button.addEventListener('click', () => pick(DATA.digits[k]));
});
$('strips').append(...DATA.nets.map(strip));
$('slider').value = DATA.eps; // a browser may bring back where it stood
wipe();
attempt(async () => {
  ready = begin();
  await ready;
  if (state.image || !DATA.digits.length) show();
  else pick(DATA.digits[DATA.first]);
  say($('progress'), $('progress').textContent.replace(/^Starting.*/, ''));
});
