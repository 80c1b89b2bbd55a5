// Where both models look for a patch of the target. The value comes from show.look; all else happens here, so that a
// click is answered at once.
const part = (selector) => element.querySelector(selector);
const canvas = (name) => part(`canvas[data-view="${name}"]`);
const input = (name) => part(`[data-input="${name}"]`);
const SIDE = 480;
let value = null, views = [], maps = null, patch = 0;

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const picture = (address) => new Promise((done) => {
  const image = new Image();
  image.onload = () => done(image);
  image.src = address;
});

async function load() {
  if (!props.value || !props.value.maps) { part('.look').hidden = true; return; }
  const next = props.value;
  const loaded = await Promise.all(next.views.map(picture));
  value = next; views = loaded;
  maps = {};
  for (const [name, map] of Object.entries(value.maps)) {
    maps[name] = {
      heat: map.heat.map(bytes),
      top: map.top.map((text) => new Uint16Array(bytes(text).buffer)),
    };
  }
  part('.look').hidden = false;
  part('.look-ask').textContent = `Pair ${value.pair + 1}: click a point in the target, or move with the arrow keys, `
    + 'and see where each model looks for it in the source.';
  value.names.forEach((name, index) => { part(`[data-name="${index}"]`).textContent = `where ${name} looks`; });
  input('row').max = value.rows;
  input('column').max = value.columns;
  part('.look-key-truth').hidden = !value.truth.some((match) => match >= 0);
  choose(value.patch);
}

const chosenMaps = () => maps[input('centred').checked ? 'centred' : 'raw'];
const topOf = (model, index) => chosenMaps().top[model].subarray(index * value.k, (index + 1) * value.k);
const sharedAt = (index) => {
  const first = new Set(topOf(0, index));
  return Array.from(topOf(1, index)).filter((each) => first.has(each));
};

function box(index) {
  const width = SIDE / value.columns, height = SIDE / value.rows;
  return [(index % value.columns) * width, Math.floor(index / value.columns) * height, width, height];
}

function outline(context, index, colour, thick) {
  const [x, y, width, height] = box(index);
  const inset = thick / 2 + 1.5;
  context.strokeStyle = 'rgba(255,255,255,.95)';
  context.lineWidth = thick + 3;
  context.strokeRect(x + inset, y + inset, width - 2 * inset, height - 2 * inset);
  context.strokeStyle = colour;
  context.lineWidth = thick;
  context.strokeRect(x + inset, y + inset, width - 2 * inset, height - 2 * inset);
}

function dot(context, index, colour, radius) {
  const [x, y, width, height] = box(index);
  context.beginPath();
  context.arc(x + width / 2, y + height / 2, radius, 0, 7);
  context.fillStyle = colour;
  context.fill();
  context.strokeStyle = 'white';
  context.lineWidth = 1.5;
  context.stroke();
}

function diamond(context, index) {
  const [x, y, width, height] = box(index);
  const size = Math.min(9, width / 3);
  context.save();
  context.translate(x + width / 2, y + height / 2);
  context.rotate(Math.PI / 4);
  context.lineWidth = 4;
  context.strokeStyle = 'black';
  context.strokeRect(-size, -size, 2 * size, 2 * size);
  context.lineWidth = 2;
  context.strokeStyle = '#fde047';
  context.strokeRect(-size, -size, 2 * size, 2 * size);
  context.restore();
}

// A grid of values from 0 to 1 as light of one colour over a dimmed view.
function glow(context, view, values, colour, smooth) {
  context.save();
  context.filter = 'grayscale(65%) brightness(65%)';
  context.drawImage(view, 0, 0, SIDE, SIDE);
  context.restore();
  const small = document.createElement('canvas');
  small.width = value.columns; small.height = value.rows;
  const pixels = new ImageData(value.columns, value.rows);
  const [red, green, blue] = rgb(colour);
  values.forEach((each, index) => pixels.data.set([red, green, blue, 255 * each], 4 * index));
  small.getContext('2d').putImageData(pixels, 0, 0);
  context.save();
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = 'high';
  context.globalCompositeOperation = 'screen';
  context.drawImage(small, 0, 0, SIDE, SIDE);
  context.restore();
}

