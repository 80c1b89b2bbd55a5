// Small pictures of the pairs. The value comes from show.strip.
const row = element.querySelector('.strip');

function load() {
  const value = props.value || {pairs: []};
  row.replaceChildren(...value.pairs.map((pair, index) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.pair = index;
    button.setAttribute('aria-label', `Pair ${index + 1}, ${pair.cas} of matches shared`);
    const image = document.createElement('img');
    image.src = pair.thumbnail;
    image.alt = '';
    const text = document.createElement('span');
    text.textContent = `${index + 1} · ${pair.cas}`;
    button.append(image, text);
    return button;
  }));
  mark(value.chosen || 0);
}

function mark(chosen) {
  for (const button of row.children) button.setAttribute('aria-pressed', String(Number(button.dataset.pair) === chosen));
}

row.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  mark(Number(button.dataset.pair));
  trigger('select', {pair: Number(button.dataset.pair)});
});

watch('value', load);
load();
