// The scores of models two by two, with a button for each score. The value comes from show.matrix.
const table = element.querySelector('table');
const PALE = [226, 240, 238], DARK = [17, 94, 89];

function make(kind, text, parent) {
  const made = document.createElement(kind);
  made.textContent = text;
  parent.append(made);
  return made;
}

function load() {
  const value = props.value;
  table.replaceChildren();
  if (!value) return;
  element.querySelector('p').textContent = value.caption;
  const head = make('tr', '', make('thead', '', table));
  make('td', '', head);
  value.models.forEach((name) => { make('th', name, head).scope = 'col'; });
  const body = make('tbody', '', table);
  value.models.forEach((first, i) => {
    const line = make('tr', '', body);
    make('th', first, line).scope = 'row';
    value.models.forEach((second, j) => {
      const cell = make('td', '', line);
      if (i === j) return;
      const share = Math.max(0, Math.min(1, (value.scores[i][j] - value.chance) / (value.highest - value.chance)));
      const button = make('button', value.scores[i][j].toFixed(2), cell);
      button.type = 'button';
      button.dataset.cell = JSON.stringify([i, j]);
      button.style.background = `rgb(${PALE.map((pale, at) => Math.round(pale + share * (DARK[at] - pale)))})`;
      button.style.color = share > 0.45 ? 'white' : '#0f172a';
      button.setAttribute('aria-label', `${first} and ${second}: ${value.scores[i][j].toFixed(3)}. Open this pair.`);
    });
  });
}

table.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) trigger('select', {cell: JSON.parse(button.dataset.cell)});
});

watch('value', load);
load();