function draw() {
  const target = canvas('target').getContext('2d');
  target.drawImage(views[0], 0, 0, SIDE, SIDE);
  outline(target, patch, '#111827', 4);
  const agreement = canvas('agreement').getContext('2d');
  const shares = Array.from({length: value.rows * value.columns}, (_, index) => sharedAt(index).length / value.k);
  glow(agreement, views[0], shares.map((share) => 0.85 * share), value.colours[2], false);
  outline(agreement, patch, '#111827', 2);
  const shared = new Set(sharedAt(patch)), match = value.truth[patch];
  [0, 1].forEach((model) => {
    const context = canvas(model).getContext('2d');
    const start = patch * value.rows * value.columns;
    const heat = Array.from(chosenMaps().heat[model].subarray(start, start + value.rows * value.columns));
    glow(context, views[1], heat.map((each) => (each / 255) ** 3.5), value.colours[model], true);
    for (const index of topOf(model, patch)) {
      if (shared.has(index)) {
        outline(context, index, value.colours[2], 4);
        dot(context, index, value.colours[2], 5);
      } else outline(context, index, value.colours[model], 3);
    }
    if (match >= 0) diamond(context, match);
  });
  describe(shared.size, match, shares);
}

function describe(shared, match, shares) {
  const row = Math.floor(patch / value.columns) + 1, column = patch % value.columns + 1;
  let answer = `Row ${row}, column ${column}: A and B share ${shared} of their ${value.k} strongest matches.`;
  if (match >= 0) {
    const has = [0, 1].map((model) => topOf(model, patch).includes(match));
    answer += has[0] && has[1] ? ' Both have the true match (◇) among them.'
      : has[0] ? ' Only A has the true match (◇) among them.'
      : has[1] ? ' Only B has the true match (◇) among them.' : ' Neither has the true match (◇) among them.';
  } else if (value.truth.some((each) => each >= 0)) answer += ' The source does not show this patch.';
  part('.look-answer').textContent = answer;
  const mean = shares.reduce((sum, each) => sum + each, 0) / shares.length;
  canvas('target').setAttribute('aria-label', `Target view, ${value.rows} by ${value.columns} patches. Row ${row}, `
    + `column ${column} is chosen; arrow keys choose another.`);
  canvas('agreement').setAttribute('aria-label', `Map of agreement over the target, ${Math.round(100 * mean)}% on `
    + 'average.');
  [0, 1].forEach((model) => canvas(model).setAttribute('aria-label', `Source view with where `
    + `${'AB'[model]} looks: most strongly at ${Array.from(topOf(model, patch)).map((index) =>
      `row ${Math.floor(index / value.columns) + 1} column ${index % value.columns + 1}`).join(', ')}.`));
}

function choose(index) {
  patch = index;
  input('row').value = Math.floor(patch / value.columns) + 1;
  input('column').value = patch % value.columns + 1;
  draw();
}

function at(event) {
  const frame = event.currentTarget.getBoundingClientRect();
  const column = Math.floor((event.clientX - frame.left) / frame.width * value.columns);
  const row = Math.floor((event.clientY - frame.top) / frame.height * value.rows);
  const inside = (number, count) => Math.max(0, Math.min(count - 1, number));
  choose(inside(row, value.rows) * value.columns + inside(column, value.columns));
}

for (const name of ['target', 'agreement']) {
  canvas(name).addEventListener('pointerdown', at);
  canvas(name).addEventListener('pointermove', (event) => { if (event.buttons) at(event); });
}
canvas('target').addEventListener('keydown', (event) => {
  const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
  if (!step || !value) return;
  event.preventDefault();
  const row = Math.floor(patch / value.columns) + step[0], column = patch % value.columns + step[1];
  if (row >= 0 && row < value.rows && column >= 0 && column < value.columns) choose(row * value.columns + column);
});
for (const name of ['row', 'column']) {
  input(name).addEventListener('change', () => {
    const inside = (number, count) => Math.max(1, Math.min(count, Math.round(number) || 1));
    const row = inside(Number(input('row').value), value.rows);
    choose((row - 1) * value.columns + inside(Number(input('column').value), value.columns) - 1);
  });
}
input('centred').addEventListener('change', () => choose(patch));

watch('value', load);
load();
