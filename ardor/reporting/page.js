// What every page of ardor can do beyond text: dark mode, tables to sort, tooltips, enlarged examples. All is readable without.
'use strict';
(() => {
  const all = (css, of = document) => [...of.querySelectorAll(css)];
  const make = (tag, set = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), set);
    element.append(...children);
    return element;
  };

  // Dark mode: the system's until it is chosen here; kept for the next page where the browser keeps anything.
  const root = document.documentElement, theme = document.getElementById('theme');
  const system = matchMedia('(prefers-color-scheme: dark)');
  const store = (value) => {
    try {
      if (value) localStorage.setItem('ardor-theme', value);
      return localStorage.getItem('ardor-theme');
    } catch { return null; }
  };
  const dark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches);
  const label = () => { theme.textContent = dark() ? 'Light mode' : 'Dark mode'; };
  if (['dark', 'light'].includes(store())) root.dataset.theme = store();
  theme.hidden = false;
  theme.addEventListener('click', () => {
    root.dataset.theme = dark() ? 'light' : 'dark';
    store(root.dataset.theme);
    label();
  });
  system.addEventListener('change', label);
  label();

  // Tables to sort: a button in each head, the direction in aria-sort. The rows of one net (tbody) stay together.
  const valueOf = (part, column) => {
    const text = (part.rows ? part.rows[0] : part).cells[column].textContent.trim().replace(/^best /, '');
    const number = /^[-+−]?\d[\d,]*(\.\d+)?/.exec(text);
    return number ? Number(number[0].replace('−', '-').replaceAll(',', '')) : text.toLowerCase();
  };
  // Numbers before texts, such as a dash for what was not measured, in either direction.
  const order = (a, b, up) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1) : typeof a === 'number' ? -1 : 1);
  for (const table of all('table.sortable')) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = make('button', { type: 'button', className: 'sort' });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener('click', () => {
        const parts = [...(table.tBodies.length > 1 ? table.tBodies : table.tBodies[0].rows)];
        const now = head.getAttribute('aria-sort'), parent = parts[0].parentElement;
        const numbers = parts.some((part) => typeof valueOf(part, column) === 'number');
        const up = now ? now === 'descending' : !numbers; // the highest figure first, names from a to z
        heads.forEach((other) => other.removeAttribute('aria-sort'));
        head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
        parts.sort((a, b) => order(valueOf(a, column), valueOf(b, column), up));
        parent.append(...parts);
      });
    });
  }

  // Tooltips: by pointer, touch, or keys; of a table one cell is in the order of Tab, arrows go to the others.
  const tip = make('div', { id: 'tip', role: 'tooltip', hidden: true });
  document.body.append(tip);
  let shown = null;
  const show = (target) => {
    if (shown !== target) hide();
    shown = target;
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    if (target.matches('td')) target.setAttribute('aria-describedby', 'tip');
    const box = target.getBoundingClientRect(), own = tip.getBoundingClientRect(), edge = root.clientWidth - own.width - 8;
    const below = box.top < own.height + 8;
    tip.style.left = `${Math.max(8, Math.min(edge, box.left + box.width / 2 - own.width / 2)) + scrollX}px`;
    tip.style.top = `${(below ? box.bottom : box.top - own.height) + scrollY}px`;
  };
  const hide = () => {
    shown?.removeAttribute('aria-describedby');
    shown = null;
    tip.hidden = true;
  };
  const tipped = (event) => (event.target.closest ? event.target.closest('[data-tip]') : null);
  document.addEventListener('pointerover', (event) => {
    if (tipped(event)) show(tipped(event));
    else if (shown && shown !== document.activeElement && !tip.contains(event.target)) hide();
  });
  document.addEventListener('click', (event) => { if (tipped(event)) show(tipped(event)); });
  document.addEventListener('focusin', (event) => { if (tipped(event)) show(tipped(event)); else hide(); });
  document.addEventListener('focusout', hide);
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') hide(); });
  for (const table of all('table')) {
    const cells = () => all('td[data-tip]', table).filter((cell) => cell.offsetParent);
    const only = (cell) => all('td[data-tip]', table).forEach((other) => { other.tabIndex = other === cell ? 0 : -1; });
    only(cells()[0]);
    table.addEventListener('focusin', (event) => { if (event.target.matches('td[data-tip]')) only(event.target); });
    table.addEventListener('keydown', (event) => {
      const move = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (!move || !event.target.matches('td[data-tip]')) return;
      const rows = all('tbody tr', table).filter((row) => row.offsetParent && row.querySelector('td[data-tip]'));
      const row = rows[rows.indexOf(event.target.parentElement) + move[1]];
      const next = row?.cells[event.target.cellIndex + move[0]];
      event.preventDefault();
      if (next?.dataset.tip) next.focus();
    });
  }

  // Examples, enlarged in a dialog; left and right go to the others.
  const examples = all('figure.example');
  if (examples.length && window.HTMLDialogElement) {
    const title = make('h2', { id: 'zoomed' }), stage = make('div', { className: 'stage' });
    const button = (text, act) => {
      const element = make('button', { type: 'button' }, text);
      element.addEventListener('click', act);
      return element;
    };
    let at = 0;
    const turn = (to) => {
      at = (to + examples.length) % examples.length;
      title.textContent = `Example ${at + 1} of ${examples.length}`;
      stage.replaceChildren(...[...examples[at].children].filter((part) => part.tagName === 'DIV').map((part) => part.cloneNode(true)));
    };
    const dialog = make('dialog', { className: 'zoom' }, make('div', { className: 'row' }, title,
      button('Previous', () => turn(at - 1)), button('Next', () => turn(at + 1)), button('Close', () => dialog.close())), stage);
    dialog.setAttribute('aria-labelledby', 'zoomed');
    dialog.addEventListener('keydown', (event) => {
      if (event.key === 'ArrowLeft') turn(at - 1);
      if (event.key === 'ArrowRight') turn(at + 1);
    });
    dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); }); // beside it
    document.body.append(dialog);
    examples.forEach((figure, k) => {
      const open = () => { turn(k); dialog.showModal(); };
      const enlarge = button('Enlarge', open);
      enlarge.setAttribute('aria-label', `Enlarge example ${k + 1}`);
      figure.append(enlarge);
      all('img', figure).forEach((image) => image.addEventListener('click', open));
    });
  }
})();
