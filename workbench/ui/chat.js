// Buttons of the chat pane: what each one does here, or what the server is told. Loaded by each HTML component.
const exact = (place) => (place.dataset.exact ? JSON.parse(place.dataset.exact) : place.textContent);
const held = (name) => element.querySelector(name);
const edit = (place, value, label, act, id, rows) => {
  if (place.querySelector('form')) return;
  const form = document.createElement('form');
  const field = document.createElement(rows ? 'textarea' : 'input');
  const save = document.createElement('button');
  const cancel = document.createElement('button');
  form.className = 'chat-editor';
  field.value = value;
  const shown = field.value;  // a text field has no carriage return: what was not changed is sent as it was
  field.setAttribute('aria-label', label);
  if (rows) field.rows = rows;
  save.textContent = act === 'ask' ? 'Ask again' : 'Save';
  cancel.textContent = 'Cancel';
  cancel.type = 'button';
  const opener = document.activeElement;
  const close = () => { form.remove(); place.classList.remove('editing'); opener?.focus(); };
  cancel.addEventListener('click', close);
  form.addEventListener('keydown', (e) => {
    if (e.key === 'Escape') { e.stopPropagation(); close(); }
    if (e.key === 'Enter' && e.ctrlKey) form.requestSubmit();
  });
  form.addEventListener('submit', (e) => {
    e.preventDefault();
    trigger('click', { act, id, text: field.value === shown ? value : field.value });
  });
  const row = document.createElement('div');
  row.className = 'chat-acts';
  row.append(save, cancel);
  form.append(field, row);
  place.classList.add('editing');
  place.append(form);
  field.focus();
};
element.addEventListener('click', (e) => {
  const button = e.target.closest('[data-act]');
  if (!button || button.disabled) return;
  const place = button.closest('[data-id]');
  const id = place ? place.dataset.id : '';
  const act = button.dataset.act;
  if (act === 'edit') {
    const text = exact(place.querySelector('.chat-text'));
    const asked = place.classList.contains('user');
    const rows = Math.min(12, text.split('\n').length + 1);
    edit(place, text, asked ? 'Edited question' : 'Edited answer', asked ? 'ask' : 'answer', id, rows);
  } else if (act === 'rename') {
    edit(element.firstElementChild ?? element, exact(held('.chat-name')), 'Name of the conversation', act, '', 0);
  } else if (act === 'copy') {
    navigator.clipboard.writeText(exact(place.querySelector('.chat-text')));
    button.textContent = 'Copied';
  } else if (button.dataset.sure && button.textContent !== button.dataset.sure) {
    const before = button.textContent;
    button.textContent = button.dataset.sure;
    button.addEventListener('blur', () => { button.textContent = before; }, { once: true });
  } else if (act === 'markdown' || act === 'jsonl') {
    trigger('select', { act });
  } else {
    trigger('click', { act, id });
  }
});

// The newest text stays in view, unless the person has scrolled up.
const scroller = element.closest('#chat-scroll');
if (scroller && !scroller.dataset.ready) {
  scroller.dataset.ready = 'yes';
  scroller.tabIndex = 0;
  scroller.setAttribute('role', 'region');
  scroller.setAttribute('aria-label', 'Conversation');
  let follow = true;
  let put = 0; // where the text was put last: above it the person has scrolled, though no event has told yet
  const near = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
  scroller.addEventListener('scroll', () => { follow = near(); });
  new MutationObserver(() => {
    if (scroller.scrollTop < put && !near()) follow = false;
    if (!follow) return;
    scroller.scrollTop = scroller.scrollHeight;
    put = scroller.scrollTop;
  }).observe(scroller, { childList: true, subtree: true, characterData: true });
}

// Escape stops the answer.
const pane = element.closest('#chat-pane');
if (pane && !pane.dataset.ready) {
  pane.dataset.ready = 'yes';
  document.addEventListener('keydown', (e) => {
    if (e.key !== 'Escape' || !pane.offsetParent) return;
    if (pane.contains(document.activeElement) || document.activeElement === document.body) {
      document.querySelector('#chat-stop:not(:disabled)')?.click();
    }
  });
}
